"""Values checked against type annotations, with errors that teach."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaError

from flexgym.core.annotations import choices
from flexgym.core.errors import ConfigError, check_names, unknown_name

Count = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A number from 0 to 1."""
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
"""A finite number above 0."""

_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_TYPES = {
    "a valid integer": "whole number",
    "a valid number": "number",
    "a valid dictionary": "mapping",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "an instance of Sequence": "list",
}
"""The words of `flexgym.core.annotations.spell` for those of pydantic."""
_WORDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
_MODULE = re.compile(r"\b(?:\w+\.)+(?=\w)")


def fitted(what: str, annotation: Any, value: Any) -> Any:
    """Validate a value against an annotation, strictly: ``"3"`` is no int, and True is no number.

    Bounds such as ``Annotated[int, Field(ge=1)]`` and the types inside of containers count. A plain value that
    represents another type in a recipe, such as a list for a tuple or a text for a `Path`, is converted.

    Args:
        what: name of the value in messages.
        annotation: any type; one that pydantic cannot check at runtime accepts everything.
        value: the value.

    Returns:
        The value itself, or what it was converted to.

    Raises:
        UnknownNameError: for a text that is none of the choices of a ``Literal``; the message names the nearest one.
        ConfigError: for any other value that does not fit.
    """
    adapter = _adapter(annotation)
    if adapter is None:
        return value
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        try:
            return adapter.validate_json(json.dumps(value), strict=True)
        except (TypeError, ValueError):
            raise _misfit(what, annotation, error, value=value) from None
    return value


def _misfit(what: str, annotation: Any, error: ValidationError, *, value: Any) -> Exception:
    known = _choices(annotation)
    if known and isinstance(value, str):
        return unknown_name(what, value, known)
    return ConfigError(_message(what, annotation, error, value=value))


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    if annotation in (inspect.Parameter.empty, Any) or isinstance(annotation, str):
        return None
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError as error:
        # Dataclasses and typed dictionaries bring their own configuration.
        return TypeAdapter(annotation) if error.code == "type-adapter-config-unused" else None
    except (SchemaError, TypeError, NameError):
        return None


def _choices(annotation: Any) -> list[str]:
    """Return the texts that an annotation such as ``Literal["a", "b"] | None`` allows; none where it takes any text."""
    return [] if str in get_args(annotation) else choices(annotation)


def _message(what: str, annotation: Any, error: ValidationError, *, value: Any) -> str:
    problems = error.errors(include_url=False)
    if len(problems) > 1:  # one for each member of a union
        expected = _MODULE.sub("", inspect.formatannotation(annotation))
        return f"{what}: expected {expected}, got {value!r}"
    [problem] = problems
    place = "".join(f"[{key!r}]" for key in problem["loc"])
    said = problem["msg"].removeprefix("Input should be ")
    expected = _range(annotation) if problem["type"] in _BOUNDS else _TYPES.get(said, said)
    return f"{what}{place}: expected {expected}, got {problem['input']!r}"


def _range(annotation: Any) -> str:
    """Return the bounds in an annotation in words, such as ``"1 to 95"`` or ``"a number of at least 1"``."""
    bounds = dict(_bounds(annotation))
    if {"ge", "le"} <= bounds.keys():
        return f"{bounds['ge']} to {bounds['le']}"
    return "a number " + " and ".join(f"{_WORDS[key]} {bound}" for key, bound in bounds.items())


def _bounds(annotation: Any) -> Iterator[tuple[str, Any]]:
    for marker in getattr(annotation, "__metadata__", ()):
        for constraint in getattr(marker, "metadata", [marker]):
            yield from ((key, getattr(constraint, key)) for key in _WORDS if hasattr(constraint, key))
    for member in get_args(annotation):
        yield from _bounds(member)


def check_fields(what: str, kind: Any, values: Any) -> None:
    """Validate settings by name that a dataclass is built from: names, and the types of its fields.

    Args:
        what: name of the settings in messages.
        kind: the dataclass.
        values: its fields by name; None, or what is built already, is accepted.

    Raises:
        UnknownNameError: for an unknown field; the message names the nearest one.
        ConfigError: for a value that does not fit, or anything but settings by name.
    """
    if values is None or isinstance(values, kind):
        return
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what}: expected settings by name, got {values!r}")
    hints = get_type_hints(kind, include_extras=True)
    known = [field.name for field in dataclasses.fields(kind)]
    check_names(f"setting of {what}", values, known)
    for name, value in values.items():
        fitted(f"{name} of {what}", hints[name], value)
