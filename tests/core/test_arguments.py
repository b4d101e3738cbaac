from __future__ import annotations

from inspect import Parameter
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

import pytest

from flexgym.core.arguments import fitted_arguments, recorded, recorded_arguments, setting_parameters
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.core.typed import Count

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


class Keys(TypedDict, total=False):
    size: Required[int]
    label: str | None
    scale: float


class Typed:
    def __init__(self, first: Count, *, second: str = "a", **keys: Unpack[Keys]) -> None: ...


class Open:
    def __init__(self, first, /, second=3, *rest: int, **others: Any) -> None: ...


class Foreign:
    def __init__(self, value: Unknown = None) -> None: ...


def test_settings_are_keyword_only_and_typed():
    parameters = setting_parameters(Typed, bounds=False)
    assert [(each.name, each.annotation, each.default) for each in parameters] == [
        ("first", int, Parameter.empty),
        ("second", str, "a"),
        ("size", int, Parameter.empty),
        ("label", str | None, None),
        ("scale", float, ...),
    ]
    assert {each.kind for each in parameters} == {Parameter.KEYWORD_ONLY}
    assert setting_parameters(Typed)[0].annotation == Count


def test_any_setting_and_names_that_only_a_type_checker_knows():
    second, others = setting_parameters(Open)
    assert (second.name, others.name, others.kind) == ("second", "others", Parameter.VAR_KEYWORD)
    [value] = setting_parameters(Foreign)
    assert value.annotation == "Unknown"
    assert fitted_arguments("it", [value], {"value": 3}) == {"value": 3}
    assert fitted_arguments("it", [second, others], {"anything": 3}) == {"anything": 3}


def test_arguments_are_validated():
    parameters = setting_parameters(Typed)
    assert fitted_arguments("it", parameters, {"first": 1, "size": 2}) == {"first": 1, "size": 2}
    with pytest.raises(UnknownNameError, match="setting of it 'labl'. Did you mean 'label'"):
        fitted_arguments("it", parameters, {"first": 1, "size": 2, "labl": "x"})
    with pytest.raises(ConfigError, match="it: missing a required argument: 'size'"):
        fitted_arguments("it", parameters, {"first": 1})
    with pytest.raises(ConfigError, match="first of it: expected a number of at least 1, got 0"):
        fitted_arguments("it", parameters, {"first": 0, "size": 2})


class Base:
    @recorded
    def __init__(self, value, *, scale=1.0):
        self.value = value


class Derived(Base):
    @recorded
    def __init__(self, name, **others):
        super().__init__(len(name), **others)


class Many(Base):
    @recorded
    def __init__(self, *values):
        super().__init__(values)


def test_the_outermost_constructor_is_recorded():
    assert recorded_arguments(Base(3)) == {"value": 3}
    assert recorded_arguments(Derived("abc", scale=2.0)) == {"name": "abc", "scale": 2.0}
    assert recorded_arguments(Many(1, 2)) is None
    assert recorded_arguments(object.__new__(Base)) is None
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'value'"):
        Base()
