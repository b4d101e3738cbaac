from __future__ import annotations

from dataclasses import dataclass

import pytest

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.core.options import built_settings, check_count, describe, make_choice


@dataclass(frozen=True)
class Full:
    pass


@dataclass(frozen=True)
class Regular:
    k: int
    order: bool = False


KNOWN = {"full": Full, "regular": Regular}


def choose(value: object) -> object:
    return make_choice("schedule", value, base=(Full, Regular), known=KNOWN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("full", Full()),
        ("regular(6)", Regular(6)),
        (" regular ( 6 ) ", Regular(6)),
        ({"name": "regular", "k": 6, "order": True}, Regular(6, order=True)),
        (Regular(2), Regular(2)),
    ],
)
def test_choices_in_every_form(value: object, expected: object) -> None:
    assert choose(value) == expected


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ("reglar(6)", UnknownNameError, "unknown schedule 'reglar'. Did you mean 'regular'"),
        ("full(6)", ConfigError, r"schedule 'full' takes no number, got 'full\(6\)'"),
        ("regular", ConfigError, "schedule 'regular': .*'k'"),
        ("regular 6", ConfigError, "expected a schedule such as"),
        ({"k": 6}, ConfigError, "expected a schedule such as"),
        ({"name": "regular", "kk": 6}, UnknownNameError, "Did you mean 'k'"),
    ],
)
def test_bad_choices_are_rejected(value: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        choose(value)


def test_descriptions_read_like_choices() -> None:
    assert describe("regular(6)") == "regular(6)"
    assert describe({"name": "full"}) == "full"
    assert describe({"name": "regular", "k": 6, "order": True}) == "regular(k=6, order=True)"


def test_settings_by_name() -> None:
    assert built_settings("inputs", Regular, {"k": 3}) == Regular(3)
    assert built_settings("inputs", Regular, None, defaults={"k": 4}) == Regular(4)
    assert built_settings("inputs", Regular, {"k": 3}, defaults={"k": 4, "order": True}) == Regular(3, order=True)
    with pytest.raises(ConfigError, match=r"inputs: expected settings by name, got \[3\]"):
        built_settings("inputs", Regular, [3])  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown setting of inputs 'oder'. Did you mean 'order'"):
        built_settings("inputs", Regular, {"oder": True})


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "2", None])
def test_what_is_no_count(value: object) -> None:
    with pytest.raises(ConfigError, match=f"size must be a whole number of at least 1, got {value!r}"):
        check_count("size", value)
    check_count("size", 1)
