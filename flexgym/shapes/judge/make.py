"""The small judge from nothing to its figures (``python -m flexgym.shapes.judge.make runs/judge``).

Every step is a command that anyone can run (`flexgym.rm distill`, `train`, `export`, `pairs`, `evaluate`); a step whose
result is there is left out, so the script goes on where it was stopped. Seeds share the first stage and the data.

A policy that is trained with the judge finds pictures that it errs on, which no base generator makes. So a judge is
made in rounds: train policies with it (`python -m agents.pref_grpo`), export them (`flexgym export`), and make the next
judge with their folders as ``--policy``.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from flexgym.shapes.judge.checkpoint import ASKED, NUM_FRAMES
from flexgym.shapes.judge.preferences import ONE_WHOLE, PairSet, write_pairs

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
    """How much data is made; pairs by kind, from each source.

    Attributes:
        sft: pairs to distil.
        whole: pairs to distil of which exactly one is right. What cannot be told apart is then as often the first as
            the second, so that a verdict does not follow from the order.
        counting: pairs of images to distil of captions that count, from the generator and from each trained policy.
        policy: pairs of images to distil of any caption, from each trained policy.
        dpo: pairs to sample traces for.
        held_out: pairs to measure on, of each kind and source, exactly one of them right.
        sft_iterations: of fine-tuning, 50 steps each.
        dpo_passes: over the pairs of traces.
    """

    sft: dict[str, int]
    whole: dict[str, int]
    dpo: dict[str, int]
    counting: int = 1500
    policy: int = 1500
    held_out: int = 250
    sft_iterations: int = 27
    dpo_passes: int = 2


SIZES = Sizes(
    sft={"image": 5000, "video": 2000}, whole={"image": 1600, "video": 2000}, dpo={"image": 2000, "video": 800}
)


def make_data(folder: Path, sizes: Sizes, policies: Sequence[Path] = ()) -> None:
    """Pairs to learn from and to measure on, and the traces of the small world's rules."""
    for number, (kind, source) in enumerate(_SETS):
        wanted = (
            ("sft", sizes.sft[kind], TAUGHT, "any"),
            ("dpo", sizes.dpo[kind], TAUGHT, "any"),
            ("held_out", sizes.held_out, ("held_out",), ONE_WHOLE),
            ("sft_whole", sizes.whole[kind], TAUGHT, ONE_WHOLE),
        )
        for place, (name, count, splits, rule) in enumerate(wanted):
            seed = 1000 + 10 * number + place
            pairs = PairSet(source, kind=kind, count=count, splits=splits, rule=rule, seed=seed)
            _write(folder / f"{name}_{kind}_{source}.jsonl", pairs)
    painters: list[str | Path] = ["generated", *policies]
    for number, painter in enumerate(painters):
        pairs = PairSet(painter, kind="image", count=sizes.counting, splits=TAUGHT, rule="any", seed=2000 + number)
        _write(folder / f"sft_counting{number}.jsonl", replace(pairs, category="counting"))
        if number:
            _write(folder / f"sft_policy{number}.jsonl", replace(pairs, count=sizes.policy, seed=3000 + number))
    traces = folder / "traces.jsonl"
    if not traces.exists():
        _run("distill", *_files(folder, "sft"), "--teacher=oracle", *_ASK, f"--out={traces}")


def _write(file: Path, pairs: PairSet) -> None:
    if not file.exists():
        write_pairs(file, pairs)
        logger.info("%d pairs in %s", pairs.count, file)


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
    return sorted(folder.glob(f"{name}_*.jsonl"))


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
    policy: Annotated[list[Path] | None, typer.Option(help="folders of policies trained with an earlier judge")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="one or several; 0 by default")] = None,
) -> None:
    """Make the judge with each seed, and write the table of its figures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = folder.absolute()
    base = (base or folder / "base").absolute()
    if not base.exists():
        subprocess.run([sys.executable, "-m", "flexgym.shapes.judge.pretrain", f"--out={base}"], check=True)
    make_data(folder, SIZES, policy or [])
    seeds = seed or [0]
    for each in seeds:
        make_judge(folder, base, seed=each, sizes=SIZES)
    (folder / "table.md").write_text(table(folder, seeds))


if __name__ == "__main__":
    typer.run(main)
