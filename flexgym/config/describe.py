"""Settings as plain values, as a table for ``--help`` and as JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from flexgym.core.annotations import spell
from flexgym.core.problems import submodel
from flexgym.core.settings import Settings
from flexgym.core.terminal import terminal
from flexgym.core.yaml_files import dump_yaml

_SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def describe(settings: Settings) -> dict[str, Any]:
    """Return settings as plain values by name, a recipe from which `flexgym.config.load_settings` makes them again.

    An object that YAML cannot hold is written as the name of its class. A section that is left out stays so.
    """
    values = settings.model_dump(mode="json", fallback=lambda value: f"{type(value).__module__}.{type(value).__name__}")
    return {name: value for name, value in values.items() if value is not None}


def dump_settings(settings: Settings) -> str:
    """Return settings as the YAML text of a recipe."""
    return dump_yaml(describe(settings))


def settings_schema(kind: type[Settings]) -> dict[str, Any]:
    """Return the JSON Schema of recipes, from which editors complete and check them.

    Args:
        kind: such as ``AgentSettings.with_algorithm(GRPO.Settings)``.
    """
    return {"$schema": _SCHEMA, **kind.model_json_schema()}


@dataclass(frozen=True)
class HelpSection:
    """Holds what ``--help`` shows of a section.

    Attributes:
        name: of the section.
        summary: what it is about.
        rows: name, values, default and meaning of each setting.
    """

    name: str
    summary: str
    rows: Sequence[Sequence[str]]


def help_sections(kind: type[Settings]) -> list[HelpSection]:
    """Return what ``--help`` shows of each section of a recipe."""
    found = []
    for name, field in kind.model_fields.items():
        model = submodel(field.annotation)
        rows = [
            (key, spell(inner.annotation, inner.metadata), _shown(inner), inner.description or "")
            for key, inner in (_leaves(model) if model else ())
        ]
        found.append(HelpSection(name, _summary(field, model), rows))
    return found


def settings_help(sections: Iterable[HelpSection]) -> RenderableType:
    """Return a table of each section: its settings with values, defaults and what they mean."""
    tables: list[RenderableType] = []
    for section in sections:
        table = Table(box=None, padding=(0, 2, 0, 2), show_header=False, pad_edge=False)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(style="dim", overflow="fold", ratio=3)
        table.add_column(style="green", overflow="fold", ratio=1, min_width=8)
        table.add_column(overflow="fold", ratio=4)
        for name, *cells in section.rows:
            table.add_row(*map(Text, (f"  {name}", *cells)))
        tables += [Text.assemble((section.name, "bold"), f"  {section.summary}"), table, Text()]
    return Group(*tables)


def help_command(sections: Callable[[], Iterable[HelpSection]], *, usage: str) -> type[TyperCommand]:
    """Return a class of commands whose ``--help`` ends with all settings of a recipe.

    Args:
        sections: called for ``--help`` alone.
        usage: sentence above the settings.
    """

    class SettingsCommand(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            terminal().print(Group(Text(), Text(usage), Text(), settings_help(sections())))

    return SettingsCommand


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the settings of a section, those of mappings in it by dotted names."""
    for name, field in model.model_fields.items():
        below = submodel(field.annotation)
        if below is None or get_origin(field.annotation) is tuple:
            yield prefix + name, field
            continue
        if isinstance(field.default, BaseModel) and field.default.model_dump(exclude_defaults=True):
            yield prefix + name, field
        yield from _leaves(below, f"{prefix}{name}.")


def _summary(field: FieldInfo, model: type[BaseModel] | None) -> str:
    documented = (model.__doc__ or "").strip().partition("\n")[0] if model else ""
    return field.description or documented


def _shown(field: FieldInfo) -> str:
    """Return the default of a setting as it would be written in a recipe."""
    if field.is_required():
        return "required"
    return dump_yaml({"value": _plain(field.default)}, flow=True).strip()[len("{value: ") : -1]


def _plain(value: Any) -> Any:
    """Return a default as plain values; of settings in it only those that differ from their own defaults."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_defaults=True)
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, Mapping) else value
