"""The plan of a benchmark: tasks, algorithms with small grids of settings, and the runs that follow from both."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from flexgym.config.load import load_settings
from flexgym.config.recipe import load_recipe
from flexgym.config.training import RolloutSettings
from flexgym.core.errors import UnknownNameError, check_names
from flexgym.core.problems import KeyPath, Problem, raise_problems
from flexgym.core.seeds import Seed
from flexgym.core.settings import Names, Settings

SHIPPED = Path(__file__).with_name("plan.yaml")
"""The plan that comes with FlexGym."""
TUNING = "tuning"
_NAME = r"^[a-z][a-z0-9_]{0,39}$"
Name = Annotated[str, Field(pattern=_NAME)]
Changes = dict[str, Any]
"""Settings of a recipe by their dotted names."""


class BudgetSettings(Settings):
    """Budget of every run: its cores, besides the minutes of the task."""

    cores: int = Field(default=1, ge=1, description="processor cores of a run, with one thread on each")
    overhead_minutes: float = Field(
        default=1.0, ge=0, description="estimate of a run's minutes besides training: start, evaluation"
    )


class TuningSettings(Settings):
    """How each algorithm is tuned, on validation prompts alone."""

    trials: int = Field(default=3, ge=1, description="points of its grid that every algorithm tries on a task")
    order: Seed = Field(default=0, description="seed of the order in which points are tried")
    seed: Seed = Field(default=100, description="seed of the runs, which no reported run has")


class EvaluationSettings(Settings):
    """How reported runs are evaluated at the end of each budget."""

    split: Literal["test"] | None = Field(
        default="test",
        description="prompts of the reported figures, with flexgym evaluate; null reports the last verification of"
        " training, on validation prompts",
    )
    num_prompts: int = Field(default=1000, ge=1, description="number of these prompts")


class ReportSettings(Settings):
    """Settings of the page that shows the results."""

    title: str = Field(default="Benchmark", description="title of the page")
    baseline: Name = Field(description="algorithm that all others are compared with")
    gain: float = Field(default=0.2, gt=0, description="gain of accuracy to whose seconds and samples are reported")
    resamples: int = Field(default=2000, ge=100, description="resamples of the bootstrap")


class TaskSettings(Settings):
    """A world and a reward, on which algorithms train with the same budgets."""

    title: str = Field(min_length=1, description="title on the page")
    minutes: float = Field(gt=0, description="wall time of training, verification included")
    tuning_minutes: float = Field(gt=0, description="wall time of a tuning run")
    samples: int = Field(ge=1, description="samples at which algorithms are compared, too")
    num_seeds: int = Field(ge=1, description="runs of each algorithm, with seeds from 0 on")
    tuned_on: Name | None = Field(default=None, description="task whose tuning holds here; null for this one")
    changes: Changes = Field(default={}, description="settings that all recipes have here, by dotted name")
    algorithms: Names = Field(min_length=1, description="names of the algorithms that train")


class AlgorithmSettings(Settings):
    """An algorithm of the benchmark: its recipe, and what is tuned."""

    title: str = Field(min_length=1, description="name on the page")
    source: str = Field(default="", description="paper, such as an arXiv number")
    recipe: str = Field(min_length=1, description="shipped recipe or file that it trains")
    changes: dict[Name, Changes] = Field(
        default={}, description="further settings by task, or for every task under the key all"
    )
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        description="values to try of each tuned setting, by dotted name"
    )

    def points(self, order: int) -> list[Changes]:
        """Return all points of the grid, in an order drawn from a seed."""
        names = sorted(self.grid)
        points = [
            dict(zip(names, values, strict=True)) for values in itertools.product(*(self.grid[name] for name in names))
        ]
        random.Random(order).shuffle(points)
        return points


class Plan(Settings):
    """Everything that a benchmark consists of."""

    budget: BudgetSettings = BudgetSettings()
    tuning: TuningSettings = TuningSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    report: ReportSettings
    tasks: dict[Name, TaskSettings] = Field(min_length=1, description="tasks by name")
    algorithms: dict[Name, AlgorithmSettings] = Field(min_length=1, description="algorithms by name")

    @model_validator(mode="after")
    def _check(self) -> Self:
        raise_problems([*self._unknown_names(), *self._small_grids()])
        return self

    def _unknown_names(self) -> Iterator[Problem]:
        yield from _unknown(("report", "baseline"), "algorithm", [self.report.baseline], known=self.algorithms)
        for name, task in self.tasks.items():
            at = ("tasks", name)
            yield from _unknown((*at, "algorithms"), "algorithm", task.algorithms, known=self.algorithms)
            yield from _unknown((*at, "tuned_on"), "task", [self.tuned_on(name)], known=self.tasks)
            if tuned := self.tasks.get(self.tuned_on(name)):
                what = f"algorithm of tasks.{self.tuned_on(name)}, whose tuning holds here,"
                yield from _unknown((*at, "algorithms"), what, task.algorithms, known=tuned.algorithms)
        for name, algorithm in self.algorithms.items():
            known = [*self.tasks, "all"]
            yield from _unknown(("algorithms", name, "changes"), "task", algorithm.changes, known=known)

    def _small_grids(self) -> Iterator[Problem]:
        for name, algorithm in self.algorithms.items():
            count = len(algorithm.points(0))
            if count < self.tuning.trials:
                message = f"expected at least the {self.tuning.trials} points of tuning.trials, got {count}"
                yield Problem(("algorithms", name, "grid"), message)

    def tuned_on(self, task: str) -> str:
        """Return the task whose tuning holds for a task."""
        return self.tasks[task].tuned_on or task

    @property
    def hash(self) -> str:
        """Return 16 hexadecimal digits that agree for plans whose runs can be put together.

        Numbers of seeds and what only the page shows do not count.
        """
        values = self.model_dump(mode="json", exclude={"report": True, "tasks": {"__all__": {"num_seeds", "title"}}})
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_seeds(self, count: int | None) -> Plan:
        """Return the plan with at least so many seeds of every task; None changes nothing."""
        return self._growing(dict.fromkeys(self.tasks, count or 0))

    def with_seeds_of(self, other: Plan) -> Plan:
        """Return the plan with at least as many seeds of every task as a plan with the same tasks."""
        return self._growing({name: task.num_seeds for name, task in other.tasks.items()})

    def _growing(self, counts: Mapping[str, int]) -> Plan:
        tasks = {
            name: task.model_copy(update={"num_seeds": max(counts[name], task.num_seeds)})
            for name, task in self.tasks.items()
        }
        return self.model_copy(update={"tasks": tasks})


def _unknown(path: KeyPath, what: str, names: Iterable[str], *, known: Iterable[str]) -> Iterator[Problem]:
    """Yield the first name that is not a known one."""
    try:
        check_names(what, names, known)
    except UnknownNameError as error:
        yield Problem(path, str(error), unknown=True)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Attributes:
        task: name of the task.
        algorithm: name of the algorithm.
        seed: seed of the run.
        trial: number of the point of the grid that a tuning run tries; None for a run that is reported.
    """

    task: str
    algorithm: str
    seed: int
    trial: int | None = None

    @property
    def name(self) -> str:
        """Name of the run folder."""
        kind = f"seed{self.seed}" if self.trial is None else f"{TUNING}{self.trial}"
        return f"{self.task}.{self.algorithm}.{kind}"

    def minutes(self, plan: Plan) -> float:
        """Return the wall time that it may train."""
        task = plan.tasks[self.task]
        return task.minutes if self.trial is None else task.tuning_minutes

    def core_hours(self, plan: Plan) -> float:
        """Estimate what it costs in core-hours."""
        return (self.minutes(plan) + plan.budget.overhead_minutes) * plan.budget.cores / 60.0


def load_plan(path: str | Path | None = None) -> Plan:
    """Read a plan.

    Args:
        path: a YAML file; None for the shipped plan.

    Raises:
        ConfigError: settings that cannot work, each with its file and line.
        UnknownNameError: names that do not exist, each with the nearest valid one.
    """
    return load_settings(Plan, load_recipe(path or SHIPPED))


def planned_runs(plan: Plan, only: Sequence[str] = ()) -> list[PlannedRun]:
    """Return the runs of a plan: first those of tuning, then those that are reported.

    Args:
        plan: the plan.
        only: names of tasks, algorithms or runs; a run must match one of each kind that is named. Tuning runs that the
            chosen runs depend on are kept. Empty keeps all.

    Raises:
        UnknownNameError: a name that matches nothing.
    """
    reported = [
        PlannedRun(task, algorithm, seed)
        for task, settings in plan.tasks.items()
        for algorithm in settings.algorithms
        for seed in range(settings.num_seeds)
    ]
    tuning = [
        PlannedRun(task, algorithm, plan.tuning.seed, trial)
        for task, algorithm in dict.fromkeys((plan.tuned_on(run.task), run.algorithm) for run in reported)
        for trial in range(plan.tuning.trials)
    ]
    runs = [*tuning, *reported]
    names = {name for run in runs for name in (run.task, run.algorithm, run.name)}
    check_names("--only", only, sorted(names))
    chosen = [run for run in runs if _is_chosen(run, plan, only)]
    needed = {(plan.tuned_on(run.task), run.algorithm) for run in chosen if run.trial is None}
    return [run for run in runs if run in chosen or (run.trial is not None and (run.task, run.algorithm) in needed)]


def _is_chosen(run: PlannedRun, plan: Plan, only: Sequence[str]) -> bool:
    kinds = (
        (run.task, plan.tasks),
        (run.algorithm, plan.algorithms),
        (run.name, {name: None for name in only if "." in name}),
    )
    return all(own in only for own, known in kinds if any(name in known for name in only))


def run_recipe(plan: Plan, run: PlannedRun, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of a run.

    Args:
        plan: the plan.
        run: one of its runs.
        values: tuned settings by dotted name.
    """
    algorithm, task = plan.algorithms[run.algorithm], plan.tasks[run.task]
    recipe = dict(load_recipe(algorithm.recipe))
    own = [algorithm.changes.get(key, {}) for key in ("all", run.task)]
    for changes in (task.changes, *own, values):
        for name, value in changes.items():
            recipe = _with_value(recipe, name.split("."), value)
    section = {**(recipe.get("run") or {}), "seed": run.seed, "minutes": None, "trackers": [], "keep": 1}
    return {**recipe, "run": section}


def _with_value(recipe: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = keys
    below = recipe.get(first)
    inner = _with_value(below if isinstance(below, Mapping) else {}, rest, value) if rest else value
    return {**recipe, first: inner}


def samples_of_iteration(recipe: Mapping[str, Any]) -> int:
    """Return the samples of an iteration of a recipe."""
    rollout = RolloutSettings.parse(recipe.get("rollout") or {}, where="rollout")
    return rollout.group_size * rollout.prompts_per_iteration
