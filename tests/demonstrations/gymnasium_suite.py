"""Gymnasium's own test files for environments and vector environments, on FlexGym's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PLACES = {"testing_env": ".", "testing_utils": "vector", "spaces_utils": "spaces", "test_envs": "envs"}


def suite(folder: Path) -> Path:
    """Copy the files to where they import each other from."""
    for file in (HERE / "gymnasium_suite").glob("*.py"):
        target = folder / "tests" / PLACES.get(file.stem, "vector") / file.name.removeprefix("spaces_")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    shutil.copy(HERE / "suite_environments.py", folder / "conftest.py")
    return folder


def run(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *arguments]
    paths = os.pathsep.join([str(folder), str(HERE.parents[1])])
    settings = {**os.environ, "FLEXGYM_ID": name, "PYTHONPATH": paths}
    return subprocess.run(words, cwd=folder, env=settings, capture_output=True, text=True, timeout=600)


VECTORS = "seed or partial or action_count"
"""Those of the tests of vectors that make environments by name; the others bring their own."""


@pytest.mark.parametrize("name", ["FlexT2I-v0", "FlexT2V-v0", "FlexT2IControl-v0", "FlexT2VControl-v0"])
def test_gymnasiums_tests_pass(tmp_path, name):
    done = run(suite(tmp_path), name, "-k", f"test_envs or {VECTORS}", "tests")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout


def test_the_files_are_those_of_the_installed_version():
    assert version("gymnasium") in (HERE / "gymnasium_suite" / "README.md").read_text("utf-8")
