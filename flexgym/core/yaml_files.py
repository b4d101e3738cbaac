"""YAML as FlexGym reads and writes it: the plain part of the language, without its traps.

PyYAML follows YAML 1.1, where ``1e-4`` is a string, ``off`` a boolean, ``1:30`` the number 90 and ``010`` the number 8.
Here scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), duplicate keys, anchors
and deep nesting are refused, and the size is bounded, so that a file says what it seems to say and cannot blow up.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from flexgym.core.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"^(?:[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_CORE_SCALARS = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of the core schema, unique keys, no aliases and bounded depth."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.composer.ComposerError(
                None, None, "anchors and aliases are not used here: write the value out", event.start_mark
            )
        if self._depth >= MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain name", key_node.start_mark)
            key = self.construct_object(key_node)
            if key in lines:
                problem = f"key {key!r} stands twice (first in line {lines[key]}); keep one"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            lines[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_core_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


class _CoreDumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever YAML 1.1 or the core schema would not read back as the same string."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _CORE_SCALARS:
    _CoreLoader.add_implicit_resolver(_TAG + _name, _pattern, _first)
    _CoreDumper.add_implicit_resolver(_TAG + _name, _pattern, _first)
for _first_char, _resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items():
    _CoreDumper.yaml_implicit_resolvers.setdefault(_first_char, []).extend(_resolvers)
_CoreLoader.add_constructor(_TAG + "int", _CoreLoader.construct_core_int)


def parse_yaml(text: str, *, source: str) -> Any:
    """The plain value that ``text`` holds.

    Args:
        text: one YAML document.
        source: where it comes from, named in errors, such as a path.

    Returns:
        dict, list, str, int, float, bool or None.

    Raises:
        ConfigError: not YAML, longer than `MAX_BYTES`, a duplicate key, an alias, or an unknown tag.
    """
    return _parse(text, source)[0]


def read_yaml_mapping(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Read a YAML file whose top level is a mapping with names as keys.

    Args:
        path: the file, UTF-8.

    Returns:
        The mapping (empty for an empty file), and the line of each key of its first two levels by ``(section,)`` or
        ``(section, key)``, counted from 1.

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
    value, node = _parse(text, str(path))
    if value is None:
        return {}, {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {_kind(value)}. Write for example 'training:'.")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: expected names as sections, got {key!r}.")
    return value, _key_lines(node)


def dump_yaml(values: Any) -> str:
    """YAML text from which `parse_yaml` and any YAML 1.1 reader restore ``values``; the order of keys is kept."""
    return yaml.dump(values, Dumper=_CoreDumper, sort_keys=False, allow_unicode=True, width=110)


def _parse(text: str, source: str) -> tuple[Any, yaml.Node | None]:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConfigError(f"{source}: larger than {MAX_BYTES // 1024} KiB, which no recipe needs.")
    try:
        loader = _CoreLoader(text)
        try:
            node = loader.get_single_node()
            value = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: {error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: {error}.") from error
    return value, node


def _key_lines(node: yaml.Node | None) -> dict[tuple[str, ...], int]:
    lines: dict[tuple[str, ...], int] = {}
    if not isinstance(node, yaml.MappingNode):
        return lines
    for key, value in node.value:
        lines[(key.value,)] = key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            lines.update({(key.value, inner.value): inner.start_mark.line + 1 for inner, _ in value.value})
    return lines


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the value {value!r}"
