"""The budget of the code: ``python -m tools.budget [root]`` measures it and fails where a figure is over its limit.

Only own code counts (the packages of `LIBRARY` and ``tools``), tests are left out. Every figure is read from the syntax
tree, nothing is imported. One table is printed; under it ``file:line`` of everything behind a figure over its limit.
"""

from __future__ import annotations

import ast
import collections
import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.imports import import_figures
from tools.sources import LIBRARY, Figure, Source, load_sources
from tools.tables import table

WINDOW = 10  # lines that must agree before they count as duplicated
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Place:
    """A measured thing.

    Attributes:
        where: ``file:line`` and the name of the thing.
        size: its figure.
    """

    where: str
    size: int


def percentile_90(sizes: Sequence[int]) -> int:
    """The value that nine of ten sizes do not exceed; 0 of none."""
    ordered = sorted(sizes)
    return ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))] if ordered else 0


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Deepest block under ``node``, nested functions and classes aside; each ``elif`` counts as one level more."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, SCOPES):
            deepest = max(deepest, nesting(child, depth + isinstance(child, BLOCKS)))
    return deepest


def functions(sources: Sequence[Source]) -> Iterator[tuple[Source, Function]]:
    """Every function and method with the source it stands in."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, Function):
                yield source, node


def own_parameters(arguments: Sequence[ast.arg]) -> list[ast.arg]:
    """The parameters a caller writes: without ``self`` and ``cls``."""
    return [argument for argument in arguments if argument.arg not in ("self", "cls")]


def all_parameters(node: Function) -> list[ast.arg]:
    """Positional and keyword-only parameters of ``node``, in order, without ``*args`` and ``**kwargs``."""
    return own_parameters(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)


def positional_parameters(node: Function) -> int:
    """How many parameters may be passed by position; 0 where the signature is fixed by an overridden method."""
    if any(ast.unparse(decorator).split("(")[0].endswith("override") for decorator in node.decorator_list):
        return 0
    return len(own_parameters(node.args.posonlyargs + node.args.args))


def _capped(name: str, places: Sequence[Place], limit: int) -> Figure:
    """The largest of ``places`` against ``limit``."""
    over = tuple(f"{place.where} ({place.size})" for place in places if place.size > limit)
    return Figure(name, value=max((place.size for place in places), default=0), limit=limit, offenders=over)


def _tail(name: str, places: Sequence[Place], limit: int) -> Figure:
    """The 90th percentile of ``places`` against ``limit``, with the places above the limit as its offenders."""
    return Figure(
        name,
        value=percentile_90([place.size for place in places]),
        limit=limit,
        offenders=tuple(f"{place.where} ({place.size})" for place in places if place.size > limit),
    )


def size_figures(sources: Sequence[Source]) -> list[Figure]:
    """Length of files and functions, nesting and numbers of parameters."""
    files = [Place(source.place(1), source.text.count("\n") + 1) for source in sources]

    def measured(size: Callable[[Function], int]) -> list[Place]:
        return [Place(f"{source.place(node.lineno)} {node.name}", size(node)) for source, node in functions(sources)]

    lengths = measured(lambda node: (node.end_lineno or node.lineno) - node.lineno + 1)
    return [
        _tail("lines of a file, p90", files, 400),
        _capped("lines of a file, max", files, 600),
        _tail("lines of a function, p90", lengths, 40),
        _capped("lines of a function, max", lengths, 100),
        _capped("nesting, max", measured(nesting), 4),
        _capped("parameters, max", measured(lambda node: len(all_parameters(node))), 8),
        _capped("positional parameters, max", measured(positional_parameters), 3),
    ]


def annotation_figures(sources: Sequence[Source]) -> list[Figure]:
    """Share of parameters and of returns that carry an annotation, in percent."""
    parameters: list[tuple[str, bool]] = []
    returns: list[tuple[str, bool]] = []
    for source, node in functions(sources):
        where = f"{source.place(node.lineno)} {node.name}"
        parameters += [(f"{where}({item.arg})", item.annotation is not None) for item in all_parameters(node)]
        returns.append((where, node.returns is not None))
    return [_share("parameters annotated, %", parameters, 100), _share("returns annotated, %", returns, 100)]


def docstring_figures(sources: Sequence[Source]) -> list[Figure]:
    """Share of public functions, of classes and of modules with a docstring, in percent."""
    classes = [
        (f"{source.place(node.lineno)} {node.name}", ast.get_docstring(node) is not None)
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
    ]
    public = [
        (f"{source.place(node.lineno)} {node.name}", ast.get_docstring(node) is not None)
        for source, node in functions(sources)
        if not node.name.startswith("_")
    ]
    modules = [(source.place(1), ast.get_docstring(source.tree) is not None) for source in sources if source.tree.body]
    return [
        _share("public functions documented, %", public, 95),
        _share("classes documented, %", classes, 95),
        _share("modules documented, %", modules, 95),
    ]


def _share(name: str, marks: Sequence[tuple[str, bool]], floor: int) -> Figure:
    """Percentage of ``marks`` that are true, against a floor."""
    missing = tuple(where for where, good in marks if not good)
    value = 100.0 * (len(marks) - len(missing)) / len(marks) if marks else 100.0
    return Figure(name, value=value, limit=floor, offenders=missing, floor=True)


def duplication_figure(sources: Sequence[Source]) -> Figure:
    """Share of windows of `WINDOW` lines that occur more than once, in percent.

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
    return Figure("duplicated lines, %", value=value, limit=2, offenders=tuple(" = ".join(it) for it in repeated))


def _is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"


def _is_broad(node: ast.AST) -> bool:
    """Whether ``node`` catches everything and does not raise it again."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    broad = any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)
    last = node.body[-1]
    return broad and not (isinstance(last, ast.Raise) and last.exc is None)


def _count(name: str, sources: Sequence[Source], wrong: Callable[[ast.AST], bool]) -> Figure:
    """How many nodes of ``sources`` are wrong, with none allowed."""
    found = tuple(
        source.place(getattr(node, "lineno", 1)) for source in sources for node in ast.walk(source.tree) if wrong(node)
    )
    return Figure(name, value=len(found), limit=0, offenders=found)


def figures(root: Path) -> list[Figure]:
    """All figures of the tree under ``root``.

    Args:
        root: the folder that holds the packages.

    Returns:
        One `Figure` per rule, in the order of the table.

    Raises:
        SyntaxError: if a file is not valid Python.
    """
    sources = load_sources(root)
    library = [source for source in sources if source.package in LIBRARY]
    return [
        *size_figures(sources),
        duplication_figure(sources),
        *annotation_figures(sources),
        *docstring_figures(sources),
        _count("print in the library", library, _is_print),
        _count("except that catches all", sources, _is_broad),
        *import_figures(sources),
    ]


def report(measured: Sequence[Figure]) -> str:
    """The table of ``measured``, then the offenders of each figure over its limit."""
    rows = [
        (figure.name, f"{figure.value:.4g}", f"{'>=' if figure.floor else '<='} {figure.limit}", _verdict(figure))
        for figure in measured
    ]
    lines = [table(("rule", "value", "limit", ""), rows)]
    for figure in measured:
        if not figure.held:
            lines += ["", f"{figure.name}:", *(f"  {offender}" for offender in figure.offenders)]
    return "\n".join(lines)


def _verdict(figure: Figure) -> str:
    return "ok" if figure.held else "OVER" if not figure.floor else "UNDER"


def main(arguments: Sequence[str]) -> int:
    """Print the report on the tree named first, the current folder by default; 1 when a rule is broken."""
    measured = figures(Path(arguments[0] if arguments else "."))
    print(report(measured))
    return int(any(not figure.held for figure in measured))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
