"""Type annotations of settings in words, for error messages and ``--help``."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    type(None): "null",
    Any: "any value",
}
_SIGNS: dict[type, str] = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}


@dataclass(frozen=True)
class Spelled:
    """Metadata of an annotation whose values have simpler words than its type."""

    words: str


def spell(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return an annotation in words, such as ``"number >= 0 and < 1"`` or ``"lora or full"``.

    Args:
        annotation: of a field.
        metadata: bounds beside it, such as `annotated_types.Ge`.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return spell(args[0], (*_bounds_in(args[1:]), *metadata))
    spelled = next((entry.words for entry in metadata if isinstance(entry, Spelled)), None)
    if spelled is not None:
        return spelled
    if annotation in (int, float):
        limits = [f"{_SIGNS[type(entry)]} {_limit(entry):g}" for entry in metadata if type(entry) in _SIGNS]
        return " ".join(filter(None, [_WORDS[annotation], " and ".join(limits)]))
    if origin in (Union, types.UnionType, Literal):
        members = (annotation,) if origin is Literal else args
        return _alternatives(list(dict.fromkeys(words for member in members for words in _options(member, metadata))))
    return _spell_values(annotation, metadata)


def _spell_values(annotation: Any, metadata: Sequence[Any]) -> str:
    """Return text, lists and mappings in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is tuple and Ellipsis not in args:
        return f"[{', '.join(map(spell, args))}]"
    nonempty = "non-empty " if any(isinstance(entry, MinLen) and entry.min_length for entry in metadata) else ""
    if origin is tuple:
        return f"{nonempty}list of {spell(args[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping of settings"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "mapping"
    return (nonempty if annotation is str else "") + _WORDS[annotation]


def choices(annotation: Any) -> list[str]:
    """Return the names among which an annotation lets choose; empty where it lets none."""
    if get_origin(annotation) is Literal:
        return [option for option in get_args(annotation) if isinstance(option, str)]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [name for inner in get_args(annotation) for name in choices(inner)]
    return []


def _options(annotation: Any, metadata: Sequence[Any]) -> list[str]:
    """Return the words of a member of a union, for a literal those of each value."""
    is_literal = get_origin(annotation) is Literal
    return [str(option) for option in get_args(annotation)] if is_literal else [spell(annotation, metadata)]


def _alternatives(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _bounds_in(metadata: Sequence[Any]) -> list[Any]:
    """Return metadata with what pydantic's fields hold of it."""
    return [inner for entry in metadata for inner in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _limit(bound: Any) -> float:
    limit: float = getattr(bound, type(bound).__name__.lower())
    return limit
