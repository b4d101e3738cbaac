"""The packages of a release: what is in them, and how the wheel lives beside other packages."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from tools.release import ROOT, expected_files, release_problems, wheel_problems


def environment() -> dict[str, str]:
    """The variables of this process without those that lead to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def files_of(package: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in package.rglob("*.py*")
        if "__pycache__" not in path.parts
    }


def wheel_of(path: Path, names: set[str], metadata: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
        archive.writestr("flexgym-0.1.0.dist-info/METADATA", metadata)
    return path


METADATA = """\
Metadata-Version: 2.4
Name: flexgym
Version: 0.1.0
Summary: Trains generators
Requires-Python: >=3.11
Provides-Extra: ocr
Requires-Dist: flexgym[ocr]; extra == "ocr"

FlexGym
"""


def test_what_is_wrong_with_a_wheel_is_named(tmp_path):
    names = expected_files()
    assert {"flexgym/configs/grpo_shapes_t2i.yaml", "agents/grpo.py", "flexgym/judge/templates/image.txt"} <= names
    assert "agents/__init__.py" not in names
    assert wheel_problems(wheel_of(tmp_path / "a.whl", names, METADATA)) == []
    other = (names - {"agents/grpo.py"}) | {"agents/__init__.py", "rewards/__init__.py"}
    lines = METADATA.replace("Requires-Python: >=3.11\n", "").replace("flexgym[ocr]", "flexgym[orc]")
    assert wheel_problems(wheel_of(tmp_path / "b.whl", other, lines)) == [
        "b.whl: lacks agents/grpo.py",
        "b.whl: rewards/__init__.py: expected files of flexgym, and launchers",
        "b.whl: agents/__init__.py belongs to other packages",
        "b.whl: no such extra: orc",
        "b.whl: no requires_python",
    ]


def test_version_changelog_and_citation_must_agree():
    found = release_problems("9.8.7", tagged=False)
    assert "CHANGELOG.md: expected the heading '## [9.8.7] - YYYY-MM-DD' below [Unreleased]" in found
    assert "CITATION.cff: expected the line 'version: 9.8.7'" in found


@pytest.mark.slow  # builds, installs and trains
def test_the_wheel_trains_beside_openai_agents_whichever_comes_first(tmp_path):
    place = tmp_path / "venv"
    python, elsewhere = str(place / "bin/python"), {"cwd": tmp_path, "env": environment()}
    subprocess.run([ROOT / ".ci/wheel_environment", place], check=True)
    wheel = next((place / "dist").glob("*.whl"))

    def works(*words: str) -> str:
        done = subprocess.run([python, *words], **elsewhere, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def both_work() -> None:
        assert "algorithm" in works("-m", "agents.grpo", "training.lr=1e-4", "--print-config")
        works("-c", "from agents import Agent; import agents.run; assert Agent(name='one').name == 'one'")

    site = Path(works("-c", "import flexgym; print(flexgym.__path__[0])").strip()).parent
    assert site.is_relative_to(place)
    assert len(works(str(place / "bin/flexgym"), "recipes").splitlines()) > 50
    assert works("-m", "agents.pref_grpo", "run.iterations=2", "run.name=first").count("iteration 2/2")
    assert (tmp_path / "runs/first/checkpoints/iteration_000002").is_dir()

    install = subprocess.run([python, "-m", "pip", "install", "--quiet", "openai-agents"], **elsewhere)
    assert install.returncode == 0, "openai-agents could not be installed: is there a network?"
    shared = site / "agents"
    theirs = {
        path: digest for path, digest in files_of(shared).items() if "flexgym.agents" not in Path(path).read_text()
    }
    assert str(shared / "__init__.py") in theirs
    both_work()
    works("-m", "pip", "uninstall", "--quiet", "--yes", "flexgym")
    assert files_of(shared) == theirs
    works("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", str(wheel))
    assert {path: digest for path, digest in files_of(shared).items() if path in theirs} == theirs
    both_work()
