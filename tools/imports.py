"""Checks of the import graph: ``python -m tools.imports``, from the root of a checkout.

Layers and the use of Ray are contracts of import-linter in ``pyproject.toml``; cycles and the number of import levels
are measured here. Every import counts, including those inside functions and under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable

import grimp
from importlinter.cli import lint_imports

from tools.limits import IMPORTS
from tools.report import Figure, report
from tools.sources import LIBRARY


def room(module: str) -> str:
    """Return the unit of the level count: a subpackage or module of flexgym, or another top-level package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "flexgym" else parts[0]


def cycle_figure(graph: grimp.ImportGraph) -> Figure:
    """Count the modules that import themselves through other modules, with the imports that close the cycles."""
    cyclic = [
        f"{module} -> {target}"
        for module in sorted(graph.modules)
        for target in sorted(graph.find_modules_directly_imported_by(module))
        if module != target and module in graph.find_upstream_modules(target)
    ]
    count = len({edge.split(" ")[0] for edge in cyclic})
    return Figure("modules in import cycles", count, IMPORTS["modules in import cycles"], tuple(cyclic))


def longest_chain(graph: grimp.ImportGraph) -> tuple[str, ...]:
    """Return the longest chain of rooms, from the lowest one up; rooms that import each other count one each."""
    below: dict[str, set[str]] = {room(module): set() for module in graph.modules}
    for module in graph.modules:
        below[room(module)] |= {room(target) for target in graph.find_modules_directly_imported_by(module)}

    def reach(start: str) -> set[str]:
        seen, left = {start}, [start]
        while left:
            new = below[left.pop()] - seen
            seen |= new
            left += new
        return seen

    reached = {name: reach(name) for name in below}
    circle = {name: frozenset(other for other in reached[name] if name in reached[other]) for name in below}

    @functools.cache
    def chain(rooms: frozenset[str]) -> tuple[str, ...]:
        lower = {circle[target] for name in rooms for target in below[name]} - {rooms}
        return (*longest(lower), *sorted(rooms))

    def longest(several: Iterable[frozenset[str]]) -> tuple[str, ...]:
        return max(map(chain, several), key=lambda found: (len(found), found), default=())

    return longest(circle.values())


def level_figure(graph: grimp.ImportGraph) -> Figure:
    """Count the rooms of the longest chain."""
    chain = longest_chain(graph)
    steps = tuple(f"{level:2} {name}" for level, name in enumerate(chain, start=1))
    return Figure("import levels", len(chain), IMPORTS["import levels"], steps)


def main() -> int:
    """Print both figures and the verdict on each contract; return 1 if a rule is broken."""
    graph = grimp.build_graph(*LIBRARY, cache_dir=None)
    figures = [cycle_figure(graph), level_figure(graph)]
    print(report(figures), flush=True)
    status = lint_imports(no_logo=True, no_cache=True)
    return int(status != 0 or any(not figure.held for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
