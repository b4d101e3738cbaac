"""YAML as FlexGym reads and writes it: YAML 1.2 without anchors, tags or duplicate keys, with the line of every key.

Scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), so that ``1e-4`` is a number
and ``off``, ``1:30`` and ``2026-01-02`` are text. What is written reads back the same under YAML 1.1 as well.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from flexgym.core.errors import ConfigError
from flexgym.core.text import is_whole

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_DIGITS = 300
"""Maximum number of characters of a number, which then is finite as a float unless it is written as infinite."""

KeyPath = tuple[str | int, ...]
"""Keys of mappings and positions in lists, from the top of a document."""

_INT = r"[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"~|null|Null|NULL|"), lambda text: None),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text.lower() == "true"),
    (re.compile(_INT), lambda text: int(text, 0) if text[:2] in ("0x", "0o") else int(text)),
    (re.compile(_FLOAT), lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan"))),
)
_NUMBER = re.compile(f"{_INT}|{_FLOAT}")
_BARE = re.compile(r"[A-Za-z/][\w./+-]*(?: [\w./+-]+)*", re.ASCII)
_NOT_TEXT = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


class _RefusedError(ValueError):
    """A part of a document that is valid YAML and not used here; holds its line."""

    def __init__(self, node: Node, problem: str) -> None:
        super().__init__(problem)
        self.line = node.start_mark.line + 1


def parse_yaml(text: str, *, source: str) -> Any:
    """Return the plain value that ``text`` holds.

    Args:
        text: one YAML document.
        source: named in errors, such as a path.

    Returns:
        dict, list, str, int, float, bool or None.

    Raises:
        ConfigError: not YAML, longer than `MAX_BYTES`, nested too deep, or with a duplicate key, an anchor or a tag.
    """
    return _parse(text, source)[0]


def read_yaml_mapping(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Read a YAML file whose top level is a mapping with names as keys.

    Args:
        path: the file, UTF-8.

    Returns:
        The mapping (empty for an empty file), and the line of each key and list item at any depth, counted from 1.

    Raises:
        ConfigError: unreadable, not UTF-8, larger than `MAX_BYTES`, or not such a mapping.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: expected a YAML file, got a folder.")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, got other bytes at offset {error.start}.") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    value, lines = _parse(text, str(path))
    if value is None:
        return {}, {}
    if not isinstance(value, dict):
        got = "a list" if isinstance(value, list) else f"the value {value!r}"
        raise ConfigError(f"{path}: expected a mapping of sections, got {got}. Write for example 'training:'.")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: expected names as sections, got {key!r}.")
    return value, lines


def dump_yaml(values: Any, *, flow: bool = False) -> str:
    """Return YAML text that `parse_yaml` and any reader of YAML 1.1 restore to ``values``, in their order.

    Args:
        values: of plain types.
        flow: write everything on one line, with brackets.
    """
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    writer.default_flow_style = flow
    writer.width = sys.maxsize
    writer.allow_unicode = True
    stream = io.StringIO()
    writer.dump(values, stream)
    return stream.getvalue()


def _parse(text: str, source: str) -> tuple[Any, dict[KeyPath, int]]:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConfigError(f"{source}: larger than {MAX_BYTES // 1024} KiB, which no recipe needs.")
    reader = YAML(typ="safe", pure=True)
    reader.max_depth = MAX_DEPTH
    lines: dict[KeyPath, int] = {}
    try:
        node = reader.compose(text)
        value = None if node is None else _value(node, (), lines)
    except _RefusedError as error:
        raise ConfigError(f"{source}:{error.line}: {error}.") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        if isinstance(error, MaxDepthExceededError):
            raise ConfigError(f"{where}: nested more than {MAX_DEPTH} levels deep.") from error
        raise ConfigError(f"{where}: {error.problem or error.context}.") from error
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: {error}.") from error
    return value, lines


def _value(node: Node, path: KeyPath, lines: dict[KeyPath, int]) -> Any:
    """Return the plain value of a node and note the lines of what it holds."""
    if node.anchor is not None:
        raise _RefusedError(node, "anchors and aliases are not used here: write the value out")
    if node.ctag.handle is not None:
        raise _RefusedError(node, f"could not determine a constructor for the tag {node.tag!r}: tags are not used here")
    if isinstance(node, MappingNode):
        return _mapping(node, path, lines)
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
        return [_value(item, (*path, index), lines) for index, item in enumerate(node.value)]
    assert isinstance(node, ScalarNode)
    return _scalar(node)


def _mapping(node: MappingNode, path: KeyPath, lines: dict[KeyPath, int]) -> dict[Any, Any]:
    values: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, ScalarNode):
            raise _RefusedError(key_node, "a key must be a plain name")
        key = _value(key_node, path, lines)
        if key in values:
            raise _RefusedError(key_node, f"duplicate key {key!r} (first in line {lines[*path, key]}); keep one")
        lines[(*path, key)] = key_node.start_mark.line + 1
        values[key] = _value(value_node, (*path, key), lines)
    return values


def _scalar(node: ScalarNode) -> Any:
    text = str(node.value)
    if not is_whole(text):
        raise _RefusedError(node, f"half of a surrogate pair, which is no character, in {text[:80]!r}")
    if node.style:  # quoted, or a block of text
        return text
    if len(text) > MAX_DIGITS and _NUMBER.fullmatch(text):
        raise _RefusedError(node, f"a number of {len(text)} characters, expected at most {MAX_DIGITS}")
    try:
        return next((build(text) for pattern, build in _SCALARS if pattern.fullmatch(text)), text)
    except ValueError as error:
        raise _RefusedError(node, str(error)) from error


class _Representer(SafeRepresenter):
    """Quotes whatever a reader of YAML 1.1 or 1.2 would not take for the same text or number."""

    def represent_text(self, text: str) -> Any:
        bare = _BARE.fullmatch(text) and text.lower() not in _NOT_TEXT
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if bare else '"')

    def represent_number(self, number: float) -> Any:
        node = self.represent_float(number)
        if "." not in node.value and "e" in node.value:  # 1e-05 is text in YAML 1.1
            node.value = node.value.replace("e", ".0e", 1)
        return node

    def represent_fields(self, values: dict[Any, Any]) -> Any:
        return self.represent_mapping("tag:yaml.org,2002:map", values.items())

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Representer.add_representer(str, _Representer.represent_text)
_Representer.add_representer(float, _Representer.represent_number)
_Representer.add_representer(dict, _Representer.represent_fields)
