"""The small judge from nothing to its figures (``python -m flexgym.shapes.judge.make runs/judge``).

Every step is a command that anyone can run (`flexgym.rm distill`, `train`, `export`, `pairs`, `evaluate`); a step whose
result is there is left out, so the script goes on where it was stopped. Seeds share the first stage and the data.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from flexgym.shapes.judge.checkpoint import ASKED, NUM_FRAMES
from flexgym.shapes.judge.preferences import ONE_WHOLE, write_pairs

logger = logging.getLogger(__name__)

KINDS, SOURCES = ("image", "video"), ("rendered", "generated")
TAUGHT = ("training", "rich")
STAGES = ("sft", "dpo_one_right", "dpo")
"""The judges of the table: after fine-tuning, after DPO without items of two right traces, and after full DPO."""
DPO_BATCH = 32
"""Rows of a step of alignment; fewer where there are fewer."""
_SETS = tuple((kind, source) for kind in KINDS for source in SOURCES)
_ASK = (f"--num-frames={NUM_FRAMES}", f"--max-tokens={ASKED.decoding['max_tokens']}")


@dataclass(frozen=True)
class Sizes:
    """How much data is made.

    Attributes:
        sft: pairs to distil, by kind, from each source.
        dpo: pairs to sample traces for, by kind, from each source.
        held_out: pairs to measure on, of each kind and source, exactly one of them right.
        sft_iterations: of fine-tuning, 50 steps each.
        dpo_passes: over the pairs of traces.
    """

    sft: dict[str, int]
    dpo: dict[str, int]
    held_out: int = 250
    sft_iterations: int = 15
    dpo_passes: int = 2


SIZES = Sizes({"image": 5000, "video": 2000}, {"image": 2000, "video": 800})


def make_data(folder: Path, sizes: Sizes) -> None:
    """Pairs to learn from and to measure on, and the traces of the small world's rules."""
    for number, (kind, source) in enumerate(_SETS):
        wanted = {
            "sft": (sizes.sft[kind], TAUGHT, "any"),
            "dpo": (sizes.dpo[kind], TAUGHT, "any"),
            "held_out": (sizes.held_out, ("held_out",), ONE_WHOLE),
        }
        for place, (name, (count, splits, rule)) in enumerate(wanted.items()):
            file = folder / f"{name}_{kind}_{source}.jsonl"
            if not file.exists():
                seed = 1000 + 10 * number + place
                write_pairs(file, source, kind=kind, count=count, splits=splits, rule=rule, seed=seed)
                logger.info("%d pairs in %s", count, file)
    traces = folder / "traces.jsonl"
    if not traces.exists():
        _run("distill", *_files(folder, "sft"), "--teacher=oracle", *_ASK, f"--out={traces}")


def make_judge(folder: Path, base: Path, *, seed: int, sizes: Sizes) -> None:
    """Fine-tune, sample pairs of traces, align, and measure, with one seed."""
    own = folder / f"seed{seed}"
    judges = {stage: own / stage for stage in STAGES}
    taught = (f"debugging.seed={seed}", f"run.iterations={sizes.sft_iterations}")
    _train("sft", judges["sft"], *taught, source=base, rows=folder / "traces.jsonl")
    for stage, how in (("dpo_one_right", ("--without-both-right",)), ("dpo", ("--trajectory=rules",))):
        rows = own / f"{stage}.jsonl"
        if not rows.exists():
            asked = (f"--judge={judges['sft']}", f"--replies={own / 'replies.jsonl'}", f"--seed={seed}", "--batch=256")
            _run("pairs", *_files(folder, "dpo"), *asked, *how, *_ASK, f"--out={rows}")
        count = sum(1 for _ in rows.open())
        batch, iterations = min(DPO_BATCH, count), max(1, sizes.dpo_passes * count // (10 * DPO_BATCH))
        length = (f"run.iterations={iterations}", f"training.batch_size={batch}", f"training.micro_batch_size={batch}")
        _train("dpo", judges[stage], f"debugging.seed={seed}", *length, source=judges["sft"], rows=rows)
    for judge in judges.values():
        for kind, source in _SETS:
            report = judge.with_name(f"{judge.name}_report") / f"{kind}_{source}"
            if not (report / "report.json").exists():
                held_out = folder / f"held_out_{kind}_{source}.jsonl"
                _run("evaluate", held_out, f"--judge={judge}", "--batch=128", f"--out={report}")


def _train(stage: str, judge: Path, *overrides: str, source: Path, rows: Path) -> None:
    """Train and export; a run that was stopped goes on."""
    if judge.exists():
        return
    run = judge.with_name(f"{judge.name}_run")
    if any(run.glob("checkpoints/iteration_*")):
        _run("train", stage, f"--resume={run}")
    else:
        shutil.rmtree(run, ignore_errors=True)
        where = (f"run.root={run.parent}", f"run.name={run.name}", f"judge.source={source}")
        data = (f"data.files=[{rows}]", f"data.root={run.parent.parent}")
        _run("train", stage, f"--config=rm_{stage}_shapes.yaml", *where, *data, *overrides)
    _run("export", run, judge, "--dtype=float32")


def _files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}_{kind}_{source}.jsonl" for kind, source in _SETS]


def _run(*words: object) -> None:
    """One command of `flexgym.rm`."""
    command = [sys.executable, "-m", "flexgym.rm", *map(str, words)]
    logger.info("%s", " ".join(command[2:]))
    subprocess.run(command, check=True)


def table(folder: Path, seeds: list[int]) -> str:
    """The figures of all judges as a table in Markdown: mean over the seeds, and the lowest and highest."""
    heads = ["held-out pairs", "majority guess", "after SFT", "DPO, one right", "DPO"]
    lines = [heads, ["---", *["---:"] * 4]]
    for title, figure in (
        ("right", "accuracy"),
        ("same in both orders", "order_consistency"),
        ("failed", "failure_share"),
    ):
        for kind, source in _SETS:
            names = (f"seed{{}}/{stage}_report/{kind}_{source}/report.json" for stage in STAGES)
            cells = [_cell([_figure(folder / name.format(seed), figure) for seed in seeds]) for name in names]
            guess = f"{_majority(folder / f'held_out_{kind}_{source}.jsonl'):.3f}" if figure == "accuracy" else ""
            lines.append([f"{source} {kind}s, {title}", guess, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _figure(report: Path, name: str) -> float:
    value = json.loads(report.read_text())["overall"][name]
    return value["value"] if isinstance(value, dict) else value


def _cell(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _majority(pairs: Path) -> float:
    """How often the side that wins more often wins."""
    second = np.mean([json.loads(line)["winner"] for line in pairs.open()])
    return float(max(second, 1.0 - second))


def main(
    folder: Annotated[Path, typer.Argument(help="where everything goes")],
    *,
    base: Annotated[Path | None, typer.Option(help="the first stage; FOLDER/base by default, made if missing")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="one or several; 0 by default")] = None,
) -> None:
    """Make the judge with each seed, and write the table of its figures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = folder.absolute()
    base = (base or folder / "base").absolute()
    if not base.exists():
        subprocess.run([sys.executable, "-m", "flexgym.shapes.judge.pretrain", f"--out={base}"], check=True)
    make_data(folder, SIZES)
    seeds = seed or [0]
    for each in seeds:
        make_judge(folder, base, seed=each, sizes=SIZES)
    (folder / "table.md").write_text(table(folder, seeds))


if __name__ == "__main__":
    typer.run(main)
