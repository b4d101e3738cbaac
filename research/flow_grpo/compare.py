"""Training speed beside the script of github.com/yifan123/flow_grpo: ``python -m research.flow_grpo.compare CLONE``.

Three sides train the same checkpoint on the same prompts with the same reward, group size, steps and threads: their
``scripts/train_sd3.py`` as it is, our recipe of their algorithm (equal work), and our default recipe with that reward
(as shipped). Runs alternate, each in a process of its own on one core with one thread, and what is finished is left
alone, so the same command continues after a stop. `research.flow_grpo.theirs` lists what is put in place of what their
script needs.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from flexgym.benchmark.statistics import Interval
from flexgym.core.errors import ConfigError
from flexgym.core.files import write_atomic
from flexgym.core.json_text import read_json_file
from flexgym.core.options import check_count
from flexgym.core.terminal import say, teaching_errors
from flexgym.generators.loader import CHECKPOINTS
from flexgym.runs.processes import Workplace, work_off
from flexgym.shapes.splits import draw_prompts
from research.flow_grpo.work import FORWARD, GRADIENT, PHASES, Job, Work

SIDES = ("theirs", "equal", "shipped")
"""Their script; our recipe of the same algorithm; our default recipe."""
GOALS = {"equal": 1.1, "shipped": 2.2}
"""Samples per second over theirs that each of our sides has to reach."""
_TITLES = {"theirs": "flow_grpo", "equal": "FlexGym, equal work", "shipped": "FlexGym, as shipped"}
_PROMPTS = 2000
Turn = tuple[int, str]
"""A run: the number of its round, and its side."""
_SAMPLING = ("num_steps", "guidance_scale", "height", "width", "max_sequence_length")


@dataclass(frozen=True)
class Comparison:
    """The runs of a comparison and their results.

    Attributes:
        folder: where everything goes.
        script: their training script.
        work: what every run trains.
        rounds: runs of each side.
    """

    folder: Path
    script: Path
    work: Work
    rounds: int

    @property
    def turns(self) -> list[Turn]:
        """Return all runs in order: the sides by turns, in turned order in every other round."""
        return [(number, side) for number in range(self.rounds) for side in SIDES[:: 1 if number % 2 == 0 else -1]]

    def run(self, report: Callable[[str], None]) -> bool:
        """Do every run that is not finished, one at a time.

        Args:
            report: called with each line of progress.

        Returns:
            True if all are finished.
        """
        due = [turn for turn in self.turns if not self.is_finished(turn)]
        work_off([partial(self._run, turn, report=report) for turn in due], cores=1)
        return all(map(self.is_finished, self.turns))

    def is_finished(self, turn: Turn) -> bool:
        """Return whether a run has a result for the same work."""
        job, result = self.file("jobs", turn), self.file("results", turn)
        return job.exists() and result.exists() and Job.read(job).work == self.work

    def _run(self, turn: Turn, place: Workplace, *, report: Callable[[str], None]) -> None:
        number, side = turn
        job, result, log = (self.file(kind, turn) for kind in ("jobs", "results", "logs"))
        result.unlink(missing_ok=True)
        Job(side, self.work, str(self.script) if side == "theirs" else "", result=str(result)).write(job)
        what = f"round {number + 1} of {self.rounds}, {_TITLES[side]}"
        report(f"{what}: log in {log}")
        program = "theirs" if side == "theirs" else "ours"
        ended = place.run([sys.executable, "-m", f"research.flow_grpo.{program}", str(job)], log)
        if ended.status and not place.is_closing:
            report(f"{what}: failed: {ended.words or f'exit status {ended.status}'}")

    def file(self, kind: str, turn: Turn) -> Path:
        """Return the file of a run, one of the ``jobs``, ``results`` or ``logs``."""
        number, side = turn
        return self.folder / kind / f"{side}_{number}.{'log' if kind == 'logs' else 'json'}"

    def results(self) -> list[dict[str, Any]]:
        """Return the results by side of every round that has all three."""
        return [
            {side: read_json_file(self.file("results", (number, side))) for side in SIDES}
            for number in range(self.rounds)
            if all(self.is_finished((number, side)) for side in SIDES)
        ]


def _spread(values: Sequence[float]) -> Interval:
    """Return the median of values with the smallest and the largest one."""
    return Interval(statistics.median(values), min(values), max(values))


def _iteration_seconds(result: Mapping[str, Any]) -> list[float]:
    return [sum(seconds.values()) for seconds in result["seconds"]]


def figures(results: Sequence[Mapping[str, Any]], samples: int) -> dict[str, Any]:
    """Summarize the rounds of a comparison.

    Args:
        results: the results by side of every round.
        samples: samples of an iteration.

    Returns:
        By side: samples per second, seconds by phase and rows of an iteration over all measured iterations, and the
        ratio of samples per second to theirs over the rounds; each a median with the smallest and largest value.
    """
    found: dict[str, Any] = {}
    for side in SIDES:
        own = [result[side] for result in results]
        seconds = [seconds for result in own for seconds in result["seconds"]]
        counts = [counts for result in own for counts in result["counts"]]
        ratios = [
            statistics.median(_iteration_seconds(result["theirs"]))
            / statistics.median(_iteration_seconds(result[side]))
            for result in results
        ]
        found[side] = {
            "samples per second": _spread([samples / sum(each.values()) for each in seconds]),
            "ratio": _spread(ratios),
            "seconds": {phase: _spread([each[phase] for each in seconds]) for phase in PHASES},
            "rows": {name: _spread([each[name] for each in counts]) for name in (FORWARD, GRADIENT)},
        }
    return found


def table(found: Mapping[str, Any]) -> str:
    """Write figures as Markdown, with a verdict on each goal.

    Args:
        found: see `figures`.
    """
    rows: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("samples per second", lambda own: _cell(own["samples per second"], 1)),
        ("times flow_grpo", lambda own: _cell(own["ratio"], 2)),
        *((f"{phase}, s", lambda own, phase=phase: _cell(own["seconds"][phase], 2)) for phase in PHASES),
        *((name, lambda own, name=name: _cell(own["rows"][name], 0)) for name in (FORWARD, GRADIENT)),
    ]
    lines = [f"| median (range) | {' | '.join(_TITLES[side] for side in SIDES)} |", f"|---|{'---:|' * len(SIDES)}"]
    lines += [f"| {name} | {' | '.join(cell(found[side]) for side in SIDES)} |" for name, cell in rows]
    return "\n".join([*lines, "", *(_verdict(side, found[side]["ratio"]) for side in GOALS)]) + "\n"


def _cell(spread: Interval, digits: int) -> str:
    value, low, high = (f"{number:,.{digits}f}" for number in (spread.value, spread.low, spread.high))
    return f"{value} ({low} to {high})"


def _verdict(side: str, ratio: Interval) -> str:
    holds = "holds" if ratio.value >= GOALS[side] else "does not hold"
    return f"- {_TITLES[side]}: at least {GOALS[side]:.1f} times as fast {holds}, {_cell(ratio, 2)}"


def sampling_of(checkpoint: Path) -> dict[str, int | float]:
    """Return the settings of the sampler that a checkpoint comes with.

    Args:
        checkpoint: folder of the pipeline.

    Raises:
        ConfigError: it has none, or one is missing.
    """
    file = checkpoint / "generation_config.json"
    known = read_json_file(file) if file.is_file() else {}
    if missing := [name for name in _SAMPLING if name not in known]:
        raise ConfigError(
            f"{file}: expected the numbers {', '.join(_SAMPLING)} of a small text-to-image pipeline in it, got none of"
            f" {', '.join(missing)}: pass a folder such as flexgym/shapes/checkpoints/t2i"
        )
    return {name: known[name] for name in _SAMPLING}


def write_prompts(folder: Path) -> None:
    """Write the training prompts of both sides, and a single prompt for the evaluation before their first epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = draw_prompts("image", "training", _PROMPTS, seed=0)
    for name, texts in (("train", prompts), ("test", prompts[:1])):
        write_atomic(folder / f"{name}.txt", ("\n".join(texts) + "\n").encode())


def _plain(value: Any) -> Any:
    return vars(value)


def main(
    clone: Annotated[Path, typer.Argument(help="clone of github.com/yifan123/flow_grpo")],
    *,
    checkpoint: Annotated[Path, typer.Option(help="text-to-image pipeline of the form of SD3")] = CHECKPOINTS / "t2i",
    out: Annotated[Path, typer.Option(help="folder of runs and table")] = Path("runs/flow_grpo"),
    iterations: Annotated[int, typer.Option(help="measured iterations of a run, after one of warm-up")] = 4,
    rounds: Annotated[int, typer.Option(help="runs of each side")] = 3,
    group_size: Annotated[int, typer.Option(help="samples of a prompt")] = 12,
    num_prompts: Annotated[int, typer.Option(help="prompts of an iteration, an even number")] = 16,
    lora: Annotated[bool, typer.Option(help="train a LoRA with the KL to the reference on all sides")] = False,
) -> None:
    """Measure the samples per second of both, phase by phase, and write flow_grpo.md and flow_grpo.json."""
    with teaching_errors():
        for name, count in (("iterations", iterations), ("rounds", rounds), ("group-size", group_size)):
            check_count(f"--{name}", count)
        if num_prompts < 2 or num_prompts % 2:
            raise ConfigError(f"--num-prompts {num_prompts}: expected an even number, half for each optimizer step")
        folder, source = out.absolute(), checkpoint.absolute()
        for name in ("jobs", "results", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        write_prompts(folder / "prompts")
        work = Work(
            checkpoint=str(source),
            prompts=str(folder / "prompts"),
            sampling=sampling_of(source),
            iterations=iterations,
            group_size=group_size,
            num_prompts=num_prompts,
            lora=lora,
        )
        comparison = Comparison(folder, clone.absolute() / "scripts" / "train_sd3.py", work, rounds)
        finished = comparison.run(say)
        if results := comparison.results():
            found = figures(results, work.samples)
            kept = {"work": vars(work), "rounds": len(results), **found}
            write_atomic(out / "flow_grpo.json", json.dumps(kept, indent=1, default=_plain).encode())
            write_atomic(out / "flow_grpo.md", table(found).encode())
            say(table(found), f"also in {out / 'flow_grpo.md'} and flow_grpo.json")
    raise typer.Exit(0 if finished else 1)


if __name__ == "__main__":
    typer.run(main)
