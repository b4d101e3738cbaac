"""Type annotations in words, and whether a plain value from YAML fits one."""

from __future__ import annotations

import math
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen
from pydantic.fields import FieldInfo

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "text",
    None: "null",
    type(None): "null",
    Any: "any value",
}
_COMPARISONS: dict[type, tuple[str, str, Callable[[Any, Any], bool]]] = {
    Ge: (">=", "ge", operator.ge),
    Gt: (">", "gt", operator.gt),
    Le: ("<=", "le", operator.le),
    Lt: ("<", "lt", operator.lt),
}


@dataclass(frozen=True)
class Spelled:
    """Metadata of an annotation whose values have simpler words than its type."""

    words: str


def spell(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return an annotation in words, such as ``"number >= 0 and < 1"`` or ``"lora or full"``.

    Args:
        annotation: a type, as in the signature of a function or the field of a model.
        metadata: bounds beside it, such as `annotated_types.Ge`.
    """
    if get_origin(annotation) is Annotated:
        annotation, *inner = get_args(annotation)
        return spell(annotation, (*_expanded(inner), *metadata))
    spelled = next((entry.words for entry in metadata if isinstance(entry, Spelled)), None)
    if spelled is not None:
        return spelled
    if annotation in (int, float):
        return _WORDS[annotation] + _bounds(metadata)
    nonempty = "non-empty " if any(isinstance(entry, MinLen) and entry.min_length for entry in metadata) else ""
    if annotation in _WORDS:
        return (nonempty if annotation is str else "") + _WORDS[annotation]
    return _spell_container(annotation, metadata, nonempty=nonempty)


def fits(value: Any, annotation: Any, metadata: Sequence[Any] = ()) -> bool:
    """Return whether a plain value can be passed for a parameter with this annotation; a list counts as a tuple.

    Args:
        value: from YAML: dict, list, str, int, float, bool or None, or any object.
        annotation: a type; text, which a module could not resolve, fits everything.
        metadata: bounds beside it.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return fits(value, args[0], (*_expanded(args[1:]), *metadata))
    if origin in (Union, types.UnionType):
        return any(fits(value, option, metadata) for option in args)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in args)
    if annotation is Any or isinstance(annotation, str):
        return True
    if annotation in (int, float):
        return _is_number(value, annotation) and _is_within(value, metadata)
    if annotation in (str, Path):
        return isinstance(value, str | annotation) and (len(str(value)) >= _least_length(metadata))
    if annotation in (None, type(None)):
        return value is None
    return _fits_container(value, annotation, metadata)


def choices(annotation: Any) -> list[str]:
    """Return the names among which an annotation lets choose; empty where it lets none."""
    if get_origin(annotation) is Literal:
        return [option for option in get_args(annotation) if isinstance(option, str)]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [name for inner in get_args(annotation) for name in choices(inner)]
    return []


def alternatives(words: Sequence[str]) -> str:
    """Return a list in words, such as ``"a, b or c"``."""
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _spell_container(annotation: Any, metadata: Sequence[Any], *, nonempty: str) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        # A class such as a callable cannot come from YAML: no use to ask for one.
        plain = [option for option in args if _is_plain(option)] or args
        options = [words for option in plain for words in _options(option, metadata)]
        return alternatives(list(dict.fromkeys(options)))
    if origin is Literal:
        return alternatives(_options(annotation, metadata))
    if origin is tuple and Ellipsis not in args:
        return f"[{', '.join(map(spell, args))}]"
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "mapping"
    if isinstance(kind, type) and issubclass(kind, Sequence | AbstractSet):
        return nonempty + (f"list of {spell(args[0])}" if args else "list")
    if _has_fields(kind):
        return "mapping of settings"
    return getattr(kind, "__name__", str(kind))


def _options(annotation: Any, metadata: Sequence[Any]) -> list[str]:
    """Return the words of a member of a union: those of each value where it is a literal."""
    return (
        [str(option) for option in get_args(annotation)]
        if get_origin(annotation) is Literal
        else [spell(annotation, metadata)]
    )


def _fits_container(value: Any, annotation: Any, metadata: Sequence[Any]) -> bool:
    origin, args = get_origin(annotation), get_args(annotation)
    kind = origin or annotation
    if kind is tuple and args and Ellipsis not in args:
        return isinstance(value, list | tuple) and len(value) == len(args) and all(map(fits, value, args))
    if not isinstance(kind, type):
        return True
    if issubclass(kind, Mapping) or _has_fields(kind):
        return isinstance(value, Mapping | kind)
    if issubclass(kind, Sequence | AbstractSet):
        listed = isinstance(value, list | tuple | kind) and len(value) >= _least_length(metadata)
        return listed and (not args or all(fits(item, args[0]) for item in value))
    return isinstance(value, kind)


def _is_plain(annotation: Any) -> bool:
    """Return whether YAML can hold a value of an annotation."""
    if get_origin(annotation) is Annotated:
        return _is_plain(get_args(annotation)[0])
    kind = get_origin(annotation) or annotation
    if kind in _WORDS or not isinstance(kind, type) or _has_fields(kind):
        return True
    return issubclass(kind, Mapping | Sequence | AbstractSet)


def _has_fields(kind: Any) -> bool:
    return hasattr(kind, "__dataclass_fields__") or hasattr(kind, "model_fields") or hasattr(kind, "__total__")


def _expanded(metadata: Sequence[Any]) -> list[Any]:
    """Return metadata with the bounds inside of `Interval` and of pydantic's fields."""
    found: list[Any] = []
    for entry in metadata:
        if isinstance(entry, FieldInfo):
            found += entry.metadata
        else:
            found += list(entry) if isinstance(entry, Interval) else [entry]
    return found


def _bounds(metadata: Sequence[Any]) -> str:
    bounds = [f"{sign} {limit:g}" for sign, limit, _ in _limits(metadata)]
    return " " + " and ".join(bounds) if bounds else ""


def _is_within(value: float, metadata: Sequence[Any]) -> bool:
    return all(compare(value, limit) for _, limit, compare in _limits(metadata))


def _limits(metadata: Sequence[Any]) -> list[tuple[str, Any, Callable[[Any, Any], bool]]]:
    found = [(entry, *_COMPARISONS[type(entry)]) for entry in metadata if type(entry) in _COMPARISONS]
    return [(sign, getattr(entry, name), compare) for entry, sign, name, compare in found]


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float if kind is float else int):
        return False
    return math.isfinite(value)


def _least_length(metadata: Sequence[Any]) -> int:
    return max((entry.min_length for entry in metadata if isinstance(entry, MinLen)), default=0)
