from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.budget import figures, main, nesting, percentile_90
from tools.report import Figure
from tools.sources import load_sources

ROOT = Path(__file__).resolve().parents[2]


def measure(root: Path, files: dict[str, str]) -> dict[str, Figure]:
    """The figures of a tree that holds these files, by name."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return {figure.name: figure for figure in figures(root)}


GOOD = '''"""A module that halves numbers."""


def half(value: float) -> float:
    """Return half of a value."""
    return value / 2
'''
MEMBERS = "members of a class over its bases, max"


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
        ("x = 1", "modules documented, %", 0),
        ("def f() -> None:\n" + "    x = 1\n" * 100, "lines of a function, max", 101),
        ("x = 1\n" * 600, "lines of a file, max", 601),
        ("def f():\n    'Return one of them.'\n    'Not this.'", "empty docstrings", 0),
        ("def f():\n    'As set.'", "empty docstrings", 1),
        ("def f():\n    'Of all parts together, the sum.'", "empty docstrings", 1),
        ("class A:\n    'See `flexgym.algorithm.rollout.collect`.'", "empty docstrings", 1),
        ("x: dict[str, Any] = {}\ndef f(y: Mapping[str, Any] | None) -> None: ...",
         "dict[str, Any] and Mapping[str, Any]", 2),
        ("def f(**options: Any) -> None: ...\ndef g(**options: int) -> None: ...", "**kwargs: Any", 1),
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


def test_members_of_a_class_by_hand(tmp_path):
    body = """
class A:
    kind: str
    limit = 3

    def __init__(self) -> None:
        self.size = 1
        other.place = 2

    @property
    def width(self) -> int:
        self.size += 1
        self.cells[0] = 1
        return self.size
"""
    assert measure(tmp_path, {"flexgym/a.py": body})[MEMBERS].value == 4  # kind, limit, size, width


def test_members_are_counted_over_the_bases_of_the_project(tmp_path):
    def methods(first: str, count: int) -> str:
        return "".join(f"    def {first}{number}(self) -> None: ...\n" for number in range(count))

    files = {
        "flexgym/parts/__init__.py": "from flexgym.parts.base import Base as Part",
        "flexgym/parts/base.py": f"import torch\nclass Base(torch.nn.Module):\n{methods('a', 20)}",
        "flexgym/b.py": f"from .parts import Part\nclass Middle(Part[int]):\n{methods('b', 15)}{methods('a', 5)}",
        "envs/c.py": f"from flexgym import b\nfrom flexgym.parts import base as ground\n"
        f"class Last(b.Middle, ground.Base):\n{methods('c', 35)}",
    }
    figure = measure(tmp_path, files)[MEMBERS]
    assert figure.value == 20 + 15 + 35
    assert figure.offenders == ("envs/c.py:3 Last (70)",)


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


def test_size_of_the_tests_is_reported(tmp_path):
    files = {"flexgym/a.py": "x = 1\n" * 9, "tools/b.py": "x = 1\n" * 99, "tests/flow/test_a.py": "x = 1\n" * 4}
    figure = measure(tmp_path, files)["lines of tests per line of source"]
    assert figure.value == 5 / 10
    assert figure.limit is None
    assert figure.held


def test_report_names_the_offender_and_fails(tmp_path, capsys):
    measure(tmp_path, {"flexgym/a.py": GOOD + "def f() -> None:\n    '''As set.'''\n"})
    assert main([str(tmp_path)]) == 1
    assert "empty docstrings:\n  flexgym/a.py:8 'As set.'" in capsys.readouterr().out
    measure(tmp_path, {"flexgym/a.py": GOOD})
    assert main([str(tmp_path)]) == 0


def test_broken_source_is_named(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "a.py").write_text("def f(:\n")
    with pytest.raises(SyntaxError, match="a.py"):
        load_sources(tmp_path)


@pytest.mark.slow
def test_command_line_measures_this_project():
    result = subprocess.run([sys.executable, "-m", "tools.budget"], cwd=ROOT, capture_output=True, text=True)
    assert "lines of a file, p90" in result.stdout


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("def f(a: int, b: int, c: int, d: int) -> None: ...", "PLR0917"),
        ("class A:\n    def f(self, a: int, b: int, c: int, d: int) -> None: ...", "PLR0917"),
        ("def f(*, a: int, b: int, c: int, d: int, e: int, g: int, h: int, i: int, j: int) -> None: ...", "PLR0913"),
        ("def f(a, b: int) -> None: ...", "ANN001"),
        ("def f(a: int): ...", "ANN201"),
        ("def f() -> None: ...", "D103"),
        ("class A: ...", "D101"),
        ("print('x')", "T201"),
        ("try:\n    x = 1\nexcept:\n    x = 2", "E722"),
        ("try:\n    x = 1\nexcept (KeyError, Exception):\n    x = 2", "BLE001"),
    ],
)
def test_ruff_refuses_what_the_budget_does_not_measure(body, rule):
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--stdin-filename",
        "flexgym/a.py",
        "--output-format",
        "json",
        "-",
    ]
    result = subprocess.run(command, cwd=ROOT, input=body, capture_output=True, text=True)
    assert f'"{rule}"' in result.stdout


@pytest.mark.parametrize(
    "body",
    [
        "def f(a: int, b: int, c: int, *, d: int) -> None:\n    '''Return one of them.'''\n",
        "try:\n    x = 1\nexcept BaseException:\n    x = 2\n    raise\n",
        "try:\n    x = 1\nexcept KeyError:\n    x = 2\n",
    ],
)
def test_ruff_accepts_what_the_rules_allow(body):
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--stdin-filename",
        "flexgym/a.py",
        "--output-format",
        "json",
        "-",
    ]
    result = subprocess.run(command, cwd=ROOT, input=body, capture_output=True, text=True)
    assert not any(f'"{rule}' in result.stdout for rule in ("PLR", "BLE", "E7")), result.stdout
