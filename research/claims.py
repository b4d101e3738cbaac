"""Check what FlexGym claims of its recipes (``python -m research.claims``): several seeds, each evaluated once on test.

Runs that are finished and runs that are evaluated are left alone, so the same command continues after a stop.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from flexgym.config.recipe import load_recipe
from flexgym.core.files import write_atomic
from flexgym.core.options import check_count
from flexgym.core.terminal import say, teaching_errors
from flexgym.rllib.evaluation.evaluate import Question, evaluate_and_record
from flexgym.rllib.evaluation.result import read_rows
from flexgym.runs.series import Series

SPLIT = "test"
_COLUMNS = ("recipe", "seed", "iterations", "before", "after", "gain", "gain by audit", "agreement")


@dataclass(frozen=True)
class Claim:
    """A recipe, and by how much it raises the accuracy on test.

    Attributes:
        recipe: name of the shipped recipe.
        gain: smallest rise of the balanced accuracy, in every seed.
    """

    recipe: str
    gain: float


CLAIMS = (
    Claim("pref_grpo_shapes_judge", 0.25),
    Claim("pref_grpo_shapes_t2i", 0.25),
    Claim("pref_grpo_shapes_t2v", 0.20),
)
AUDIT_MARGIN = 0.03
"""Largest difference of the gains that the two verifiers see."""


def add_runs(series: Series, claims: Sequence[Claim], *, seeds: Sequence[int], minutes: float | None) -> list[str]:
    """Add a run for each recipe and seed.

    Args:
        series: gets the runs.
        claims: whose recipes train.
        seeds: of each recipe.
        minutes: of each run; None takes those of its recipe.

    Returns:
        Their names.
    """
    names = []
    for claim in claims:
        recipe = load_recipe(f"{claim.recipe}.yaml")
        for seed in seeds:
            limits = {} if minutes is None else {"minutes": minutes}
            names.append(run_name(claim, seed))
            series.add(names[-1], {**recipe, "run": {**recipe["run"], **limits, "seed": seed}})
    return names


def run_name(claim: Claim, seed: int) -> str:
    """Return the name of the run of a recipe and seed."""
    return f"{claim.recipe}-seed{seed}"


def evaluate_once(run: Path, *, num_prompts: int) -> None:
    """Evaluate a run on test, unless that was done.

    Args:
        run: the run folder.
        num_prompts: number of prompts.
    """
    if first_test_row(run) is None:
        evaluate_and_record(run, Question(SPLIT, num_prompts=num_prompts))


def first_test_row(run: Path) -> dict[str, Any] | None:
    """Return the record of the first evaluation of a run on test; None before it."""
    return next((row for row in read_rows(run) if row["split"] == SPLIT), None)


def results(series: Series, claims: Sequence[Claim], *, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return the test rows of all runs that have one, each with its recipe and seed of training."""
    found = []
    for claim in claims:
        for seed in seeds:
            folder = series.folder(run_name(claim, seed))
            row = first_test_row(folder) if folder else None
            if row is not None:
                found.append({"recipe": claim.recipe, "training_seed": seed, **row})
    return found


def table(rows: Sequence[dict[str, Any]], claims: Sequence[Claim]) -> str:
    """Write results as Markdown: a line for each run, one for the mean of each recipe, and whether the claims hold.

    All seeds share their prompts, so the interval of a mean is the mean of their intervals.

    Args:
        rows: see `results`.
        claims: which are checked.
    """
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|---|{'---:|' * (len(_COLUMNS) - 1)}"]
    verdicts = []
    for claim in claims:
        own = [row for row in rows if row["recipe"] == claim.recipe]
        lines += [_line(row, str(row["training_seed"]), str(row["iteration"])) for row in own]
        if own:
            lines.append(_line(_mean(own), "mean", ""))
            verdicts.append(f"- {claim.recipe}: {_verdict(own, claim)}")
    return "\n".join([*lines, "", *verdicts]) + "\n"


def _line(row: dict[str, Any], seed: str, iterations: str) -> str:
    spans = [_span(row[name]) for name in ("before", "after", "gain")]
    cells = [row["recipe"], seed, iterations, *spans, f"{row['gain']['audit']:.3f}", f"{row['agreement']:.3f}"]
    return f"| {' | '.join(cells)} |"


def _span(figures: dict[str, float]) -> str:
    return f"{figures['accuracy']:.3f} ({figures['low']:.3f} to {figures['high']:.3f})"


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    parts = {
        name: {key: float(np.mean([row[name][key] for row in rows])) for key in ("accuracy", "low", "high", "audit")}
        for name in ("before", "after", "gain")
    }
    return {"recipe": rows[0]["recipe"], **parts, "agreement": float(np.mean([row["agreement"] for row in rows]))}


def _verdict(rows: Sequence[dict[str, Any]], claim: Claim) -> str:
    """Say whether every seed gains enough, and whether the audit sees the same gain."""
    least = min(row["gain"]["accuracy"] for row in rows)
    apart = max(abs(row["gain"]["audit"] - row["gain"]["accuracy"]) for row in rows)
    gains = f"the smallest gain of {len(rows)} seeds is {least:.3f}, claimed are {claim.gain:.2f}"
    audits = f"the audit's gain differs by up to {apart:.3f}, allowed are {AUDIT_MARGIN:.2f}"
    holds = "holds" if least >= claim.gain and apart <= AUDIT_MARGIN else "does not hold"
    return f"{holds}: {gains}; {audits}"


def main(
    *,
    out: Annotated[Path, typer.Option(help="folder of the runs and the table")] = Path("runs/claims"),
    seed: Annotated[list[int] | None, typer.Option(help="one of each wanted; 0, 1 and 2 by default")] = None,
    minutes: Annotated[float | None, typer.Option(help="of each run; by default those of its recipe")] = None,
    num_prompts: Annotated[int, typer.Option(help="test prompts")] = 1000,
    parallel: Annotated[int, typer.Option(help="runs at a time; each needs two free cores")] = 1,
) -> None:
    """Train every recipe with every seed, evaluate each once on test, and write claims.md and claims.json."""
    with teaching_errors():
        check_count("--parallel", parallel)
        seeds = list(dict.fromkeys(seed or [0, 1, 2]))
        series = Series(out, [sys.executable, "-m", "agents.pref_grpo"])
        names = add_runs(series, CLAIMS, seeds=seeds, minutes=minutes)
        series.run(names, parallel=parallel, report=say)
        for name in names:
            folder = series.folder(name)
            if folder and series.outcome(name).status == "finished":
                evaluate_once(folder, num_prompts=num_prompts)
        rows = results(series, CLAIMS, seeds=seeds)
        write_atomic(out / "claims.json", json.dumps(rows, indent=1).encode())
        write_atomic(out / "claims.md", table(rows, CLAIMS).encode())
        say(table(rows, CLAIMS), f"{len(rows)} of {len(names)} runs are in {out / 'claims.md'} and claims.json")
    raise typer.Exit(0 if len(rows) == len(names) else 1)


if __name__ == "__main__":
    typer.run(main)
