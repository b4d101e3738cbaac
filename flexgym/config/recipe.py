"""Recipes as they are written: YAML files of sections, and the overrides of a command line."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexgym.core.errors import ConfigError, UnknownNameError, nearest_name
from flexgym.core.problems import KeyPath
from flexgym.core.secrets import names_a_secret, refuse_secrets, secret_error
from flexgym.core.yaml_files import parse_yaml, read_yaml_mapping

_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = next(filter(Path.is_dir, (_PACKAGE / "configs", _PACKAGE.parent / "configs")), _PACKAGE / "configs")
"""Folder of the shipped recipes: inside the package in a wheel, beside it in a checkout."""

_NULLS = ("null", "~", "Null", "NULL")


class Recipe(dict[str, Any]):
    """Sections by name, each a mapping, with the place where every key was written.

    Attributes:
        source: what an error names when nothing closer is known, such as the file.
        origins: file and line, or the override, by path.
    """

    def __init__(self, sections: Mapping[str, Any], *, source: str, origins: Mapping[KeyPath, str]) -> None:
        super().__init__(sections)
        self.source = source
        self.origins = dict(origins)

    @classmethod
    def of(cls, sections: Mapping[str, Any]) -> Recipe:
        """Return sections as a recipe; a recipe stays itself."""
        return sections if isinstance(sections, Recipe) else cls(sections, source="recipe", origins={})

    def origin(self, *path: str | int) -> str:
        """Return where a setting was written, or what holds it: file and line, or the override."""
        places = (self.origins.get(path[:depth]) for depth in range(len(path), 0, -1))
        return next(filter(None, places), self.source)


def load_recipe(path: str | Path, *, shipped: Path = SHIPPED) -> Recipe:
    """Read a recipe.

    Args:
        path: a YAML file. One that does not exist but is called like a shipped recipe, with or without ``configs/`` and
            ``.yaml``, means the shipped one.
        shipped: folder of the shipped recipes.

    Returns:
        The sections, unchecked; `flexgym.config.load_settings` checks them.

    Raises:
        ConfigError: unreadable, too large, not a mapping of mappings, or with a duplicate key or a password.
        UnknownNameError: neither a file nor a shipped name; the message lists those.
    """
    file = _find(Path(path), shipped)
    sections, lines = read_yaml_mapping(file)
    refuse_secrets(sections, source=str(file))
    recipe = Recipe({}, source=str(file), origins={keys: f"{file}:{line}" for keys, line in lines.items()})
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
    """Return the recipes that come with FlexGym, by name without ``.yaml``."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def apply_overrides(recipe: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """Return a copy of a recipe with values set from the command line.

    Args:
        recipe: sections by name; not changed.
        overrides: ``"section.key=value"``, in order; a later one wins. The value is YAML (``1e-4`` a number, ``true``,
            ``null``, ``[[0, 1e-2], [100, 1e-3]]``); a longer name such as ``generator.lora.rank=8`` reaches into a
            mapping.

    Raises:
        ConfigError: not of that form, a key or password, or the name leads into something that is no mapping.
    """
    known = Recipe.of(recipe)
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
        _note_origin(result, keys, f"override {override!r}")
    return result


def _note_origin(recipe: Recipe, keys: tuple[str, ...], origin: str) -> None:
    """Note where a value was set; what was written below it before is gone."""
    for path in [path for path in recipe.origins if path[: len(keys)] == keys]:
        del recipe.origins[path]
    recipe.origins[keys] = origin
    for depth in range(1, len(keys)):
        recipe.origins.setdefault(keys[:depth], "command line")


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
        raise ConfigError(f"override {override!r}: expected section.key=value, such as training.lr=1e-4.")
    if names_a_secret(keys[-1]):
        raise secret_error(".".join(keys), source="override")
    text = text.strip()
    value = parse_yaml(text, source=f"override {override!r}")
    refuse_secrets({keys[-1]: value}, source="override")
    if value is None and text not in _NULLS:
        raise ConfigError(f"override {override!r}: the value is missing. Write null for none or '' for an empty text.")
    return keys, value
