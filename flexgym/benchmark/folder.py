"""The folder of a benchmark: its plan, and of every run the recipe, the run folder and what was done.

```
<root>/plan.json              the plan, and its hash
<root>/recipes/<run>.yaml     what a run is started with
<root>/steps/<run>.jsonl      what was done for it, how it ended, and what it cost
<root>/logs/<run>.log         what it wrote to the terminal
<root>/<run>/                 the run folder
```
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flexgym.benchmark.plan import Plan, PlannedRun, run_recipe
from flexgym.core.errors import ConfigError
from flexgym.core.files import open_inside, write_atomic
from flexgym.core.json_text import parse_json
from flexgym.core.typed import fitted
from flexgym.runs.comparison import VERIFIER
from flexgym.runs.series import Series, flat_settings

SAMPLES, WALL = "samples", "wall"
"""The two budgets at which runs are compared: the task's samples, and its minutes."""
Due = tuple[Literal["train", "evaluate"], str]
"""What is to be done, and the budget."""
_MAX_BYTES = 64 * 2**20
_TRIES = 2
"""Failures after which a tuning run counts as the worst, since its settings may be what breaks it."""


@dataclass(frozen=True)
class Step:
    """Something that was done for a run, in a process of its own.

    Attributes:
        kind: ``train`` to a budget, or ``evaluate`` on test prompts.
        budget: ``samples`` or ``wall``.
        status: how it ended.
        problem: last words of a process that failed.
        iteration: finished iterations at the end.
        end: what ended training: the budget, the task's minutes before it, or an alarm of the run, ``early``.
        wall_s: seconds of the process.
        cpu_s: processor seconds of the process and its children.
        peak_bytes: largest resident memory of all of them together.
    """

    kind: Literal["train", "evaluate"]
    budget: str
    status: Literal["finished", "stopped", "failed"]
    problem: str = ""
    iteration: int = 0
    end: Literal["budget", "time", "early"] = "budget"
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0

    def ending(self, end: Literal["budget", "time", "early"]) -> Step:
        """Return the step with another end of training."""
        return replace(self, end=end)


class BenchmarkFolder:
    """The runs of a plan, and what was done for each.

    Args:
        root: folder of the benchmark; made when missing.
        plan: the plan. Seeds that an earlier call has added stay.

    Raises:
        ConfigError: the folder holds runs of another plan; the message names what differs.
    """

    def __init__(self, root: str | Path, plan: Plan) -> None:
        self.root = Path(root)
        self.series = Series(self.root, ())
        (self.root / "steps").mkdir(exist_ok=True)
        self.plan = plan_of(self.root, plan)
        self.grow(plan)

    def grow(self, plan: Plan) -> None:
        """Take over the seeds of a plan with the same hash, as far as it has more."""
        self.plan = self.plan.with_seeds_of(plan)
        values = {"hash": self.plan.hash, "plan": self.plan.model_dump(mode="json")}
        write_atomic(self.root / "plan.json", json.dumps(values, indent=1, ensure_ascii=False).encode())

    def steps(self, run: PlannedRun) -> list[Step]:
        """Return what was done for a run, in order."""
        return read_steps(self.root, run.name)

    def add_step(self, run: PlannedRun, step: Step) -> None:
        """Note what was done for a run."""
        lines = [json.dumps(asdict(each), ensure_ascii=False) for each in (*self.steps(run), step)]
        write_atomic(self.root / "steps" / f"{run.name}.jsonl", ("\n".join(lines) + "\n").encode())

    def due(self, run: PlannedRun) -> Due | None:
        """Return what is to be done next for a run; None once it is finished."""
        return due_step(self.plan, run, self.steps(run))

    def rows(self, run: PlannedRun) -> list[dict[str, Any]]:
        """Return the metrics of a run so far."""
        return self.series.rows(run.name)

    def recipe(self, run: PlannedRun) -> dict[str, Any] | None:
        """Return the recipe that a run was started with; None before."""
        there = (self.root / "recipes" / f"{run.name}.yaml").exists()
        return self.series.recipe(run.name) if there else None

    def values(self, run: PlannedRun) -> dict[str, Any] | None:
        """Return the tuned settings of a run by dotted name; None while they are not known.

        A tuning run takes its point of the grid; a reported one the point whose tuning run ended with the highest
        accuracy on validation prompts, the first of equal ones.
        """
        points = self.plan.algorithms[run.algorithm].points(self.plan.tuning.order)
        if run.trial is not None:
            return points[run.trial]
        task = self.plan.tuned_on(run.task)
        trials = [
            PlannedRun(task, run.algorithm, self.plan.tuning.seed, trial) for trial in range(self.plan.tuning.trials)
        ]
        if any(self.due(trial) for trial in trials):
            return None
        return points[max(range(len(trials)), key=lambda index: (self.tuned_accuracy(trials[index]), -index))]

    def tuned_accuracy(self, run: PlannedRun) -> float:
        """Return the accuracy on validation prompts at the end of a tuning run; -1 for one that failed."""
        if not any(step.status == "finished" for step in self.steps(run)):
            return -1.0
        found = [row[VERIFIER] for row in self.rows(run) if row.get(VERIFIER) is not None]
        return float(found[-1]) if found else 0.0

    def add(self, run: PlannedRun) -> bool:
        """Write the recipe of a run; return False while it waits for tuning.

        Raises:
            ConfigError: the run was begun with other settings.
        """
        values = self.values(run)
        if values is not None:
            self.series.add(run.name, run_recipe(self.plan, run, values))
        return values is not None


def due_step(plan: Plan, run: PlannedRun, steps: Sequence[Step]) -> Due | None:
    """Return what is to be done next for a run, and the budget; None once it is finished.

    Args:
        plan: the plan.
        run: one of its runs.
        steps: what was done for it.
    """
    done = {(step.kind, step.budget): step for step in steps if step.status == "finished"}
    if run.trial is not None and sum(step.status == "failed" for step in steps) >= _TRIES:
        return None
    for budget in (SAMPLES, WALL) if run.trial is None else (WALL,):
        if ("train", budget) not in done:
            return "train", budget
        if plan.evaluation.split and run.trial is None and ("evaluate", budget) not in done:
            return "evaluate", budget
        if done["train", budget].end != "budget":
            break
    return None


def read_plan(root: Path) -> Plan | None:
    """Return the plan of a benchmark's folder; None where there is none.

    Raises:
        ConfigError: the file does not hold a plan.
    """
    try:
        with open_inside(root, "plan.json") as file:
            values = parse_json(file.read(_MAX_BYTES))
    except FileNotFoundError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("plan"), dict):
        raise ConfigError(f"{root / 'plan.json'}: expected the plan of a benchmark, got something else")
    return Plan.parse(values["plan"], where=str(root / "plan.json"))


def plan_of(root: Path, plan: Plan) -> Plan:
    """Return a plan with the seeds that the folder of a benchmark has more of.

    Raises:
        ConfigError: the folder holds runs of another plan; the message names what differs.
    """
    kept = read_plan(root)
    if kept is None:
        return plan
    check_same_plan(root, kept, plan)
    return plan.with_seeds_of(kept)


def check_same_plan(root: Path, kept: Plan, plan: Plan) -> None:
    """Check that the runs of a folder belong to a plan.

    Raises:
        ConfigError: naming the first setting that differs.
    """
    if kept.hash == plan.hash:
        return
    before, now = (flat_settings(each.model_dump(mode="json")) for each in (kept, plan))
    differing = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    differing = [key for key in differing if not key.endswith((".num_seeds", ".title")) and "report." not in key]
    key = differing[0]
    raise ConfigError(
        f"{root}: it holds runs of the plan {kept.hash} with {key}={before.get(key)!r}, got the plan {plan.hash} with"
        f" {now.get(key)!r}: their results cannot be put together. Take the same plan (only numbers of seeds and the"
        " section report may differ), or another folder with --out"
    )


def read_steps(root: Path, name: str) -> list[Step]:
    """Return what was done for a run of a benchmark's folder.

    Raises:
        ConfigError: a line does not hold a step.
    """
    try:
        with open_inside(root, f"steps/{name}.jsonl") as file:
            lines = file.read(_MAX_BYTES).splitlines()
    except FileNotFoundError:
        return []
    return [fitted(f"steps/{name}.jsonl", Step, parse_json(line)) for line in lines if line.strip()]
