"""Questions about algorithms that the benchmark does not ask: ``python -m research.questions``.

What does a second pass over a rollout save? Is DiffusionNFT stable where matching collapsed (``docs/matching.md``)? How
long does the default job take to a gain of 0.3? How many comparisons does a tournament need at equal minutes? All runs
are verified on the validation split. Runs that are finished are left alone, so the same command continues after a stop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flexgym.agents.pref_grpo import DEFAULT_RECIPE
from flexgym.benchmark.plan import PlannedRun, samples_of_iteration
from flexgym.benchmark.results import EVAL_SECONDS, Point, curve_points
from flexgym.commands.train import train_words
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.errors import check_names
from flexgym.core.files import write_atomic
from flexgym.core.options import check_count
from flexgym.core.terminal import say, teaching_errors
from flexgym.runs.series import Series
from research.answers import ANSWERS, Trained

REUSE, STABILITY, DEFAULT_JOB, TOURNAMENTS = "reuse", "stability", "default_job", "tournaments"


@dataclass(frozen=True)
class Arm:
    """A recipe with changes, trained with several seeds; a row of a table.

    Attributes:
        question: name of the question.
        name: name of the row.
        recipe: a shipped recipe.
        changes: overrides of it.
    """

    question: str
    name: str
    recipe: str
    changes: tuple[str, ...] = ()

    def run(self, seed: int) -> PlannedRun:
        """Return the run of a seed, by which it is named."""
        return PlannedRun(self.question, self.name, seed)


_COLLAPSED = (
    *("algorithm.window={size: 3, strategy: random, first: [0, 5]}", "algorithm.penalties={reference: {coeff: 0.08}}"),
    *("training.lr=[[0, 5.0e-4], [32000, 5.0e-5]]", "training.ema_decay=0.97"),
    *("run.iterations=100", "run.minutes=null", "verification.interval=10"),
)
"""The configuration that collapsed, see ``docs/matching.md``."""
_SCHEDULES = {"regular_2": "regular(2)", "regular_4": "regular(4)", "round_robin": "all"}


def arms() -> list[Arm]:
    """Return the rows of all questions."""
    reused = [
        Arm(REUSE, f"{name}_{passes}", f"{name}_shapes_t2i", (f"training.passes={passes}", "verification.interval=10"))
        for name in ("flow_dppo", "diffusion_nft")
        for passes in (1, 2)
    ]
    collapsing = [
        Arm(STABILITY, "matching", "pref_grpo_shapes_t2i", _COLLAPSED),
        Arm(STABILITY, "diffusion_nft", "diffusion_nft_shapes_t2i", _COLLAPSED),
    ]
    tournaments = [
        Arm(TOURNAMENTS, name, DEFAULT_RECIPE, (f"reward.settings.tournament.schedule={schedule}",))
        for name, schedule in _SCHEDULES.items()
    ]
    return [*reused, *collapsing, Arm(DEFAULT_JOB, "pref_grpo", DEFAULT_RECIPE), *tournaments]


def add_runs(series: Series, chosen: Sequence[Arm], *, seeds: Sequence[int], overrides: Sequence[str]) -> list[str]:
    """Add a run for each row and seed.

    Args:
        series: gets the runs.
        chosen: the rows.
        seeds: seeds of each.
        overrides: further overrides of all recipes.

    Returns:
        Their names.
    """
    names = []
    for arm in chosen:
        changes = [*arm.changes, "run.trackers=[]", "run.keep=1", *overrides]
        for seed in seeds:
            names.append(arm.run(seed).name)
            series.add(names[-1], apply_overrides(load_recipe(arm.recipe), [*changes, f"run.seed={seed}"]))
    return names


def trained(series: Series, chosen: Sequence[Arm], *, seeds: Sequence[int]) -> list[Trained]:
    """Return what is known of every run that has been verified twice, finished or not."""
    found = []
    for arm in chosen:
        for run in map(arm.run, seeds):
            if run.name not in series.names():
                continue
            rows = series.rows(run.name)
            curve = curve_points(run, rows, samples=samples_of_iteration(series.recipe(run.name)))
            if len(curve) > 1:
                finished = series.outcome(run.name).status == "finished"
                found.append(Trained(arm.name, run.seed, curve, _with_verification(run, rows), rows, finished))
    return found


def _with_verification(run: PlannedRun, rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Return the curve of a run whose seconds include those of verification, as a person waits for them."""
    return curve_points(run, [{**row, EVAL_SECONDS: None} for row in rows], samples=0)


def write_answers(series: Series, chosen: Sequence[Arm], *, seeds: Sequence[int]) -> str:
    """Write ``questions.md`` and ``questions.json`` from the runs that are there.

    Args:
        series: the runs.
        chosen: the rows.
        seeds: seeds of each.

    Returns:
        The Markdown.
    """
    parts, kept = [], []
    for question in dict.fromkeys(arm.question for arm in chosen):
        runs = trained(series, [arm for arm in chosen if arm.question == question], seeds=seeds)
        title, answer = ANSWERS[question]
        parts.append(f"## {title}\n\n{answer(runs) if runs else 'No run has been verified twice.'}\n")
        kept += [{"question": question, **run.figures()} for run in runs]
    tables = "\n".join(parts)
    write_atomic(series.root / "questions.md", tables.encode())
    write_atomic(series.root / "questions.json", json.dumps(kept, indent=1).encode())
    return tables


def main(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="further overrides of all recipes, such as run.minutes=6")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="folder of the runs and the tables")] = Path("runs/questions"),
    only: Annotated[list[str] | None, typer.Option(help="questions or rows to train; repeatable")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="one of each wanted; 0, 1 and 2 by default")] = None,
    parallel: Annotated[int, typer.Option(help="runs at a time; with a judge each needs two free cores")] = 1,
    list_runs: Annotated[bool, typer.Option("--list", help="list the runs and stop")] = False,
) -> None:
    """Train every row with every seed, and write questions.md and questions.json."""
    with teaching_errors():
        check_count("--parallel", parallel)
        seeds = list(dict.fromkeys(seed or [0, 1, 2]))
        known = arms()
        check_names("--only", only or [], sorted({name for arm in known for name in (arm.question, arm.name)}))
        chosen = [arm for arm in known if not only or {arm.question, arm.name} & set(only)]
        if list_runs:
            say(*(arm.run(each).name for arm in chosen for each in seeds))
            return
        series = Series(out, train_words("pref_grpo"))
        names = add_runs(series, chosen, seeds=seeds, overrides=overrides or [])
        series.run(names, parallel=parallel, report=say)
        say(write_answers(series, chosen, seeds=seeds), f"also in {out / 'questions.md'} and questions.json")
        finished = all(series.outcome(name).status == "finished" for name in names)
    raise typer.Exit(0 if finished else 1)


if __name__ == "__main__":
    typer.run(main)
