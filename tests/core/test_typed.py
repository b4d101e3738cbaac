from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import pytest
from pydantic import Field

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.core.typed import Count, Positive, Share, check_fields, fitted


class Hidden(Protocol):
    """A protocol that cannot be checked at runtime."""

    def act(self) -> None: ...


@dataclass(frozen=True)
class Options:
    names: Sequence[str] = ()
    count: Count = 1
    inner: Mapping[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 3),
        (float, 1),
        (Count | None, None),
        (Share, 1.0),
        (str | Path, Path("a")),
        (Mapping[str, float], {"a": 1}),
        (Sequence[int], [1, 2]),
        (Literal["a", "b"], "b"),
        (Options, Options()),
        (Any, object()),
        (Hidden, 3),
        ("a name that only a type checker knows", 3),
    ],
)
def test_what_fits_comes_back_itself(annotation, value):
    assert fitted("x", annotation, value) is value


def test_plain_values_become_what_they_stand_for():
    assert fitted("x", tuple[int, int], [1, 2]) == (1, 2)
    assert fitted("x", Path, "folder") == Path("folder")
    assert fitted("x", Options, {"count": 3}) == Options(count=3)
    assert fitted("x", set[str], ["a"]) == {"a"}


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "3", "x: expected whole number, got '3'"),
        (int, True, "x: expected whole number, got True"),
        (float, "high", "x: expected number, got 'high'"),
        (Count, 0, "x: expected a number of at least 1, got 0"),
        (Count | None, 0, "x: expected a number of at least 1, got 0"),
        (Positive, 0, "x: expected a number above 0.0, got 0"),
        (Positive, float("inf"), "x: expected a finite number, got inf"),
        (Share, 1.5, "x: expected 0.0 to 1.0, got 1.5"),
        (Annotated[int, Field(gt=1, lt=5)], 5, "x: expected a number above 1 and below 5, got 5"),
        (Mapping[str, float], {"a": "1"}, r"x\['a'\]: expected number, got '1'"),
        (Sequence[int], 3, "x: expected list, got 3"),
        (str | Path | None, 3, r"x: expected str \| Path \| None, got 3"),
        (tuple[int, int], [1], "x"),
    ],
)
def test_what_does_not_fit_is_explained(annotation, value, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        fitted("x", annotation, value)


def test_choices_name_the_nearest():
    for annotation in (Literal["axes", "final"], Literal["axes", "final"] | None):
        with pytest.raises(UnknownNameError, match="unknown form 'axis'. Did you mean 'axes'"):
            fitted("form", annotation, "axis")
        with pytest.raises(ConfigError):
            fitted("form", annotation, 3)
    assert fitted("form", Literal["axes"] | str, "anything") == "anything"


def test_fields_of_a_dataclass():
    check_fields("options", Options, None)
    check_fields("options", Options, Options())
    check_fields("options", Options, {"names": ["a"], "count": 2})
    with pytest.raises(UnknownNameError, match="setting of options 'coutn'. Did you mean 'count'"):
        check_fields("options", Options, {"coutn": 2})
    with pytest.raises(ConfigError, match="count of options: expected a number of at least 1"):
        check_fields("options", Options, {"count": 0})
    with pytest.raises(ConfigError, match="options: expected settings by name, got 3"):
        check_fields("options", Options, 3)
