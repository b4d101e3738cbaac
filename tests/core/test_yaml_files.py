from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgym.core.errors import ConfigError
from flexgym.core.yaml_files import MAX_BYTES, dump_yaml, parse_yaml, read_yaml_mapping


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("8", 8),
        ("010", 10),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("null", None),
        ("~", None),
        ("off", "off"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("'1e-4'", "1e-4"),
        ("e4", "e4"),
        ("1e", "1e"),
    ],
)
def test_scalars_are_those_of_the_core_schema(text: str, value: Any) -> None:
    result = parse_yaml(text, source="test")
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", r"own\.yaml:3: duplicate key 'a' \(first in line 1\)"),
        ("s:\n  a: 1\n  a: 2\n", r"own\.yaml:3: duplicate key 'a'"),
        ("a: &x 1\nb: *x\n", r"own\.yaml:1: anchors and aliases"),
        ("a: !!python/object/apply:os.system ['true']\n", r"own\.yaml:1: could not determine a constructor"),
        ("- 1\n- 2\n", "expected a mapping of sections, got a list"),
        ("just text\n", "expected a mapping of sections, got the value 'just text'"),
        ("1: {}\n", "expected names as sections, got 1"),
        ("a: 1\n---\nb: 2\n", "own.yaml"),
        ("a: [1\n", r"own\.yaml:2"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 20 levels"),
        ("a: " + "9" * 5000, "a number of 5000 characters"),
        ("a: '" + "x" * MAX_BYTES + "'", "larger than 256 KiB"),
        ("? [1, 2]\n: 3\n", "a key must be a plain name"),
        ("a: \x07\n", "own.yaml"),
    ],
)
def test_what_cannot_be_trusted_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_yaml_mapping(path)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(ConfigError, match="expected UTF-8 text, got other bytes at offset 3"):
        read_yaml_mapping(path)
    with pytest.raises(ConfigError, match="got a folder"):
        read_yaml_mapping(tmp_path)


def test_lines_of_keys_and_items_at_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("# a comment\nb:\n  x: 1\n\n  y: {z: 2}\nc:\n- 3\n- {d: 4}\n")
    values, lines = read_yaml_mapping(path)
    assert values == {"b": {"x": 1, "y": {"z": 2}}, "c": [3, {"d": 4}]}
    assert lines == {
        ("b",): 2,
        ("b", "x"): 3,
        ("b", "y"): 5,
        ("b", "y", "z"): 5,
        ("c",): 6,
        ("c", 0): 7,
        ("c", 1): 8,
        ("c", 1, "d"): 8,
    }
    path.write_text("# nothing yet\n")
    assert read_yaml_mapping(path) == ({}, {})


TEXT = st.text(alphabet="aeE.+-_ 019:#'\"\n,[]{}!&*%@~\u00e9\u4e2d", max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(VALUES)
def test_dump_reads_back_here_and_in_yaml_1_1(value: Any) -> None:
    text = dump_yaml(value)
    assert parse_yaml(text, source="dump") == value
    assert yaml.safe_load(text) == value


@pytest.mark.parametrize("text", ["1e-4", "off", "010", "null", "", "1:30", "2026-01-02", "<<", "=", "0o17"])
def test_strings_that_look_like_something_else_stay_strings(text: str) -> None:
    assert parse_yaml(dump_yaml({"a": text}), source="dump") == {"a": text}
    assert yaml.safe_load(dump_yaml({"a": text})) == {"a": text}
