from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from tools.imports import cycle_figure, level_figure, longest_chain, room
from tools.limits import IMPORTS

ROOT = Path(__file__).resolve().parents[2]


def graph(*edges: str) -> grimp.ImportGraph:
    """A graph of ``"importer > imported"``."""
    made = grimp.ImportGraph()
    for edge in edges:
        importer, imported = edge.split(" > ")
        made.add_import(importer=importer, imported=imported)
    return made


def project(root: Path, files: dict[str, str]) -> None:
    """Write a project with the contracts and the packages of this one, which import nothing but what is given."""
    packages = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]
    parts = [path.with_suffix("") for path in (ROOT / "flexgym").iterdir() if path.suffix == ".py" or path.is_dir()]
    empty = [str(path.relative_to(ROOT) / "__init__.py") for path in (*packages, *parts) if path.stem[0] not in "_."]
    for name, text in {**dict.fromkeys(empty, ""), "flexgym/agents/tuning.py": "import ray", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (root / "pyproject.toml").write_text("[tool.importlinter]" + settings.partition("[tool.importlinter]")[2])


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("flexgym", "flexgym"),
        ("flexgym.types", "flexgym.types"),
        ("flexgym.flow.loss", "flexgym.flow"),
        ("flexgym.data.convert", "flexgym.data"),
        ("research.judge.make", "research"),
    ],
)
def test_rooms(module, name):
    assert room(module) == name


def test_levels_follow_the_longest_chain_of_packages():
    made = graph(
        "flexgym.agents.grpo > flexgym.rllib.config",
        "flexgym.agents.grpo > flexgym.core.errors",
        "flexgym.rllib.config > flexgym.rllib.learner",
        "flexgym.rllib.learner > flexgym.types",
        "flexgym.types > flexgym.core.errors",
        "flexgym.envs.t2i > flexgym.core.errors",
    )
    assert longest_chain(made) == ("flexgym.core", "flexgym.types", "flexgym.rllib", "flexgym.agents")
    assert level_figure(made).value == 4


def test_packages_that_import_each_other_count_one_level_each():
    made = graph(
        "flexgym.judge.a > flexgym.shapes.b",
        "flexgym.shapes.c > flexgym.judge.d",
        "flexgym.judge.a > flexgym.core.errors",
        "flexgym.envs.a > flexgym.shapes.b",
    )
    assert longest_chain(made) == ("flexgym.core", "flexgym.judge", "flexgym.shapes", "flexgym.envs")


def test_more_levels_than_allowed_break_the_rule():
    made = graph(*(f"flexgym.a{number + 1} > flexgym.a{number}" for number in range(IMPORTS["import levels"])))
    assert level_figure(made).value == IMPORTS["import levels"] + 1
    assert not level_figure(made).held


def test_every_module_of_a_cycle_is_named():
    made = graph("flexgym.a > flexgym.b", "flexgym.b > flexgym.c", "flexgym.c > flexgym.a", "flexgym.d > flexgym.a")
    figure = cycle_figure(made)
    assert figure.value == 3
    assert figure.offenders == ("flexgym.a -> flexgym.b", "flexgym.b -> flexgym.c", "flexgym.c -> flexgym.a")


def test_a_package_and_its_own_module_can_make_a_cycle():
    assert cycle_figure(graph("flexgym.flow > flexgym.flow.a", "flexgym.flow.a > flexgym.flow")).value == 2
    assert cycle_figure(graph("flexgym.flow > flexgym.flow.a", "flexgym.flow.a > flexgym.flow.b")).held


def test_contracts_hold_for_imports_that_point_downwards(tmp_path):
    files = {
        "flexgym/rllib/a.py": "import ray2\nfrom flexgym.core import b",
        "flexgym/core/b.py": "",
        "flexgym/envs/a.py": "from flexgym.algorithm.policy import x",
        "flexgym/agents/a.py": "import flexgym.envs.a, flexgym.rewards, flexgym.rllib.a",
        "research/a.py": "import flexgym.rm",
    }
    project(tmp_path, files)
    result = lint(tmp_path)
    assert result.returncode == 0, result.stdout


LATE = [
    "from {0} import {1}\n",
    "def f() -> None:\n    from {0} import {1}\n",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {0} import {1}\n",
]


every_import = pytest.mark.parametrize("text", LATE, ids=["at import", "in a function", "for types"])


@every_import
def test_cycles_count_every_import(tmp_path, monkeypatch, text):
    package = f"cyclic_{LATE.index(text)}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / package / "a.py").write_text(text.format(package, "b"))
    (tmp_path / package / "b.py").write_text(f"from {package}.a import x\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert cycle_figure(grimp.build_graph(package, cache_dir=None)).value == 2


@every_import
def test_contracts_count_every_import(tmp_path, text):
    files = {
        "flexgym/rllib/a.py": text.format("flexgym.agents", "b"),
        "flexgym/agents/b.py": "",
        "flexgym/judge/c.py": text.format("flexgym.shapes", "d"),
        "flexgym/shapes/d.py": "",
        "flexgym/runs/g.py": text.format("ray", "rllib"),
        "flexgym/envs/h.py": text.format("flexgym.rllib", "i"),
        "flexgym/rllib/i.py": "import ray",
        "flexgym/rm/j.py": text.format("research", "k"),
        "research/k.py": "",
    }
    project(tmp_path, files)
    result = lint(tmp_path)
    assert result.returncode == 1
    for line in (
        "flexgym.rllib.a -> flexgym.agents.b",
        "flexgym.judge.c -> flexgym.shapes.d",
        "flexgym.runs.g -> ray",
        "flexgym.envs.h -> flexgym.rllib.i",
        "flexgym.rm.j -> research.k",
    ):
        assert line in result.stdout, result.stdout


def test_a_new_part_of_flexgym_needs_a_layer(tmp_path):
    project(tmp_path, {"flexgym/stray/__init__.py": ""})
    result = lint(tmp_path)
    assert result.returncode == 1
    assert "stray" in result.stdout
