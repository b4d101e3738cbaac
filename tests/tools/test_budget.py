from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.budget import figures, main, nesting, percentile_90
from tools.sources import Figure, load_sources


def measure(root: Path, files: dict[str, str]) -> dict[str, Figure]:
    """The figures of a tree that holds these files, by name."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return {figure.name: figure for figure in figures(root)}


GOOD = '''"""A module."""


def half(value: float) -> float:
    """Half of ``value``."""
    return value / 2
'''


def test_good_source_breaks_no_rule(tmp_path):
    measured = measure(tmp_path, {"flexgym/__init__.py": "", "flexgym/half.py": GOOD})
    assert [name for name, figure in measured.items() if not figure.held] == []
    assert measured["lines of a file, max"].value == 7
    assert measured["lines of a function, max"].value == 3


def test_percentile_by_hand():
    assert percentile_90([]) == 0
    assert percentile_90([5]) == 5
    assert percentile_90(range(1, 11)) == 10
    assert percentile_90(range(1, 21)) == 19


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        ("def f(a: int, b: int, c: int, d: int) -> None: ...", "positional parameters, max", 4),
        ("def f(a: int, b: int, c: int, *, d: int) -> None: ...", "positional parameters, max", 3),
        ("class A:\n    def f(self, a: int, b: int, c: int) -> None: ...", "positional parameters, max", 3),
        ("class A:\n    @override(B)\n    def f(self, a: int, b: int, c: int, d: int) -> None: ...",
         "positional parameters, max", 0),
        ("def f(*, a: int, b: int, c: int, d: int, e: int, g: int, h: int, i: int, j: int) -> None: ...",
         "parameters, max", 9),
        ("def f(a, b: int) -> None: ...", "parameters annotated, %", 50),
        ("def f(a: int): ...", "returns annotated, %", 0),
        ("def f() -> None: ...\ndef _g() -> None: ...", "public functions documented, %", 0),
        ("class A: ...", "classes documented, %", 0),
        ("x = 1", "modules documented, %", 0),
        ("print('x')", "print in the library", 1),
        ("try:\n    x = 1\nexcept:\n    x = 2", "except that catches all", 1),
        ("try:\n    x = 1\nexcept (KeyError, Exception):\n    x = 2", "except that catches all", 1),
        ("try:\n    x = 1\nexcept BaseException:\n    x = 2\n    raise", "except that catches all", 0),
        ("try:\n    x = 1\nexcept KeyError:\n    x = 2", "except that catches all", 0),
        ("def f() -> None:\n" + "    x = 1\n" * 100, "lines of a function, max", 101),
        ("x = 1\n" * 600, "lines of a file, max", 601),
    ],
)  # fmt: skip
def test_each_rule(tmp_path, body, name, value):
    assert measure(tmp_path, {"flexgym/a.py": body})[name].value == value


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        ("x = 1", 0),
        ("if a:\n  for b in c:\n    with d:\n      x = 1", 3),
        ("if a:\n  x = 1\nelif b:\n  x = 2\nelif c:\n  x = 3", 3),
        ("for a in b:\n  def f() -> None:\n    if a:\n      x = 1", 1),
        ("x = [a for a in b if a]", 0),
    ],
)
def test_nesting_by_hand(tmp_path, body, depth):
    (tmp_path / "flexgym").mkdir()
    (tmp_path / "flexgym" / "a.py").write_text(body)
    assert nesting(load_sources(tmp_path)[0].tree) == depth


def test_duplication_counts_windows_of_ten_lines(tmp_path):
    lines = [f"x{number} = {number}" for number in range(10)]
    indented = ["if y:", *(f"    {line}  " for line in lines), "", "    # a comment"]
    figure = measure(tmp_path, {"flexgym/a.py": "\n".join(lines), "envs/b.py": "\n".join(indented)})
    # a.py has one window, b.py two; the one they share occurs twice.
    assert figure["duplicated lines, %"].value == pytest.approx(100 * 2 / 3)
    assert figure["duplicated lines, %"].offenders == ("flexgym/a.py:1 = envs/b.py:2",)


def test_import_cycle_names_its_steps(tmp_path):
    files = {
        "flexgym/__init__.py": "",
        "flexgym/a.py": "from flexgym import b",
        "flexgym/b.py": "x = 1\nfrom flexgym.c import y",
        "flexgym/c.py": "from . import a\ny = 2",
    }
    figure = measure(tmp_path, files)["import cycles"]
    assert figure.value == 1
    assert sorted(figure.offenders) == [
        "flexgym/a.py:1 flexgym.a -> flexgym.b",
        "flexgym/b.py:2 flexgym.b -> flexgym.c",
        "flexgym/c.py:1 flexgym.c -> flexgym.a",
    ]


@pytest.mark.parametrize(
    "late",
    [
        "def f() -> None:\n    from flexgym import a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from flexgym import a",
    ],
)
def test_import_inside_a_function_or_for_types_is_no_cycle(tmp_path, late):
    files = {"flexgym/__init__.py": "", "flexgym/a.py": "from flexgym import b", "flexgym/b.py": late}
    assert measure(tmp_path, files)["import cycles"].held


def test_package_that_gathers_its_modules_is_no_cycle(tmp_path):
    files = {"flexgym/flow/__init__.py": "from .a import x\nfrom .b import x", "flexgym/flow/a.py": "x = 1"}
    files["flexgym/flow/b.py"] = "from flexgym.flow import a\nfrom flexgym.flow.a import x"
    assert measure(tmp_path, files)["import cycles"].held
    files["flexgym/flow/b.py"] = "from flexgym.flow import x"
    assert not measure(tmp_path, files)["import cycles"].held


def test_layers(tmp_path):
    files = {
        "flexgym/a.py": "def f() -> None:\n    import envs.spaces\nfrom rewards import base",
        "envs/b.py": "import flexgym.a\nimport rewards",
        "rewards/c.py": "from flexgym import a\nimport rewarding",
        "agents/d.py": "import envs, rewards, flexgym, ray",
    }
    figure = measure(tmp_path, files)["imports that point upwards"]
    assert figure.offenders == ("flexgym/a.py:2 envs.spaces", "flexgym/a.py:3 rewards.base", "envs/b.py:2 rewards")


def test_ray_has_its_homes(tmp_path):
    line = "def f() -> None:\n    from ray.rllib import core"
    measured = measure(tmp_path, {f"flexgym/{name}.py": line for name in ("rllib/a", "rm/b", "flow/c")})
    assert measured["ray outside rllib and rm"].offenders == ("flexgym/flow/c.py:2 ray.rllib.core",)


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("import os\nX = os.environ['X']", 1),
        ("import os\nclass A:\n    x = os.getenv('X')", 1),
        ("import os\ndef f(x: str = os.environ['X']) -> None: ...", 1),
        ("import os\ndef f() -> str:\n    return os.environ['X']", 0),
        ("import os\nf = lambda: os.environ['X']", 0),
        ("import os\nif __name__ == '__main__':\n    os.environ['X'] = '1'", 0),
    ],
)
def test_environment_read_at_import(tmp_path, body, count):
    assert measure(tmp_path, {"rewards/a.py": body})["environment read at import"].value == count


def test_report_names_the_offender_and_fails(tmp_path, capsys):
    measure(tmp_path, {"flexgym/a.py": GOOD + "print(half(1))\n"})
    assert main([str(tmp_path)]) == 1
    assert "print in the library:\n  flexgym/a.py:7" in capsys.readouterr().out
    measure(tmp_path, {"flexgym/a.py": GOOD})
    assert main([str(tmp_path)]) == 0


def test_broken_source_is_named(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "a.py").write_text("def f(:\n")
    with pytest.raises(SyntaxError, match="a.py"):
        load_sources(tmp_path)


def test_command_line_measures_this_project():
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-m", "tools.budget"], cwd=root, capture_output=True, text=True)
    assert "lines of a file, p90" in result.stdout
