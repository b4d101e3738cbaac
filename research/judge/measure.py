"""Figures of a judge of the small world: ``python -m research.judge.measure JUDGE --t2i FOLDER --t2v FOLDER``.

They are accuracy, the same verdict in both orders, replies that parse, what wear costs, what it says of unreadable
samples, and calibration. Validation is for choices between judges, test for reports alone. Each set of pairs is a file,
so the same command continues one that was stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from flexgym.core.errors import check_names
from flexgym.core.files import write_atomic
from flexgym.core.terminal import teaching_errors
from flexgym.judge.backends.base import Decoding
from flexgym.judge.backends.transformers_model import TransformersBackend
from flexgym.judge.inputs import Inputs
from flexgym.judge.protocol import Judge
from flexgym.judge.sources import read_judge_config
from flexgym.judge.vision_judge import VisionJudge
from flexgym.shapes.splits import SPLITS
from flexgym.types import MODALITIES, Modality
from research.judge.trials import (
    SOURCES,
    Trial,
    ask_both_orders,
    changed,
    draw_trials,
    small_video,
    unreadable,
    votes,
)

logger = logging.getLogger(__name__)

Figures = dict[str, Any]
TARGETS = {
    "rendered images": 0.97,
    "generated images": 0.95,
    "rendered videos": 0.95,
    "generated videos": 0.88,
}
"""Accuracy on the test split that the judge is to have."""
_VOTES = 8
_EDGES = (0.5, 0.625, 0.75, 0.875, 1.0)
_RESAMPLES = 2000


def measure(judge: Path, sources: Mapping[Modality, Path], split: str, *, pairs: int, out: Path) -> Figures:
    """Measure a judge on all kinds and sources of samples.

    Args:
        judge: folder of the judge.
        sources: pipeline folders by kind.
        split: of the captions.
        pairs: of each kind and source, at most.
        out: folder for the figures of each set of pairs, which are taken from there if they exist.
    """
    config = read_judge_config(judge)
    backend, inputs = TransformersBackend(judge), Inputs(**config.inputs)

    def asked(**decoding: float) -> VisionJudge:
        return VisionJudge(backend, decoding=Decoding(**{**config.decoding, **decoding}), inputs=inputs)

    figures: Figures = {}
    for kind in MODALITIES:
        for source in SOURCES:
            name = f"{source} {kind}s"
            file = out / f"{split}_{kind}_{source}.json"
            if not file.exists():
                folder = None if source == "rendered" else sources[kind]
                seed = 10 * SPLITS.index(split) + len(figures)
                trials = draw_trials(kind, folder, split, count=pairs, seed=seed)
                found = figures_of(asked(), [asked(temperature=1.0, seed=seed) for seed in range(_VOTES)], trials)
                write_atomic(file, json.dumps(found).encode())
                logger.info("%s: %s", name, found["right"])
            figures[name] = json.loads(file.read_text())
    backend.close()
    return figures


def figures_of(judge: Judge, voters: Sequence[Judge], trials: Sequence[Trial]) -> Figures:
    """Measure a judge on one set of pairs.

    Args:
        judge: that is measured.
        voters: the same judge with different seeds; its confidence is the share of them that agree.
        trials: the pairs.
    """
    answers = ask_both_orders(judge, trials)
    worn = ask_both_orders(judge, changed(trials, small_video))
    both, one = (ask_both_orders(judge, unreadable(trials, sides=sides)) for sides in ((0, 1), (1,)))
    confidence, winners = votes(voters, trials)
    return {
        "pairs": len(trials),
        "right": with_interval(answers.right()),
        "same in both orders": with_interval(answers.consistent()),
        "parsed": float(answers.parsed().mean()),
        "wrongly calls both unreadable": float(answers.cannot_tell().mean()),
        "right after H.264 at 64 pixels": with_interval(worn.right()),
        "calls two unreadable ones unreadable": float(both.cannot_tell().mean()),
        "prefers the readable of two": float(one.right().mean()),
        "by category": dict(answers.by_category()),
        "confidence": {"stated": confidence.tolist(), "right": winners.tolist()},
    }


def with_interval(values: NDArray[np.float64]) -> dict[str, float]:
    """Return the mean with the ends of its 95% interval, by the bootstrap over pairs."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def reliability(confidence: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[list[Figures], float]:
    """Compare confidence to accuracy.

    Args:
        confidence: of each verdict, 0.5 to 1, ``[N]``.
        right: whether each is right, ``[N]``.

    Returns:
        One row per bin that is not empty, with its ends, mean confidence, accuracy and number of verdicts, and the
        expected calibration error: the mean distance between both, weighted by the number (arXiv 1706.04599).
    """
    which = np.clip(np.searchsorted(_EDGES, confidence, side="right") - 1, 0, len(_EDGES) - 2)
    rows, error = [], 0.0
    for number in range(len(_EDGES) - 1):
        inside = which == number
        if inside.any():
            stated, found = float(confidence[inside].mean()), float(right[inside].mean())
            rows.append({"from": _EDGES[number], "to": _EDGES[number + 1], "confidence": stated, "accuracy": found})
            rows[-1]["verdicts"] = int(inside.sum())
            error += abs(stated - found) * float(inside.mean())
    return rows, error


def table(figures: Mapping[str, Figures]) -> str:
    """Return all figures as Markdown tables."""
    names = list(figures)
    lines = [["", *names], ["---", *["---:"] * len(names)]]
    lines.append(["pairs", *(str(figures[name]["pairs"]) for name in names)])
    for title in ("right", "right after H.264 at 64 pixels", "same in both orders"):
        lines.append([title, *(_cell(figures[name][title]) for name in names)])
    lines.append(["target", *(f"{TARGETS[name]:.2f}" for name in names)])
    titles = (
        "parsed",
        "calls two unreadable ones unreadable",
        "wrongly calls both unreadable",
        "prefers the readable of two",
    )
    lines += [[title, *(f"{figures[name][title]:.3f}" for name in names)] for title in titles]
    parts = [_markdown(lines), f"Same in both orders, all pairs: {_overall(figures):.3f}\n"]
    parts += [_category_table(figures), _calibration_table(figures)]
    return "\n".join(parts)


def _overall(figures: Mapping[str, Figures]) -> float:
    weights = [each["pairs"] for each in figures.values()]
    return float(np.average([each["same in both orders"]["value"] for each in figures.values()], weights=weights))


def _category_table(figures: Mapping[str, Figures]) -> str:
    lines = [["category", *SOURCES], ["---", "---:", "---:"]]
    for kind in MODALITIES:
        both = [figures[f"{source} {kind}s"]["by category"] for source in SOURCES]
        for category in both[0]:
            cells = [f"{each[category]:.3f}" if category in each else "" for each in both]
            lines.append([f"{kind}: {category}", *cells])
    return _markdown(lines)


def _calibration_table(figures: Mapping[str, Figures]) -> str:
    stated, right = (
        np.concatenate([each["confidence"][key] for each in figures.values()]) for key in ("stated", "right")
    )
    rows, error = reliability(stated, right)
    lines = [["confidence", "mean", "accuracy", "verdicts"], ["---", "---:", "---:", "---:"]]
    for row in rows:
        ends = f"{row['from']:.3f} to {row['to']:.3f}"
        lines.append([ends, f"{row['confidence']:.3f}", f"{row['accuracy']:.3f}", str(row["verdicts"])])
    return _markdown(lines) + f"\nExpected calibration error: {error:.3f}\n"


def _cell(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_figures(judge: Path, sources: Mapping[Modality, Path], split: str, *, pairs: int) -> Path:
    """Measure a judge, and write its figures as JSON and Markdown into a folder beside it.

    Returns:
        The Markdown file.
    """
    out = judge.with_name(f"{judge.name}_figures")
    figures = measure(judge, sources, split, pairs=pairs, out=out)
    file = out / f"{split}.md"
    write_atomic(file, table(figures).encode())
    return file


def main(
    judge: Annotated[Path, typer.Argument(help="folder of the judge")],
    *,
    t2i: Annotated[Path, typer.Option(help="image generator: a pipeline folder")],
    t2v: Annotated[Path, typer.Option(help="video generator: a pipeline folder")],
    split: Annotated[str, typer.Option(help="validation for choices, test for reports")] = "validation",
    pairs: Annotated[int, typer.Option(min=1, help="of each kind and source, at most")] = 300,
    threads: int = 1,
) -> None:
    """Measure a judge, and print its tables."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    with teaching_errors():
        check_names("split", [split], SPLITS)
        typer.echo(write_figures(judge, {"image": t2i, "video": t2v}, split, pairs=pairs).read_text())


if __name__ == "__main__":
    typer.run(main)
