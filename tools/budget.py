"""Sizes of the code against their limits: ``python -m tools.budget [root]``.

Own code counts, tests do not. Every figure is read from the syntax tree and nothing is imported. The places behind a
broken limit are listed as ``file:line``. Parameters, complexity, annotations, missing docstrings and ``print`` are
rules of ruff in ``pyproject.toml``; `tools.imports` measures the import graph.
"""

from __future__ import annotations

import ast
import collections
import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tools.docstrings import empty_docstrings
from tools.limits import BUDGET
from tools.members import Classes
from tools.report import Figure, report
from tools.sources import LIBRARY, Function, Source, functions, load_sources

WINDOW = 10
"""Lines that must agree before they count as duplicated."""
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
UNTYPED = ("dict[str, Any]", "Mapping[str, Any]", "MutableMapping[str, Any]")
ENVIRONMENT = ("os.environ", "os.getenv", "environ", "getenv")

Sizes = Sequence[tuple[str, int]]
"""Place and size of each measured thing."""


def percentile_90(sizes: Sequence[int]) -> int:
    """Return the value that nine of ten sizes do not exceed; 0 without any."""
    ordered = sorted(sizes)
    return ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))] if ordered else 0


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Return the deepest block under ``node``, without nested functions and classes; each ``elif`` adds a level."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, SCOPES):
            deepest = max(deepest, nesting(child, depth + isinstance(child, BLOCKS)))
    return deepest


def _largest(name: str, sizes: Sizes) -> Figure:
    return _sized(name, sizes, max((size for _, size in sizes), default=0))


def _tail(name: str, sizes: Sizes) -> Figure:
    return _sized(name, sizes, percentile_90([size for _, size in sizes]))


def _sized(name: str, sizes: Sizes, value: int) -> Figure:
    limit = BUDGET[name]
    return Figure(name, value, limit, tuple(f"{place} ({size})" for place, size in sizes if size > limit))


def size_figures(sources: Sequence[Source]) -> list[Figure]:
    """Measure files, functions and classes."""
    files = [(source.place(1), source.lines) for source in sources]

    def measured(size: Callable[[Function], int]) -> Sizes:
        return [(f"{source.place(node.lineno)} {node.name}", size(node)) for source, node in functions(sources)]

    lengths = measured(lambda node: (node.end_lineno or node.lineno) - node.lineno + 1)
    return [
        _tail("lines of a file, p90", files),
        _largest("lines of a file, max", files),
        _tail("lines of a function, p90", lengths),
        _largest("lines of a function, max", lengths),
        _largest("nesting, max", measured(nesting)),
        _largest("members of a class over its bases, max", Classes(sources).sizes()),
    ]


def documentation_figures(sources: Sequence[Source]) -> list[Figure]:
    """Measure the share of modules with a docstring, and count docstrings that say nothing."""
    bodies = [source for source in sources if source.tree.body]
    missing = tuple(source.place(1) for source in bodies if ast.get_docstring(source.tree) is None)
    share = 100.0 * (1.0 - len(missing) / len(bodies)) if bodies else 100.0
    empty = tuple(f"{found.place} {found.phrase!r}" for source in sources for found in empty_docstrings(source))
    return [
        Figure("modules documented, %", share, BUDGET["modules documented, %"], missing, floor=True),
        Figure("empty docstrings", len(empty), BUDGET["empty docstrings"], empty),
    ]


def duplication_figure(sources: Sequence[Source]) -> Figure:
    """Measure the share of windows of `WINDOW` lines that occur more than once.

    Lines are compared without indentation, blank lines and comments.
    """
    windows: dict[bytes, list[str]] = collections.defaultdict(list)
    for source in sources:
        lines = [(number, re.sub(r"\s+", " ", text.strip())) for number, text in enumerate(source.text.splitlines(), 1)]
        code = [(number, text) for number, text in lines if text and not text.startswith("#")]
        for start in range(len(code) - WINDOW + 1):
            block = "\n".join(text for _, text in code[start : start + WINDOW])
            windows[hashlib.sha256(block.encode()).digest()].append(source.place(code[start][0]))
    total = sum(len(places) for places in windows.values())
    repeated = [places for places in windows.values() if len(places) > 1]
    value = 100.0 * sum(len(places) for places in repeated) / total if total else 0.0
    name = "duplicated lines, %"
    return Figure(name, value, BUDGET[name], tuple(" = ".join(places) for places in repeated))


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run when a module is imported: no bodies of functions, no code that runs as a script."""
    skipped: Sequence[ast.AST] = ()
    if isinstance(node, ast.Lambda):
        skipped = [node.body]
    elif isinstance(node, Function):
        skipped = node.body  # defaults and decorators do run
    elif isinstance(node, ast.If) and ast.unparse(node.test).startswith("__name__ =="):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from _at_import(child)


def environment_figure(sources: Sequence[Source]) -> Figure:
    """Count the places that touch environment variables while their module is imported."""
    found = tuple(
        source.place(node.lineno)
        for source in sources
        for node in _at_import(source.tree)
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node) in ENVIRONMENT
    )
    name = "environment read at import"
    return Figure(name, len(found), BUDGET[name], found)


def reported_figures(sources: Sequence[Source], tests: Sequence[Source]) -> list[Figure]:
    """Measure what has no limit: untyped mappings and keyword arguments, and the size of the tests."""
    nodes = [node for source in sources for node in ast.walk(source.tree)]
    mappings = sum(isinstance(node, ast.Subscript) and ast.unparse(node) in UNTYPED for node in nodes)
    keywords = [node.kwarg for node in nodes if isinstance(node, ast.arguments) and node.kwarg]
    untyped = sum(each.annotation is not None and ast.unparse(each.annotation) == "Any" for each in keywords)
    library = sum(source.lines for source in sources if source.package in LIBRARY)
    ratio = sum(source.lines for source in tests) / library if library else 0.0
    return [
        Figure("dict[str, Any] and Mapping[str, Any]", mappings),
        Figure("**kwargs: Any", untyped),
        Figure("lines of tests per line of source", ratio),
    ]


def figures(root: Path) -> list[Figure]:
    """Measure the tree under ``root``, which holds the packages.

    Returns:
        One `Figure` per rule, in the order of the table.

    Raises:
        SyntaxError: a file is not valid Python.
    """
    sources = load_sources(root)
    return [
        *size_figures(sources),
        duplication_figure(sources),
        *documentation_figures(sources),
        environment_figure(sources),
        *reported_figures(sources, load_sources(root, ["tests"])),
    ]


def main(arguments: Sequence[str]) -> int:
    """Print the report on the tree named first, the current folder by default; return 1 if a limit is broken."""
    measured = figures(Path(arguments[0] if arguments else "."))
    print(report(measured))
    return int(any(not figure.held for figure in measured))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
