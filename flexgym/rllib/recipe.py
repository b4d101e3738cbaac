"""Recipes: YAML files whose sections are the fluent methods of an RLlib config.

``training: {lr: 1e-4}`` means ``config.training(lr=1e-4)``, for every method that the config class or a base of it
defines. Nothing is listed here a second time: the sections and their keys are read from the methods' signatures.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from flexgym.config.recipe import Recipe
from flexgym.core.errors import ConfigError, FlexGymError, UnknownNameError, nearest_name

OBJECTS = "_objects"

_NOT_SECTIONS = frozenset({"copy", "update_from_dict"})
# A tuple as one of the types of an annotation such as 'float | tuple[float, float]', not one within another type.
_TUPLE = re.compile(r"(?:^|\| )tuple\[")
_Config = TypeVar("_Config", bound=AlgorithmConfig)


def apply_recipe(config: _Config, recipe: Mapping[str, Any]) -> _Config:
    """Call the fluent methods that a recipe names. All names are checked before the first call.

    YAML has lists and plain values only. A list becomes a tuple, and a plain value an enum, where the config's value
    until then is one, at any depth, or where the method's parameter is annotated as a tuple.

    Args:
        config: changed in place, as its methods do.
        recipe: keyword arguments by section, from `load_recipe`, `apply_overrides` or a plain mapping. The dump of
            `describe` is one as well.

    Returns:
        ``config``.

    Raises:
        UnknownNameError: a section or key that the config's class does not have; the message names the file and line
            and the nearest name.
        ConfigError: a section that is not a mapping, or a value that the method refuses.
    """
    known = recipe if isinstance(recipe, Recipe) else Recipe(recipe, source="recipe", origins={})
    sections = config_sections(type(config))
    calls = [(name, values or {}) for name, values in known.items() if name != OBJECTS]
    for section, values in calls:
        _check_section(known, section, values, sections=sections)
    for section, values in calls:
        _call(config, known, section, values=values)
    return config


def config_sections(config_class: type[AlgorithmConfig]) -> dict[str, frozenset[str] | None]:
    """The sections that a config class takes and their keys.

    A section is a public method that returns the config (annotated ``Self`` or a class of the config's line). Where it
    takes ``**kwargs``, the keys of the next such method up the line count too. Retired keys of RLlib are left out.

    Returns:
        Names of the keys by section; None where any key goes.
    """
    lineage = {"Self", *(base.__name__ for base in config_class.__mro__)}
    sections: dict[str, frozenset[str] | None] = {}
    for name in dir(config_class):
        static = inspect.getattr_static(config_class, name)
        if name.startswith(("_", "get_")) or name in _NOT_SECTIONS or not inspect.isfunction(static):
            continue
        if any(_returns(vars(base)[name]) in lineage for base in config_class.__mro__ if name in vars(base)):
            sections[name] = _keys(config_class, name)
    return sections


def describe(config: AlgorithmConfig) -> dict[str, Any]:
    """The full effective config as plain values, by section.

    The value of ``section(key=...)`` is the config's attribute ``section_key``, ``key`` or ``_key``, the first that it
    has; keys without one are left out, and an attribute that two sections set is given once. Sections other than
    RLlib's own come first.

    Args:
        config: any RLlib config.

    Returns:
        A recipe: `apply_recipe` on a fresh config restores the values; a tuple that stands where a list would do as
        well, such as one of prompts, comes back as a list. What YAML cannot hold (classes, functions, specs) is written
        by name under ``_objects``, for people; `apply_recipe` passes over it.
    """
    result: dict[str, Any] = {}
    objects: dict[str, dict[str, str]] = {}
    stored = vars(config)
    seen: set[str] = set()
    for section, keys in config_sections(type(config)).items():
        values: dict[str, Any] = {}
        for key in sorted(keys or ()):
            attribute = _attribute(stored, section, key)
            if attribute is None or attribute in seen:
                continue
            seen.add(attribute)
            try:
                values[key] = _plain(stored[attribute])
            except TypeError:
                objects.setdefault(section, {})[key] = _object_name(stored[attribute])
        if values:
            result[section] = values
    order = sorted(result, key=lambda name: getattr(type(config), name).__module__.startswith("ray."))
    described = {name: result[name] for name in order}
    return {**described, OBJECTS: objects} if objects else described


def _check_section(recipe: Recipe, section: str, values: Any, *, sections: Mapping[str, frozenset[str] | None]) -> None:
    if section not in sections:
        raise UnknownNameError(
            f"{recipe.origin(section)}: unknown section {section!r}. {nearest_name(section, sections)}"
        )
    if not isinstance(values, Mapping):
        raise ConfigError(f"{recipe.origin(section)}: section {section!r}: expected a mapping of keys, got {values!r}.")
    keys = sections[section]
    for key in values:
        if keys is None or key in keys:
            continue
        homes = [name for name, others in sections.items() if others and key in others]
        hint = f"It belongs to section {homes[0]!r}." if homes else nearest_name(str(key), keys)
        raise UnknownNameError(f"{recipe.origin(section, key)}: unknown key {key!r} in section {section!r}. {hint}")


def _call(config: AlgorithmConfig, recipe: Recipe, section: str, *, values: Mapping[str, Any]) -> None:
    given = {key: _like(value, _model(config, section, key)) for key, value in copy.deepcopy(dict(values)).items()}
    try:
        getattr(config, section)(**given)
    except (ValueError, TypeError, KeyError) as error:
        blamed = [key for key in values if re.search(rf"\b{re.escape(str(key))}\b", str(error))]
        where = recipe.origin(section, *blamed[:1])
        kind = type(error) if isinstance(error, FlexGymError) else ConfigError
        raise kind(f"{where}: section {section!r}: {error}") from error


def _attribute(stored: Mapping[str, Any], section: str, key: str) -> str | None:
    """The attribute of a config that holds a key of a section."""
    return next((name for name in (f"{section}_{key}", key, f"_{key}") if name in stored), None)


def _model(config: AlgorithmConfig, section: str, key: str) -> Any:
    """A value of the type that a key should have: that of the config until now, or a tuple where one is annotated."""
    attribute = _attribute(vars(config), section, key)
    value = None if attribute is None else getattr(config, attribute)
    if isinstance(value, (tuple, list, Mapping)):
        return value
    annotated = (inspect.signature(method).parameters.get(key) for method in _methods(type(config), section))
    parameter = next((found for found in annotated if found is not None), None)
    return () if parameter is not None and _TUPLE.search(str(parameter.annotation)) else value


def _like(value: Any, model: Any) -> Any:
    """``value`` with the tuples and enums of ``model``, which has the same form as far as it goes."""
    if isinstance(model, enum.Enum) and not isinstance(value, enum.Enum):
        return next((member for member in type(model) if member.value == value), value)
    if isinstance(value, dict) and isinstance(model, Mapping):
        return {key: _like(inner, model.get(key)) for key, inner in value.items()}
    if isinstance(value, list) and isinstance(model, (list, tuple)):
        items = [_like(item, model[min(index, len(model) - 1)]) if model else item for index, item in enumerate(value)]
        return tuple(items) if isinstance(model, tuple) else items
    return value


def _keys(config_class: type, name: str) -> frozenset[str] | None:
    keys: set[str] = set()
    for method in _methods(config_class, name):
        parameters = list(inspect.signature(method).parameters.values())[1:]
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        keys.update(
            parameter.name for parameter in parameters if parameter.kind in named and not _retired(parameter, method)
        )
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return frozenset(keys)
    return None


def _methods(config_class: type, name: str) -> Iterator[Callable[..., Any]]:
    """The definitions of a method from the class upwards."""
    return (vars(base)[name] for base in config_class.__mro__ if name in vars(base))


def _retired(parameter: inspect.Parameter, method: Callable[..., Any]) -> bool:
    """Whether RLlib keeps the parameter only to refuse it: its default is then the marker -1."""
    return method.__module__.startswith("ray.") and type(parameter.default) is int and parameter.default == -1


def _returns(method: Any) -> str:
    """Last part of the name in a method's return annotation, such as ``Self``."""
    annotation = getattr(method, "__annotations__", {}).get("return", "")
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", None) or str(annotation)
    return text.strip("'\"").rpartition(".")[2]


def _plain(value: Any) -> Any:
    """``value`` in the types that YAML holds; TypeError when it has others in it."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key is not text")
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(inner) for inner in value)
    raise TypeError(f"{type(value).__name__} is not plain")


def _object_name(value: Any) -> str:
    """A stable name for a class, function or object (without its address)."""
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of {_names(value)}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"{type(value).__name__} of {_names(type(item).__name__ for item in value)}"
    target = value if hasattr(value, "__qualname__") else type(value)
    return f"{target.__module__}.{target.__qualname__}"


def _names(items: Iterable[Any]) -> str:
    return ", ".join(str(item) for item in items)
