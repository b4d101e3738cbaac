"""Train one recipe under several rewards and seeds, to compare which of them pay off and which are overoptimized.

``python -m agents.compare --reward ShapesOracle --reward JPEGCompressibility --seed 0 --seed 1 run.iterations=60``
makes ordinary runs in one folder, and from those that exist a table (``comparison.md``, ``.json``) and a figure
(``.png``).
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from flexgym.commands.train import command_names, train_words
from flexgym.config.recipe import Recipe, apply_overrides, load_recipe
from flexgym.core.errors import ConfigError
from flexgym.core.files import write_atomic
from flexgym.core.options import check_count
from flexgym.core.terminal import say, teaching_errors
from flexgym.reward import JudgeReward
from flexgym.rewards.registry import reward_class
from flexgym.rewards.validate import settings_of
from flexgym.runs.comparison import ComparedRun, comparison_table
from flexgym.runs.comparison_figure import draw_comparison
from flexgym.runs.series import Series, check_unchanged

DEFAULT_RECIPE = "pref_grpo_shapes_t2i.yaml"
DEFAULT_AGENT = "pref_grpo"
# What the runs of one comparison may differ in: the reward, what only its own curve needs, and the seed.
DIFFERS = ("run", "reward.name", "reward.settings", "rollout.reference_interval")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]{0,79}")
_RUN = re.compile(r"(?P<label>.+)-seed(?P<seed>\d+)")


@dataclass(frozen=True)
class Candidate:
    """A reward of the comparison.

    Attributes:
        name: of the reward, or the path of a class of one's own.
        settings: of the reward.
        label: what it is called in the comparison and in the names of its runs; the class's name by default.

    Raises:
        UnknownNameError: no such reward; the message holds the nearest one.
        ConfigError: a label that cannot be part of a folder's name.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", str(self.label or reward_class(self.name).__name__))
        if not _LABEL.fullmatch(self.label):
            raise ConfigError(f"label {self.label!r}: expected letters, digits, '.' and '_', at most 80")

    @classmethod
    def parse(cls, words: str) -> Candidate:
        """Parse ``NAME [key=value ...]``; the key ``label`` sets the label, all others are settings of the reward.

        Raises:
            ConfigError: another form.
        """
        name, *rest = shlex.split(words) or [""]
        settings = settings_of(rest)
        return cls(name, label=settings.pop("label", ""), settings=settings)

    def recipe(self, base: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return the recipe of one run: the recipe of the comparison with this reward and a seed.

        Settings that the base has for the same reward stay. For a judge, the reference policy is sampled with every
        verification: the win rate against it is the reward's own curve.
        """
        recipe = copy.deepcopy(dict(base))
        reward = recipe.get("reward") or {}
        same = reward.get("name") and reward_class(reward["name"]) is reward_class(self.name)
        settings = {**((reward.get("settings") or {}) if same else {}), **self.settings}
        recipe["reward"] = {**reward, "name": self.name, "settings": settings}
        recipe["run"] = {**(recipe.get("run") or {}), "seed": seed}
        if issubclass(reward_class(self.name), JudgeReward):
            interval = (recipe.get("verification") or {}).get("interval") or 20
            recipe["rollout"] = {"reference_interval": interval, **(recipe.get("rollout") or {})}
        return recipe


def add_runs(
    series: Series, base: Mapping[str, Any], candidates: Sequence[Candidate], *, seeds: Sequence[int]
) -> list[str]:
    """Add a run for each reward and seed.

    Returns:
        Their names.

    Raises:
        ConfigError: two rewards of the same label, or a run that is there has other settings than those of the base.
    """
    labels = [candidate.label for candidate in candidates]
    if len(set(labels)) < len(labels):
        raise ConfigError(
            f"--reward: expected a label of its own for each, got {labels}; give one as in 'CLIPScore label=clip_b'"
        )
    recipes = {
        f"{candidate.label}-seed{seed}": candidate.recipe(base, seed) for candidate in candidates for seed in seeds
    }
    for name in series.names():
        for recipe in recipes.values():
            check_unchanged(f"{series.root}: it holds runs with", series.recipe(name), recipe, aside=DIFFERS)
    for name, recipe in recipes.items():
        series.add(name, recipe)
    return list(recipes)


def compared_runs(series: Series) -> list[ComparedRun]:
    """Return all runs of a comparison with their results so far, sorted by reward and seed."""
    runs = []
    for name in series.names():
        match = _RUN.fullmatch(name)
        assert match is not None, "add_runs() names the runs"
        folder = series.folder(name)
        runs.append(
            ComparedRun(
                label=match["label"],
                seed=int(match["seed"]),
                rows=series.rows(name),
                outcome=series.outcome(name),
                folder=folder.name if folder else "",
            )
        )
    return sorted(runs, key=lambda run: (run.label, run.seed))


def write_comparison(series: Series) -> str:
    """Write ``comparison.md``, ``.json`` and ``.png`` from the runs that are there.

    Returns:
        The Markdown.
    """
    runs = compared_runs(series)
    table = comparison_table(runs)
    write_atomic(series.root / "comparison.md", table.encode())
    figures = json.dumps([run.figures() for run in runs], indent=1, ensure_ascii=False)
    write_atomic(series.root / "comparison.json", figures.encode())
    draw_comparison(runs, series.root / "comparison.png")
    return table


def _base(config: str, overrides: Sequence[str]) -> Recipe:
    recipe = apply_overrides(load_recipe(config), overrides)
    for section, key, option in (("run", "seed", "--seed"), ("reward", "name", "--reward")):
        if any(override.startswith(f"{section}.{key}=") for override in overrides):
            raise ConfigError(f"override {section}.{key}: in a comparison it is set by {option}")
    return recipe


def compare(
    series: Series,
    base: Mapping[str, Any],
    candidates: Sequence[Candidate],
    *,
    seeds: Sequence[int],
    parallel: int = 1,
    report: Callable[[str], None],
) -> bool:
    """Train every unfinished run, one for each reward and seed, then write table and figure.

    Args:
        series: the runs.
        base: recipe of all of them, with whatever reward and seed.
        candidates: the rewards.
        seeds: of each reward.
        parallel: runs at a time.
        report: called with each line of progress, and with the table.

    Returns:
        True if all of these runs are finished.

    Raises:
        ConfigError: as `add_runs`, or matplotlib is missing.
    """
    names = add_runs(series, base, candidates, seeds=seeds)
    series.run(names, parallel=parallel, report=say)
    report(write_comparison(series))
    report(f"Table and figure: {series.root / 'comparison.md'}, .json and .png")
    return all(series.outcome(name).status == "finished" for name in names)


def _compare(
    overrides: Annotated[list[str] | None, typer.Argument(help="Of the recipe, such as run.iterations=60.")] = None,
    config: Annotated[str, typer.Option(help="A recipe: a file, or the name of a shipped one.")] = DEFAULT_RECIPE,
    reward: Annotated[
        list[str] | None, typer.Option(help="NAME, or 'NAME key=value ...' with its settings; one of each wanted.")
    ] = None,
    *,
    seed: Annotated[list[int] | None, typer.Option(help="One of each wanted; 0 by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs, the table and the figure.")] = Path("runs/compare"),
    parallel: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    agent: Annotated[str, typer.Option(help="Agent that trains, or a module of your own.")] = DEFAULT_AGENT,
) -> None:
    """Train the same recipe under several rewards and seeds, and compare the results."""
    with teaching_errors():
        check_count("--parallel", parallel)
        base = _base(config, overrides or [])
        candidates = [Candidate.parse(words) for words in reward or [(base.get("reward") or {}).get("name", "")]]
        series = Series(out, _agent_words(agent))
        seeds = list(dict.fromkeys(seed or [0]))
        finished = compare(series, base, candidates, seeds=seeds, parallel=parallel, report=say)
    raise typer.Exit(0 if finished else 1)


def _agent_words(agent: str) -> list[str]:
    """Return the words that start an agent: one of FlexGym by its name, or a module of the user's own.

    Raises:
        UnknownNameError: neither; the message names the nearest agent.
    """
    name = agent.removeprefix("flexgym.").removeprefix("agents.")
    try:
        own = name not in command_names() and importlib.util.find_spec(agent) is not None
    except ModuleNotFoundError:  # of a package around it
        own = False
    return [sys.executable, "-m", agent] if own else train_words(name)


def main(arguments: Sequence[str] | None = None, *, command: str = "python -m agents.compare") -> None:
    """Parse a command line, train and compare.

    Args:
        arguments: words after those of the command; None takes the words of this process.
        command: words that started the program, for messages.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_compare)
    app(arguments, prog_name=command)
