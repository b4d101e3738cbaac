"""Recipes as they are written: YAML files of sections, and the overrides of a command line."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexgym.core.errors import ConfigError, UnknownNameError, nearest_name
from flexgym.core.yaml_files import parse_yaml, read_yaml_mapping
from flexgym.runs.checkpoints import resolve_checkpoint

SHIPPED = Path(__file__).resolve().parents[2] / "configs"

_NULLS = ("null", "~", "Null", "NULL")


class Recipe(dict[str, Any]):
    """Sections by name, each a mapping of keyword arguments, which remembers where every key was written.

    Attributes:
        source: what an error names when it knows nothing closer, such as the file.
        origins: file and line, or the override, by ``(section,)`` and ``(section, key)``.
    """

    def __init__(self, sections: Mapping[str, Any], *, source: str, origins: Mapping[tuple[str, ...], str]) -> None:
        super().__init__(sections)
        self.source = source
        self.origins = dict(origins)

    def origin(self, *keys: str) -> str:
        """Where ``(section,)`` or ``(section, key)`` was written."""
        return self.origins.get(keys) or self.origins.get(keys[:1]) or self.source


def load_recipe(path: str | Path, *, shipped: Path = SHIPPED) -> Recipe:
    """Read a recipe.

    Args:
        path: a YAML file. One that does not exist but is called like a shipped recipe, with or without ``configs/`` and
            ``.yaml``, means the shipped one.
        shipped: folder of the shipped recipes.

    Returns:
        The sections as a dict; they are checked against a config class by `apply_recipe`.

    Raises:
        ConfigError: unreadable, too large, not a mapping of mappings, or a key that stands twice.
        UnknownNameError: neither a file nor a shipped name; the message lists those.
    """
    file = _find(Path(path), shipped)
    sections, lines = read_yaml_mapping(file)
    origins = {keys: f"{file}:{line}" for keys, line in lines.items()}
    recipe = Recipe({}, source=str(file), origins=origins)
    for section, values in sections.items():
        if values is None:  # a section whose keys are all commented out
            values = {}
        if not isinstance(values, dict):
            raise ConfigError(
                f"{recipe.origin(section)}: section {section!r}: expected a mapping such as "
                f"'{section}: {{key: value}}', got {values!r}."
            )
        recipe[section] = values
    return recipe


def shipped_recipes(folder: Path = SHIPPED) -> dict[str, Path]:
    """The recipes that come with FlexGym, by name without ``.yaml``."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def apply_overrides(recipe: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """A copy of a recipe with values set from the command line.

    Args:
        recipe: sections by name; not changed.
        overrides: ``"section.key=value"``, in order, the later one wins. The value is YAML (``1e-4`` a number,
            ``true``, ``null``, ``[[0, 1e-2], [100, 1e-3]]``); a longer name such as ``environment.env_config.size=8``
            reaches into a mapping.

    Raises:
        ConfigError: not of that form, or the name runs into something that is no mapping.
    """
    known = recipe if isinstance(recipe, Recipe) else Recipe(recipe, source="recipe", origins={})
    result = Recipe(copy.deepcopy(dict(known)), source=known.source, origins=known.origins)
    for override in overrides:
        keys, value = _split_override(override)
        place: Any = result
        for depth, key in enumerate(keys[:-1]):
            place = place.setdefault(key, {})
            if place is None and depth == 0:
                place = result[key] = {}
            if not isinstance(place, dict):
                raise ConfigError(
                    f"override {override!r}: {'.'.join(keys[: depth + 1])!r} is {place!r}, "
                    f"so it has no {keys[depth + 1]!r}."
                )
        place[keys[-1]] = value
        result.origins[keys[:2]] = f"override {override!r}"
        result.origins.setdefault(keys[:1], f"override {override!r}")
    return result


def saved_recipe(run: Path) -> Recipe:
    """The recipe that a run was started with.

    Args:
        run: a run folder, or one checkpoint in it.

    Raises:
        CheckpointError: when there is no whole checkpoint to go on from.
    """
    return load_recipe(resolve_checkpoint(run).resolve().parents[1] / "config.yaml")


def _find(path: Path, shipped: Path) -> Path:
    if path.exists():
        return path
    recipes = shipped_recipes(shipped)
    if path.parent in (Path("."), Path("configs")) and path.suffix in ("", ".yaml", ".yml") and path.stem in recipes:
        return recipes[path.stem]
    raise UnknownNameError(
        f"{path}: no such file, and no shipped recipe of that name. {nearest_name(path.stem, recipes)}"
        if recipes
        else f"{path}: no such file."
    )


def _split_override(override: str) -> tuple[tuple[str, ...], Any]:
    name, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in name.split("."))
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(f"override {override!r}: expected section.key=value, such as learners.num_learners=8.")
    text = text.strip()
    value = parse_yaml(text, source=f"override {override!r}")
    if value is None and text not in _NULLS:
        raise ConfigError(f"override {override!r}: the value is missing. Write null for none or '' for an empty text.")
    return keys, value
