"""The Python files that the checks read, parsed."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LIBRARY = ("flexgym",)
SHORT_NAMES = ("agents", "envs", "rewards")
"""Folders of a checkout that lead into the library: launchers, and short names of packages."""
MEASURED = (*LIBRARY, *SHORT_NAMES, "research", "tools")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One parsed file.

    Attributes:
        path: relative to the root of the tree, with forward slashes.
        text: its content.
        tree: its syntax tree.
    """

    path: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """Name of the top-level package."""
        return self.path.split("/")[0]

    @property
    def module(self) -> str:
        """Dotted name of the module; an ``__init__.py`` has that of its package."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def is_package(self) -> bool:
        """True for the ``__init__.py`` of a package."""
        return self.path.endswith("/__init__.py")

    @property
    def lines(self) -> int:
        """Number of lines of the file."""
        return self.text.count("\n") + 1

    def place(self, line: int) -> str:
        """Return ``file:line``, as editors open it."""
        return f"{self.path}:{line}"

    def absolute(self, node: ast.ImportFrom) -> str:
        """Return the module that a ``from`` import names, without leading dots."""
        if not node.level:
            return node.module or ""
        parents = self.module.split(".")
        parents = parents[: len(parents) - node.level + self.is_package]
        return ".".join([*parents, node.module] if node.module else parents)


def load_sources(root: Path, packages: Sequence[str] = MEASURED) -> list[Source]:
    """Read and parse the Python files of some packages, sorted by path.

    Args:
        root: the folder that holds the packages.
        packages: folders below ``root``; those that do not exist are skipped.

    Raises:
        SyntaxError: a file is not valid Python.
    """
    sources = []
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
            sources.append(Source(name, text, ast.parse(text, filename=name)))
    return sources


def functions(sources: Sequence[Source]) -> Iterator[tuple[Source, Function]]:
    """Yield every function and method with its file."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, Function):
                yield source, node
