"""Arguments by name for a function or class, checked against its signature without calling it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from flexgym.core.annotations import fits, spell
from flexgym.core.errors import FlexGymError, UnknownNameError
from flexgym.core.problems import KeyPath, Problem, unknown_setting, wrong_value


@dataclass(frozen=True)
class Parameter:
    """A parameter that is passed by name.

    Attributes:
        annotation: its type; `Any` where there is none.
        required: whether it has no default.
    """

    annotation: Any
    required: bool


@dataclass(frozen=True)
class Signature:
    """Parameters that a function or class takes by name.

    Attributes:
        parameters: by name.
        takes_any: whether further names go to ``**kwargs`` without a type of their own.
    """

    parameters: Mapping[str, Parameter]
    takes_any: bool


def argument_problems(
    function: Callable[..., Any],
    values: Mapping[str, Any],
    *,
    given: Collection[str] = (),
    further: Mapping[str, Parameter] | None = None,
) -> Iterator[Problem]:
    """Yield what is wrong with arguments: unknown names, missing ones, and values that do not fit their annotations.

    A mapping for a parameter that is annotated as a dataclass or a typed dictionary is checked against its fields, and
    the dataclass is made of it, since it may check more.

    Args:
        function: a function or class.
        values: plain values by name.
        given: parameters that the caller sets itself.
        further: what ``**kwargs`` without a type of their own take.
    """
    signature = read_signature(function)
    parameters = {**signature.parameters, **(further or {})}
    own = {name: found for name, found in parameters.items() if name not in given}
    for name, value in values.items():
        if name in given:
            yield Problem((name,), "expected no value, since other settings determine it", unknown=True)
        elif name in own:
            yield from _value_problems(own[name].annotation, value, (name,))
        elif further is not None or not signature.takes_any:
            yield Problem((name,), unknown_setting(name, own), unknown=True)
    for name, parameter in own.items():
        if parameter.required and name not in values:
            yield Problem((name,), f"expected {spell(parameter.annotation)}, got nothing")


def read_signature(function: Callable[..., Any]) -> Signature:
    """Return what a function or class takes by name, the keys of an unpacked typed dictionary included."""
    hints = _hints(function)
    parameters: dict[str, Parameter] = {}
    takes_any = False
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = hints.get(name, Any)
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = get_origin(annotation) is not typing.Unpack
            parameters |= {} if takes_any else _keys(get_args(annotation)[0])
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            parameters[name] = Parameter(annotation, required=parameter.default is parameter.empty)
    return Signature(parameters, takes_any)


def _keys(dictionary: Any) -> dict[str, Parameter]:
    """Return the keys of a typed dictionary."""
    hints = typing.get_type_hints(dictionary, include_extras=True)
    return {key: Parameter(hint, required=key in dictionary.__required_keys__) for key, hint in hints.items()}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return annotations by parameter; as text where a module hides the names in them from others."""
    target: Any = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError:
        return dict(getattr(target, "__annotations__", {}))


def _value_problems(annotation: Any, value: Any, path: KeyPath) -> Iterator[Problem]:
    fields = _fields_type(annotation)
    if fields is None or not isinstance(value, Mapping):
        if not fits(value, annotation):
            yield wrong_value(path, value, annotation)
        return
    is_dictionary = typing.is_typeddict(fields)
    problems = list(argument_problems(_dictionary(fields) if is_dictionary else fields, value))
    if not problems and not is_dictionary:
        problems = list(_refusals(fields, value))
    yield from (problem.under(*path) for problem in problems)


def _refusals(kind: Callable[..., Any], values: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what a dataclass says itself of values, under the first one that it names."""
    try:
        kind(**values)
    except (FlexGymError, TypeError, ValueError) as error:
        words = re.findall(r"\w+", str(error))
        blamed = [word for word in words if word in values][:1]
        yield Problem(tuple(blamed), str(error), unknown=isinstance(error, UnknownNameError))


def _fields_type(annotation: Any) -> Any:
    """Return the dataclass or typed dictionary that an annotation takes as a mapping; None where it takes none."""
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return next(filter(None, map(_fields_type, get_args(annotation))), None)
    is_class = isinstance(annotation, type)
    return (
        annotation if is_class and (dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation)) else None
    )


def _dictionary(kind: Any) -> Callable[..., Any]:
    """Return a function that takes the keys of a typed dictionary."""

    def function(**keys: Any) -> None: ...

    function.__annotations__["keys"] = typing.Unpack[kind]
    return function
