"""Recipes to settings: every value at every depth is checked, and all that is wrong is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from flexgym.config.moved import explained
from flexgym.config.recipe import Recipe
from flexgym.core.errors import FlexGymError, UnknownNameError
from flexgym.core.problems import KeyPath, Problem, blamed, settings_error
from flexgym.core.secrets import refuse_secrets
from flexgym.core.settings import Settings

S = TypeVar("S", bound=Settings)
CheckReward = Callable[[str, Mapping[str, Any]], object]
"""Raises where there is no reward of a name, or where it cannot have these settings."""
CheckEnvironment = Callable[[str, Mapping[str, Any]], object]
"""Raises where there is no environment of an id, or where it cannot have these arguments."""
CheckPrompts = Callable[[Any], object]
"""Raises where prompts cannot be read: the path of a file, or a list."""


def load_settings(
    kind: type[S],
    recipe: Mapping[str, Any],
    *,
    check_reward: CheckReward | None = None,
    check_environment: CheckEnvironment | None = None,
    check_prompts: CheckPrompts | None = None,
) -> S:
    """Return the settings of a recipe.

    Args:
        kind: such as `flexgym.config.AgentSettings`.
        recipe: sections by name, from `load_recipe`, `apply_overrides` or a plain mapping.
        check_reward: checks rewards, which are defined above this package; None checks none.
        check_environment: checks the environment, which is defined above this package; None checks none.
        check_prompts: checks prompts, whose format belongs to the environments; None checks none.

    Raises:
        ConfigError: naming for each wrong setting its file and line or override, the expected values and the value
            that came.
        UnknownNameError: all that is wrong are names, each with its nearest valid one.
    """
    known = Recipe.of(recipe)
    refuse_secrets(known, source=known.source)
    left_out = {name for name, field in kind.model_fields.items() if not field.is_required() and field.default is None}
    values = {name: {} if given is None and name not in left_out else given for name, given in known.items()}
    settings, problems = kind.check(values)
    problems = list(_explained(problems, kind, values))
    found: list[Problem] = []
    if check_environment is not None and "environment" in kind.model_fields:
        found += _environment_problems(kind, values, check_environment)
    if check_reward is not None:
        found += _reward_problems(values, check_reward)
    if check_prompts is not None:
        found += _prompt_problems(values, check_prompts)
    wrong = {problem.path for problem in problems}
    problems += [problem for problem in found if problem.path not in wrong]
    if problems or settings is None:
        raise settings_error(problems, origin=lambda path: known.origin(*path))
    return settings


def _explained(problems: Iterable[Problem], kind: type[Settings], values: Mapping[str, Any]) -> Iterator[Problem]:
    known = kind.names(values)
    for problem in problems:
        if problem.unknown:
            yield from explained(problem, _value_at(values, problem.path), known=known)
        else:
            yield problem


def _value_at(values: Any, path: KeyPath) -> Any:
    for key in path:
        present = key in values if isinstance(values, Mapping) else isinstance(key, int) and isinstance(values, list)
        if not present:
            return None
        values = values[key]
    return values


def _environment_problems(
    kind: type[Settings], values: Mapping[str, Any], check: CheckEnvironment
) -> Iterator[Problem]:
    given = _value_at(values, ("environment",))
    default = kind.model_fields["environment"].default
    section = {"env": default.env, "settings": {}, **(given if isinstance(given, Mapping) else {})}
    if isinstance(section["env"], str):
        yield from _settings_problems(
            check, section["env"], section["settings"], at=("environment", "env"), below=("environment", "settings")
        )


def _reward_problems(values: Mapping[str, Any], check: CheckReward) -> Iterator[Problem]:
    for at, name, below, settings in _named_rewards(values):
        yield from _settings_problems(check, name, settings, at=at, below=below)


def _settings_problems(
    check: Callable[[str, Mapping[str, Any]], object], name: str, settings: Any, *, at: KeyPath, below: KeyPath
) -> Iterator[Problem]:
    """Yield the problem that a check finds in a name with settings, if any.

    Args:
        check: raises ConfigError for invalid settings.
        name: of a reward or environment.
        settings: its settings by name; any other value is rejected elsewhere.
        at: path to the name.
        below: path to the settings.
    """
    own = settings if isinstance(settings, Mapping) else {}
    try:
        check(name, own)
    except FlexGymError as error:
        path = blamed(own, str(error))
        yield Problem((*below, *path) if path else at, str(error), unknown=isinstance(error, UnknownNameError))


def _named_rewards(values: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, KeyPath, Mapping[str, Any]]]:
    """Yield the rewards of a recipe as far as they are well-formed: path and name, path and settings."""
    candidates: list[tuple[KeyPath, Any, str]] = [(("reward",), values.get("reward"), "name")]
    for section, key in (("reward", "monitors"), ("verification", "rewards")):
        listed = _value_at(values, (section, key))
        for index, entry in enumerate(listed if isinstance(listed, list | tuple) else ()):
            candidates.append(((section, key, index), entry, "reward"))
    candidates.append((("verification", "reward"), _value_at(values, ("verification", "reward")), ""))
    for path, entry, key in candidates:
        if isinstance(entry, str) and path != ("reward",):
            yield path, entry, path, {}
        elif isinstance(entry, Mapping) and isinstance(name := entry.get(key), str):
            settings = entry.get("settings", {})
            yield (*path, key), name, (*path, "settings"), settings if isinstance(settings, Mapping) else {}


def _prompt_problems(values: Mapping[str, Any], check: CheckPrompts) -> Iterator[Problem]:
    for section in ("rollout", "verification"):
        prompts = _value_at(values, (section, "prompts"))
        if not isinstance(prompts, str | list | tuple):
            continue
        try:
            check(prompts)
        except FlexGymError as error:
            yield Problem((section, "prompts"), str(error))
