"""Constructor arguments: which a class takes, whether values fit them, and which an instance was built with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter
from typing import Any, NotRequired, Required, Unpack, get_args, get_origin, get_type_hints

from flexgym.core.errors import ConfigError, check_names
from flexgym.core.typed import fitted

_RECORD = "_constructor_arguments"


def recorded(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that `recorded_arguments` knows what the instance was built with."""

    @wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        # The constructors of base classes run inside of this one; the outermost call counts.
        if _RECORD not in vars(self):
            vars(self)[_RECORD] = _by_name(init, (self, *args), kwargs)
        init(self, *args, **kwargs)

    return __init__


def recorded_arguments(instance: Any) -> dict[str, Any] | None:
    """Return the keyword arguments that build an equal instance; None where they are not known."""
    arguments = vars(instance).get(_RECORD)
    return None if arguments is None else dict(arguments)


def _by_name(init: Callable[..., None], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    signature = inspect.signature(init)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # raised again, in Python's own words, by the call itself
        return None
    named: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        kind = signature.parameters[name].kind
        if kind in (Parameter.VAR_POSITIONAL, Parameter.POSITIONAL_ONLY):
            return None
        named.update(value if kind is Parameter.VAR_KEYWORD else {name: value})
    return named


def setting_parameters(cls: type, *, bounds: bool = True) -> list[Parameter]:
    """Return the settings of a class as keyword-only parameters with resolved annotations.

    Args:
        cls: a class whose constructor takes them. The keys of ``**settings: Unpack[SomeTypedDict]`` count one by one;
            the default of an optional key is None if it may be None, and else ``...``, which means "not given".
        bounds: keep what ``Annotated`` says in the annotations, such as bounds.

    Returns:
        The parameters in order. A plain ``**settings`` comes last and means that any name is taken.
    """
    hints = _type_hints(cls.__init__, bounds)  # type: ignore[misc]
    named: list[Parameter] = []
    last: list[Parameter] = []
    for parameter in inspect.signature(cls).parameters.values():
        annotation = hints.get(parameter.name, parameter.annotation)
        if parameter.kind is Parameter.VAR_KEYWORD and get_origin(annotation) is Unpack:
            named += _typed_keys(get_args(annotation)[0], bounds)
        elif parameter.kind is Parameter.VAR_KEYWORD:
            last.append(parameter.replace(annotation=annotation))
        elif parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            named.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=annotation))
    return named + last


def _typed_keys(kind: Any, bounds: bool) -> list[Parameter]:
    marked = get_type_hints(kind, include_extras=True)
    plain = get_type_hints(kind)
    keys = []
    for key, hint in marked.items():
        is_marked = get_origin(hint) in (Required, NotRequired)
        required = get_origin(hint) is Required if is_marked else key in kind.__required_keys__
        annotation = plain[key] if not bounds else get_args(hint)[0] if is_marked else hint
        absent = None if type(None) in get_args(annotation) else ...
        default = Parameter.empty if required else absent
        keys.append(Parameter(key, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return keys


def _type_hints(function: Any, bounds: bool) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=bounds)
    except (NameError, AttributeError, TypeError):  # names that only a type checker can see
        return {}


def fitted_arguments(
    what: str, parameters: Sequence[Parameter], values: Mapping[str, Any], *, also: Sequence[str] = ()
) -> dict[str, Any]:
    """Validate keyword arguments before a call: no unknown name, none missing, and types where annotated.

    Args:
        what: name of what takes them, for messages.
        parameters: the keyword-only parameters, see `setting_parameters`.
        values: the arguments by name.
        also: more names that are valid, for the hint if one is misspelled.

    Returns:
        The arguments, converted where `flexgym.core.typed.fitted` converts them.

    Raises:
        UnknownNameError: for an unknown name; the message names the nearest valid one.
        ConfigError: for a missing argument, or a value that does not fit its annotation.
    """
    named = {parameter.name: parameter for parameter in parameters if parameter.kind is not Parameter.VAR_KEYWORD}
    if len(named) == len(parameters):
        check_names(f"setting of {what}", values, [*named, *also])
    for name, parameter in named.items():
        if name not in values and parameter.default is Parameter.empty:
            raise ConfigError(f"{what}: missing a required argument: {name!r}")
    return {
        name: fitted(f"{name} of {what}", named[name].annotation, value) if name in named else value
        for name, value in values.items()
    }
