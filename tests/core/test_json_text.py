"""One reader for JSON from outside."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import pytest

from flexgym.core.json_text import MAX_DEPTH, JsonError, parse_json, read_json_file

ROOT = Path(__file__).parents[2]


def nested(depth, opening="[", closing="]"):
    return opening * depth + "0" + closing * depth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (nested(MAX_DEPTH + 1), "nested more than 100 levels"),
        (nested(MAX_DEPTH + 1, '{"a":', "}"), "nested more than 100 levels"),
        (nested(500, '[{"a":', "}]"), "nested"),
        ("[" * 1_000_000, "nested|Expecting"),
        ('{"a":' * 100_000, "nested|Expecting"),
        ("1" * 5000, "5000 digits"),
        ("-" + "9" * 301, "301 digits"),
        ("1e999", "finite"),
        ("[-1e999]", "finite"),
        ("1" * 400 + ".5", "finite"),
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        (r'{"prompt": "a red \ud800 circle"}', "surrogate"),
        (r'{"\udfff": 1}', "surrogate"),
        (r'["\ude00\ud83d"]', "surrogate"),
        ('["\ud800"]', "surrogate"),
        (b'["\xed\xa0\x80"]', "offset 2"),
        (b"\xff\xfe[\x00]\x00", "UTF-8"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
        ('["a\nb"]', "control character"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(JsonError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -(2**63), 10**30, 0.1, None, True, "größe 😀"]},
        json.loads(nested(MAX_DEPTH)),
        json.loads(nested(MAX_DEPTH, '{"a":', "}")),
        [[[]]] * 1000,
        r"a \ud800 in words",
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_is_read(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text) == parse_json(text.encode()) == parse_json(b"\xef\xbb\xbf" + text.encode()) == value
    assert parse_json(text, lenient=True) == value


def test_a_lenient_reader_keeps_what_matters():
    text = r'{"n": NaN, "i": 1e999, "d": %s, "s": "a \ud800 b", "k": 1, "k": 2}' % ("9" * 5000)
    value = parse_json(text, lenient=True)
    assert math.isnan(value["n"])
    assert value["i"] == value["d"] == math.inf
    assert (value["s"], value["k"]) == ("a \ufffd b", 2)
    assert parse_json(str(10**18), lenient=True) == 10**18
    with pytest.raises(JsonError, match="nested"):
        parse_json(nested(MAX_DEPTH + 1), lenient=True)


def test_rows_may_hold_what_python_writes_for_missing_numbers():
    row = parse_json('{"a": NaN, "b": -Infinity, "c": 1}', nan=True)
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (-math.inf, 1)
    with pytest.raises(JsonError, match="finite"):
        parse_json('{"a": 1e999}', nan=True)


def test_files_are_bounded(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1, 2, 3]")
    assert read_json_file(path) == [1, 2, 3]
    with pytest.raises(JsonError, match="at most 8 bytes"):
        read_json_file(path, max_bytes=8)


def test_everything_else_reads_json_through_it():
    """`json.loads` and its kin are left to the reader itself and to programs that read what they wrote themselves."""
    allowed = {
        "flexgym/core/json_text.py",
        "flexgym/judge/parser.py",  # replies of judges: JSON within prose, with its own rules
    }
    found = set()
    for path in (ROOT / "flexgym").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_reader = isinstance(node, ast.Attribute) and node.attr in ("load", "loads", "JSONDecoder")
            if is_reader and isinstance(node.value, ast.Name) and node.value.id == "json":
                found.add(str(path.relative_to(ROOT)))
    assert found <= allowed
