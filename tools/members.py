"""Members of each class, counted over its bases: splitting a class into layers of inheritance does not lower them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from tools.sources import Source


@dataclass(frozen=True)
class Class:
    """One class of the project.

    Attributes:
        source: its file.
        node: its definition.
        bases: dotted names of its bases, as far as they can be read from the file's imports.
    """

    source: Source
    node: ast.ClassDef
    bases: tuple[str, ...]


def _imported(source: Source) -> dict[str, str]:
    """Map each name that the file imports to the dotted name behind it."""
    names: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{source.absolute(node)}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
    return names


class Classes:
    """The classes of the project with their bases.

    Args:
        sources: the files to read. Bases outside of them have no members here.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._names = {source.module: _imported(source) for source in sources}
        self._classes = {
            f"{source.module}.{node.name}": Class(source, node, self._bases(source, node))
            for source in sources
            for node in ast.walk(source.tree)
            if isinstance(node, ast.ClassDef)
        }

    def _bases(self, source: Source, node: ast.ClassDef) -> tuple[str, ...]:
        bases = []
        for base in node.bases:
            name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)  # Base[int] is a Base
            first, dot, rest = name.partition(".")
            bases.append(self._names[source.module].get(first, f"{source.module}.{first}") + dot + rest)
        return tuple(bases)

    def _find(self, name: str) -> str | None:
        """Return the name under which a class is defined, through the packages that import it from there."""
        while name not in self._classes:
            module, _, attribute = name.rpartition(".")
            target = self._names.get(module, {}).get(attribute)
            if target is None or target == name:
                return None
            name = target
        return name

    def ancestors(self, name: str) -> list[str]:
        """Return a class and its bases within the project, each once."""
        found = [name]
        for base in map(self._find, self._classes[name].bases):
            if base is not None:
                found += [each for each in self.ancestors(base) if each not in found]
        return found

    def sizes(self) -> list[tuple[str, int]]:
        """Return ``file:line name`` and the number of members over all bases of every class."""
        own = {name: members(each.node) for name, each in self._classes.items()}
        return [
            (
                f"{each.source.place(each.node.lineno)} {each.node.name}",
                len(set[str]().union(*(own[base] for base in self.ancestors(name)))),
            )
            for name, each in self._classes.items()
        ]


def members(node: ast.ClassDef) -> set[str]:
    """Return the names that a class defines: methods, class attributes and attributes set on ``self``.

    Special methods such as ``__init__`` do not count.
    """
    names = {child.attr for child in ast.walk(node) if isinstance(child, ast.Attribute) and _is_set_on_self(child)}
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(child.name)
        elif isinstance(child, ast.Assign):
            names |= {target.id for target in child.targets if isinstance(target, ast.Name)}
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            names.add(child.target.id)
    return {name for name in names if not (name.startswith("__") and name.endswith("__"))}


def _is_set_on_self(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"
