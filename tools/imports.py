"""The rules about imports: no cycles, dependencies pointing downwards, nothing read from the environment at import."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tools.sources import Figure, Source

# The layers of the project: what a package must not import, at module level or inside a function.
FORBIDDEN = {
    "flexgym": ("agents", "envs", "rewards"),
    "envs": ("agents", "rewards"),
    "rewards": ("agents", "envs"),
}
# Where Ray may be imported inside flexgym.
RAY_HOMES = ("flexgym.rllib", "flexgym.rm")
# Bodies that do not run when the module is imported.
LAZY = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class Import:
    """One imported name.

    Attributes:
        line: where it stands.
        target: the dotted name; for ``from a import b`` it is ``a.b``, of which ``a`` alone may be a module.
        eager: whether it runs when the module is imported.
    """

    line: int
    target: str
    eager: bool


def _is_guarded(node: ast.AST) -> bool:
    """Whether ``node`` is an ``if`` whose body is for type checkers only, or runs only as a script."""
    if not isinstance(node, ast.If):
        return False
    test = ast.unparse(node.test)
    return test in ("TYPE_CHECKING", "typing.TYPE_CHECKING") or test.startswith("__name__ ==")


def _children(node: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Each child of ``node`` and whether it runs later than ``node`` does."""
    if isinstance(node, LAZY):
        body = node.body if isinstance(node.body, list) else [node.body]
        deferred = {id(child) for child in body}
        yield from ((child, id(child) in deferred) for child in ast.iter_child_nodes(node))
    else:
        yield from ((child, False) for child in ast.iter_child_nodes(node))


def walk(node: ast.AST, eager: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that runs, with whether it does so at import; guarded blocks are left out.

    Args:
        node: where to start.
        eager: whether ``node`` itself runs at import.

    Yields:
        The nodes under ``node``. Defaults and decorators of a function run at import, its body does not.
    """
    for child, later in _children(node):
        if _is_guarded(child):
            continue
        yield child, eager and not later
        yield from walk(child, eager and not later)


def imports(source: Source) -> list[Import]:
    """Every import of ``source``, relative ones resolved; those under ``TYPE_CHECKING`` are left out."""
    found = []
    for node, eager in walk(source.tree):
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, alias.name, eager) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(source, node)
            found += [Import(node.lineno, f"{base}.{alias.name}", eager) for alias in node.names]
    return found


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    """The module that a ``from`` import names, without leading dots."""
    if not node.level:
        return node.module or ""
    parents = source.module.split(".")
    parents = parents[: len(parents) - node.level + source.is_package]
    return ".".join([*parents, node.module] if node.module else parents)


def _inside(name: str, packages: Sequence[str]) -> bool:
    """Whether the dotted ``name`` is one of ``packages`` or lies in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def cycle_figure(sources: Sequence[Source]) -> Figure:
    """Import cycles between own modules; of several, the first one found."""
    known = {source.module for source in sources}
    graph: dict[str, set[str]] = {}
    places: dict[tuple[str, str], str] = {}
    for source in sources:
        edges = graph.setdefault(source.module, set())
        for item in imports(source):
            target = next((name for name in (item.target, item.target.rpartition(".")[0]) if name in known), None)
            if item.eager and target not in (None, source.module):
                edges.add(str(target))
                places.setdefault((source.module, str(target)), source.place(item.line))
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]  # each module is imported by the next
        steps = [
            f"{places[importer, imported]} {importer} -> {imported}"
            for imported, importer in zip(cycle, cycle[1:], strict=False)
        ]
        return Figure("import cycles", value=1, limit=0, offenders=tuple(reversed(steps)))
    return Figure("import cycles", value=0, limit=0)


def layer_figures(sources: Sequence[Source]) -> list[Figure]:
    """Imports that point upwards, and imports of Ray in the part of the library that works without it."""
    upward, ray = [], []
    for source in sources:
        for item in imports(source):
            where = f"{source.place(item.line)} {item.target}"
            if _inside(item.target, FORBIDDEN.get(source.package, ())):
                upward.append(where)
            if source.package == "flexgym" and _inside(item.target, ("ray",)) and not _inside(source.module, RAY_HOMES):
                ray.append(where)
    return [
        Figure("imports that point upwards", value=len(upward), limit=0, offenders=tuple(upward)),
        Figure("ray outside rllib and rm", value=len(ray), limit=0, offenders=tuple(ray)),
    ]


def environment_figure(sources: Sequence[Source]) -> Figure:
    """Places that touch environment variables when their module is imported."""
    found = tuple(
        source.place(getattr(node, "lineno", 1))
        for source in sources
        for node, eager in walk(source.tree)
        if eager
        and isinstance(node, ast.Attribute | ast.Name)
        and ast.unparse(node) in ("os.environ", "os.getenv", "environ", "getenv")
    )
    return Figure("environment read at import", value=len(found), limit=0, offenders=found)


def import_figures(sources: Sequence[Source]) -> list[Figure]:
    """All rules of this module, one figure each."""
    return [cycle_figure(sources), *layer_figures(sources), environment_figure(sources)]
