"""Docstrings of the project, and those that make no sense on their own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tools.sources import Function, Source
from tools.verbs import starts_with_verb

FEWEST_WORDS = 4
_FRAGMENT = re.compile(r"(?:Of|As|That|Those|Whether|What)\b")
_REFERENCE = re.compile(r"See \S+\.?$")


@dataclass(frozen=True)
class Finding:
    """One place whose wording is to be changed.

    Attributes:
        path: the file, relative to the root of the tree.
        line: its line.
        phrase: the words in question.
        advice: what to write instead.
    """

    path: str
    line: int
    phrase: str
    advice: str

    @property
    def place(self) -> str:
        """Return ``file:line``, as editors open it."""
        return f"{self.path}:{self.line}"


def docstrings(source: Source) -> Iterator[tuple[ast.AST, int, str]]:
    """Yield each docstring with its owner (module, class or function) and its first line."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and (text := ast.get_docstring(node)):
            yield node, node.body[0].lineno, text


def _fault(text: str) -> str | None:
    """Return how to correct a docstring that makes no sense on its own, None for any other."""
    first = text.split("\n\n")[0]
    if len(text.split()) < FEWEST_WORDS or _REFERENCE.match(text):
        return f"say what a caller must know, in {FEWEST_WORDS} words or more"
    if _FRAGMENT.match(first):
        return "start with a verb that makes a sentence"
    return None


def empty_docstrings(source: Source) -> Iterator[Finding]:
    """Yield the docstrings of under `FEWEST_WORDS` words, and those that are a fragment of a sentence."""
    for _, line, text in docstrings(source):
        if advice := _fault(text):
            yield Finding(source.path, line, text.split("\n")[0], advice)


def _is_property(node: Function) -> bool:
    names = [ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list]
    return "property" in names or "cached_property" in names


def docstrings_without_verb(source: Source) -> Iterator[Finding]:
    """Yield the other docstrings of functions that do not start with a verb.

    Properties read like attributes, so a noun phrase does for them, as it does for classes and modules.
    """
    for node, line, text in docstrings(source):
        is_call = isinstance(node, Function) and not _is_property(node)
        if is_call and not _fault(text) and not starts_with_verb(text):
            yield Finding(source.path, line, text.split("\n")[0], "start with a verb: Return, Load, Compute, ...")
