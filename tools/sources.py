"""What the budget measures: the Python files of the project, parsed, and the figures taken from them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

LIBRARY = ("flexgym", "envs", "rewards", "agents")
MEASURED = (*LIBRARY, "research", "tools")


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
        """The top-level package it belongs to."""
        return self.path.split("/")[0]

    @property
    def module(self) -> str:
        """Its dotted name; that of the package for an ``__init__.py``."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def is_package(self) -> bool:
        """Whether it is the ``__init__.py`` of a package."""
        return self.path.endswith("/__init__.py")

    def place(self, line: int) -> str:
        """``file:line``, as editors open it."""
        return f"{self.path}:{line}"


@dataclass(frozen=True)
class Figure:
    """One measured rule.

    Attributes:
        name: what is measured, with its unit.
        value: what was measured.
        limit: the largest value allowed, or the smallest when ``floor``.
        offenders: ``file:line`` and a name of everything behind a broken limit.
        floor: whether ``limit`` is a lower bound.
    """

    name: str
    value: float
    limit: int
    offenders: tuple[str, ...] = ()
    floor: bool = False

    @property
    def held(self) -> bool:
        """Whether the value keeps to the limit."""
        return self.value >= self.limit if self.floor else self.value <= self.limit


def load_sources(root: Path) -> list[Source]:
    """Read every measured file under ``root``, sorted by path.

    Args:
        root: the folder that holds the packages; packages that are missing are passed over.

    Returns:
        The parsed files.

    Raises:
        SyntaxError: if a file is not valid Python.
    """
    sources = []
    for package in MEASURED:
        for path in sorted((root / package).rglob("*.py")):
            name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
            sources.append(Source(name, text, ast.parse(text, filename=name)))
    return sources
