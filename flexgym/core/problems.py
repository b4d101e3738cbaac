"""Wrong settings: where they are, what was expected and what came."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from flexgym.core.annotations import choices, spell
from flexgym.core.errors import ConfigError, UnknownNameError

KeyPath = tuple[str | int, ...]
"""Keys of mappings and positions in lists, from the top of the settings."""

_WIDTH = 100
_OWN = "flexgym_problem"


@dataclass(frozen=True)
class Problem:
    """One wrong setting.

    Attributes:
        path: to the setting.
        message: what was expected and what came.
        unknown: whether it is a name that does not exist; the message then ends with the nearest valid one.
    """

    path: KeyPath
    message: str
    unknown: bool = False

    def under(self, *path: str | int) -> Problem:
        """Return the same problem of settings that lie under a path."""
        return replace(self, path=(*path, *self.path))


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as people write it, such as ``"reward.monitors[0].settings"``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def got(value: Any) -> str:
    """Return a value for a message, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."


def settings_error(
    problems: Iterable[Problem], *, within: str = "", origin: Callable[[KeyPath], str] = lambda path: ""
) -> ConfigError:
    """Return the error that reports problems, all of them.

    Args:
        problems: at least one.
        within: dotted name of the settings that the paths begin in.
        origin: returns where a setting was written, such as ``"recipe.yaml:3"``.

    Returns:
        A `UnknownNameError` where only names are wrong, else a `ConfigError`.
    """
    found = list(problems)
    lines = []
    for problem in found:
        name = ".".join(filter(None, [within, dotted(problem.path)]))
        lines.append(": ".join(filter(None, [origin(problem.path), name, problem.message])))
    kind: type[ConfigError] = UnknownNameError if all(problem.unknown for problem in found) else ConfigError
    return kind(lines[0] if len(lines) == 1 else f"{len(lines)} settings cannot work:\n" + "\n".join(lines))


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise problems from within the validator of a model; none raises nothing.

    Raises:
        ValidationError: pydantic puts the path of the model in front.
    """
    errors = [
        InitErrorDetails(
            type=PydanticCustomError(_OWN, "{message}", {"message": problem.message, "unknown": problem.unknown}),
            loc=problem.path,
            input=None,
        )
        for problem in problems
    ]
    if errors:
        raise ValidationError.from_exception_data("settings", errors)


def problems_in(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any]) -> list[Problem]:
    """Return what pydantic found wrong, once per setting.

    Args:
        error: from validating ``values``.
        model: validated against.
        values: plain values by name.
    """
    found: dict[KeyPath, Problem] = {}
    for details in error.errors(include_url=False):
        problem = _problem(details, model, values)
        found.setdefault(problem.path, problem)
    return list(found.values())


def blamed(settings: Any, message: str) -> KeyPath:
    """Return the path to the setting that a message names, the longest where it names several; empty for none."""
    if not isinstance(settings, Mapping):
        return ()
    paths = []
    for key, value in settings.items():
        below = blamed(value, message)
        if below or re.search(rf"(?<!\w){re.escape(str(key))}(?!\w)", message):
            paths.append((key, *below))
    return max(paths, key=len, default=())


def submodel(annotation: Any) -> type[BaseModel] | None:
    """Return the model whose fields an annotation takes by name, also within a list; None where there is none."""
    if get_origin(annotation) in (Annotated, Union, types.UnionType, tuple):
        return next(filter(None, map(submodel, get_args(annotation))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def entry_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model of the values of a mapping with free names; None where an annotation is no such mapping."""
    origin, args = get_origin(annotation), get_args(annotation)
    is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
    return submodel(args[1]) if is_mapping and len(args) == 2 else None


def unknown_setting(name: str, known: Iterable[str], *, elsewhere: Sequence[str] = ()) -> str:
    """Return the message about a setting that does not exist.

    Args:
        name: as written.
        known: valid names beside it.
        elsewhere: dotted names of the settings of other sections.
    """
    valid = sorted(known)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    homes = {full.rpartition(".")[2]: full for full in reversed(elsewhere)}
    other = difflib.get_close_matches(name, homes, n=1, cutoff=0.8)
    best = homes[other[0]] if other and (not near or other[0] == name) else next(iter(near), "")
    question = f" Did you mean {best!r}?" if best else ""
    return f"unknown setting.{question}" + (f" Known here: {', '.join(valid)}." if valid else "")


def names_below(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> list[str]:
    """Return the dotted names of all settings of a model and of the models in it."""
    names = []
    for name, field in model.model_fields.items():
        names.append(dotted((*prefix, name)))
        below = submodel(field.annotation)
        if below is not None and get_origin(field.annotation) is not tuple:
            names += names_below(below, (*prefix, name))
    return names


def _problem(details: Any, model: type[BaseModel], values: Mapping[str, Any]) -> Problem:
    place = _locate(details["loc"], model, values)
    kind, context = details["type"], details.get("ctx", {})
    if kind == _OWN:
        return Problem(tuple(details["loc"]), context["message"], unknown=context["unknown"])
    if kind == "extra_forbidden":
        known = place.model.model_fields if place.model else ()
        message = unknown_setting(str(place.path[-1]), known, elsewhere=names_below(model))
        return Problem(place.path, message, unknown=True)
    if kind == "missing":
        return Problem((*place.path, details["loc"][-1]), f"expected {_missing(place, details)}, got nothing")
    if kind == "value_error":
        message = str(context["error"])
        return Problem(place.path, message if "got" in message else f"{message}, got {got(place.value)}")
    return _wrong_value(place)


def _wrong_value(place: _Place) -> Problem:
    """Return the problem of a value of the wrong type or out of range; a misspelled choice is an unknown name."""
    if place.field is None:
        return Problem(place.path, f"expected a mapping of settings, got {got(place.value)}")
    annotation, metadata = place.field.annotation, place.field.metadata
    if isinstance(place.path[-1], int):
        annotation, metadata = _item(annotation), []
    message, names = f"expected {spell(annotation, metadata)}, got {got(place.value)}", choices(annotation)
    if not (names and isinstance(place.value, str)):
        return Problem(place.path, message)
    near = difflib.get_close_matches(place.value, names, n=1, cutoff=0.5)
    return Problem(place.path, message + (f". Did you mean {near[0]!r}?" if near else ""), unknown=True)


def _item(annotation: Any) -> Any:
    """Return the annotation of the items of a list."""
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return next(filter(None, map(_item, get_args(annotation))), None)
    return get_args(annotation)[0] if get_origin(annotation) is tuple else None


@dataclass(frozen=True)
class _Place:
    """A setting among others.

    Attributes:
        path: to it.
        value: that was given.
        field: that it is of; None beside all fields.
        model: whose fields are known beside it.
    """

    path: KeyPath
    value: Any
    field: FieldInfo | None
    model: type[BaseModel] | None


def _locate(loc: Sequence[str | int], model: type[BaseModel], values: Any) -> _Place:
    """Follow pydantic's location as far as settings go; below that it names types and validators."""
    place = _Place((), values, None, model)
    below: type[BaseModel] | None = model
    entries: type[BaseModel] | None = None
    for key in loc:
        present = isinstance(place.value, Mapping) and key in place.value
        if entries is not None and present:
            place, below, entries = _Place((*place.path, key), place.value[key], None, entries), entries, None
            continue
        listed = isinstance(key, int) and isinstance(place.value, list | tuple) and key < len(place.value)
        if not present and not (listed and below is not None):
            break
        field = below.model_fields.get(str(key)) if below is not None and present else None
        place = _Place((*place.path, key), place.value[key], field or (place.field if listed else None), below)
        if present:
            below = submodel(field.annotation) if field is not None else None
            entries = entry_model(field.annotation) if field is not None else None
    return place


def _missing(place: _Place, details: Any) -> str:
    model = submodel(place.field.annotation) if place.field else place.model
    field = model.model_fields.get(str(details["loc"][-1])) if model else None
    return spell(field.annotation, field.metadata) if field else "a value"
