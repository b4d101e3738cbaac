"""The small judge from nothing to its figures (``python -m research.judge.make runs/judge``).

Every step is a command that anyone can run (`flexgym.rm distill`, `train`, `export`, `pairs`, `evaluate`). A step whose
result exists is skipped, so the script resumes where it was stopped. Seeds share the base and the data.

A policy that is trained with the judge finds images that it errs on and that no base generator makes. So a judge is
made in rounds: train policies with it (`python -m agents.pref_grpo`), export them (`flexgym export`), and make the next
judge from it (``--base``) with their folders as ``--policy``.
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
import torch
import typer
from safetensors.torch import load_file, save_file

from research.judge.candidates import FRAMES
from research.judge.checkpoint import ASKED, NUM_FRAMES
from research.judge.preferences import ONE_WHOLE, PairSet, write_pairs

logger = logging.getLogger(__name__)

MEASURED = (("image", "rendered"), ("image", "generated"), ("video", "rendered"), ("video", "generated"))
"""Kinds and sources of the pairs that judges are measured on."""
SETS = (*MEASURED, ("image", FRAMES))
"""Those of the pairs to learn from that no policy made."""
TAUGHT = ("training",)
ORDERS_DISTILLED = {"any": "shuffled", "whole": "both"}
"""In which orders pairs are distilled."""
STAGES = ("sft", "dpo_one_right", "dpo")
"""The judges of the table: after fine-tuning, after DPO without items of two right traces, and after full DPO."""
DPO_LR = 5e-5
_BATCH = 32
_WEIGHTS = "model.safetensors"
_ASK = (f"--num-frames={NUM_FRAMES}", f"--max-tokens={ASKED.decoding['max_tokens']}")


@dataclass(frozen=True)
class Round:
    """How a judge is made from another one.

    Attributes:
        any_pairs: pairs to distil, of each of the `SETS`.
        whole: pairs to distil of which exactly one is right, of each of the `SETS`, each in both orders. Of
            two samples that the judge cannot distinguish, each is then first equally often, so that a verdict does not
            follow from the order.
        dpo: pairs to sample traces for, of each of the `SETS`, exactly one of them right.
        counting: pairs of images to distil of captions that count, from the generator and from each trained policy.
        policy: pairs of images to distil of any caption, from each trained policy.
        held_out: pairs to measure on, of each of the `MEASURED`, exactly one of them right.
        sft_passes: of fine-tuning over its traces.
        sft_lr: the highest.
        dpo_passes: over the pairs of traces.
        steps: optimizer steps of an iteration of fine-tuning and of DPO; the last iteration is always complete.
        bfloat16: train and generate in bfloat16, which is faster on processors with AVX512-BF16.
    """

    any_pairs: tuple[int, ...]
    whole: tuple[int, ...]
    dpo: tuple[int, ...] = (200, 600, 200, 800, 0)
    counting: int = 1000
    policy: int = 1500
    held_out: int = 250
    sft_passes: float = 1.0
    sft_lr: float = 6e-4
    dpo_passes: float = 2.0
    steps: tuple[int, int] = (50, 10)
    bfloat16: bool = False


FIRST = Round(
    (5000, 5000, 2000, 2000, 0), whole=(1600, 1600, 2000, 2000, 4000), counting=1500, sft_passes=1.5, sft_lr=1e-3
)
"""From a base that can only say what it sees."""
NEXT = Round((0, 0, 0, 900, 0), whole=(700, 2000, 700, 4000, 4000))
"""From an earlier judge."""


def make_data(folder: Path, plan: Round, policies: Sequence[Path] = ()) -> None:
    """Write the pairs for training and measuring, and the traces of the small world's rules."""
    with torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
        for name, pairs in pair_sets(plan, policies).items():
            file = folder / f"{name}.jsonl"
            if pairs.count and not file.exists():
                write_pairs(file, pairs)
                logger.info("%d pairs in %s", pairs.count, file)
    for name, orders in ORDERS_DISTILLED.items():
        traces = folder / f"traces_{name}.jsonl"
        if not traces.exists():
            _run("distill", *_files(folder, name), "--teacher=oracle", f"--orders={orders}", *_ASK, f"--out={traces}")


def pair_sets(plan: Round, policies: Sequence[Path]) -> dict[str, PairSet]:
    """Return all sets of pairs by the names of their files."""
    found = {}
    uses = (
        ("any", plan.any_pairs, TAUGHT, "any"),
        ("dpo", plan.dpo, TAUGHT, ONE_WHOLE),
        ("held_out", (plan.held_out,) * len(MEASURED) + (0,), ("validation",), ONE_WHOLE),
        ("whole", plan.whole, TAUGHT, ONE_WHOLE),
    )
    for place, (name, counts, splits, rule) in enumerate(uses):
        for number, ((kind, source), count) in enumerate(zip(SETS, counts, strict=True)):
            seed = 1000 + 10 * number + place
            found[f"{name}_{kind}_{source}"] = PairSet(
                source, kind=kind, count=count, splits=splits, rule=rule, seed=seed
            )
    painters: list[str | Path] = ["generated", *policies]
    for number, painter in enumerate(painters):
        pairs = PairSet(painter, kind="image", count=plan.counting, splits=TAUGHT, rule="any", seed=2000 + number)
        found[f"any_counting_{number}"] = replace(pairs, category="counting")
        if number:
            found[f"any_policy_{number}"] = replace(pairs, count=plan.policy, seed=3000 + number)
    return found


def make_judge(folder: Path, base: Path, *, seed: int, plan: Round) -> None:
    """Fine-tune, sample pairs of traces, align, and measure, with one seed."""
    own = folder / f"seed{seed}"
    judges = {stage: own / stage for stage in STAGES}
    how = (f"run.seed={seed}", *(["judge.compute_dtype=bfloat16"] if plan.bfloat16 else []))
    traces = [folder / f"traces_{name}.jsonl" for name in ORDERS_DISTILLED]
    length = _length(traces, plan.sft_passes, plan.steps[0], warm_up=1000, lr=plan.sft_lr)
    _train("sft", judges["sft"], *how, *length, source=base, rows=traces)
    for stage, chosen in (("dpo_one_right", ("--without-both-right",)), ("dpo", ("--trajectory=rules",))):
        rows = own / f"{stage}.jsonl"
        if not rows.exists():
            asked = (f"--judge={judges['sft']}", f"--replies={own / 'replies.jsonl'}", f"--seed={seed}", "--batch=256")
            _run("pairs", *_files(folder, "dpo"), *asked, *chosen, *_ASK, f"--out={rows}")
        length = _length([rows], plan.dpo_passes, plan.steps[1], warm_up=400, lr=DPO_LR)
        _train("dpo", judges[stage], *how, *length, source=judges["sft"], rows=[rows])
    for judge in judges.values():
        _measure(folder, judge)


def make_mean(folder: Path, seeds: Sequence[int]) -> Path:
    """Average the weights of all seeds after fine-tuning into one judge, and measure it.

    They share one base, so the mean of their weights judges as well as they do or better (arXiv 2203.05482).
    """
    judge = _mean_of(folder, seeds)
    if not judge.exists():
        judges = [folder / f"seed{seed}" / "sft" for seed in seeds]
        weights = [load_file(each / _WEIGHTS) for each in judges]
        mean = {name: torch.stack([each[name] for each in weights]).mean(0) for name in weights[0]}
        part = judge.with_name(f"{judge.name}.part")
        shutil.copytree(judges[0], part, dirs_exist_ok=True)
        save_file(mean, part / _WEIGHTS, metadata={"format": "pt"})
        part.rename(judge)
    _measure(folder, judge)
    return judge


def _mean_of(folder: Path, seeds: Sequence[int]) -> Path:
    return folder / f"mean_of_{'_'.join(map(str, seeds))}"


def _measure(folder: Path, judge: Path) -> None:
    for kind, source in MEASURED:
        report = _report(judge, kind, source)
        if not report.exists():
            held_out = folder / f"held_out_{kind}_{source}.jsonl"
            _run("evaluate", held_out, f"--judge={judge}", "--batch=128", f"--out={report.parent}")


def _report(judge: Path, kind: str, source: str) -> Path:
    return judge.with_name(f"{judge.name}_report") / f"{kind}_{source}" / "report.json"


def _length(rows: list[Path], passes: float, steps: int, *, warm_up: int, lr: float) -> list[str]:
    """Overrides for as many iterations as make so many passes; the rate falls to nothing with the last one."""
    count = sum(sum(1 for _ in file.open()) for file in rows)
    batch, iterations = min(_BATCH, count), max(1, round(passes * count / (steps * _BATCH)))
    schedule = [[0, 0.0], [warm_up, lr], [max(iterations * steps * _BATCH, 2 * warm_up), 0.0]]
    sizes = [f"training.{name}={batch}" for name in ("batch_size", "micro_batch_size")]
    iteration = f"training.steps_per_iteration={steps}"
    return [f"run.iterations={iterations}", iteration, f"training.lr={schedule}", *sizes]


def _train(stage: str, judge: Path, *overrides: str, source: Path, rows: list[Path]) -> None:
    """Train and export, or resume a run that was stopped."""
    if judge.exists():
        return
    run = judge.with_name(f"{judge.name}_run")
    if any(run.glob("checkpoints/iteration_*")):
        _run("train", stage, f"--resume={run}")
    else:
        shutil.rmtree(run, ignore_errors=True)
        where = (f"run.root={run.parent}", f"run.name={run.name}", f"judge.source={source}")
        data = (f"data.files=[{','.join(map(str, rows))}]", f"data.root={run.parent.parent}")
        _run("train", stage, f"--config=rm_{stage}_shapes.yaml", *where, *data, *overrides)
    _run("export", run, judge, "--dtype=float32")


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}_*.jsonl"))


def _run(*words: object) -> None:
    """Run one command of `flexgym.rm`."""
    command = [sys.executable, "-m", "flexgym.rm", *map(str, words)]
    logger.info("%s", " ".join(command[2:]))
    subprocess.run(command, check=True)


def table(folder: Path, seeds: Sequence[int]) -> str:
    """Return the figures of all judges as a Markdown table: means over the seeds, with the lowest and the highest."""
    heads = ["held-out pairs", "majority guess", "after SFT", "DPO, one right", "DPO", "mean weights of SFT"]
    stages = [[folder / f"seed{seed}" / stage for seed in seeds] for stage in STAGES]
    columns = [*stages, [_mean_of(folder, seeds)]] if len(seeds) > 1 else stages
    lines = [heads[: 2 + len(columns)], ["---", *["---:"] * (1 + len(columns))]]
    for title, figure in (
        ("right", "accuracy"),
        ("same in both orders", "order_consistency"),
        ("failed", "failure_share"),
    ):
        for kind, source in MEASURED:
            cells = [_cell([_figure(_report(judge, kind, source), figure) for judge in judges]) for judges in columns]
            guess = f"{_majority(folder / f'held_out_{kind}_{source}.jsonl'):.3f}" if figure == "accuracy" else ""
            lines.append([f"{source} {kind}s, {title}", guess, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _figure(report: Path, name: str) -> float:
    value = json.loads(report.read_text())["overall"][name]
    return value["value"] if isinstance(value, dict) else value


def _cell(values: list[float]) -> str:
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _majority(pairs: Path) -> float:
    """Return the share of pairs that the more frequent winner wins."""
    second = np.mean([json.loads(line)["winner"] for line in pairs.open()])
    return float(max(second, 1.0 - second))


def main(
    folder: Annotated[Path, typer.Argument(help="where everything goes")],
    *,
    base: Annotated[
        Path | None, typer.Option(help="the judge to start from; FOLDER/base by default, made if missing")
    ] = None,
    policy: Annotated[list[Path] | None, typer.Option(help="folders of policies trained with an earlier judge")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="one or several; 0 by default")] = None,
    bfloat16: Annotated[bool, typer.Option(help="train and draw in bfloat16: faster with AVX512-BF16")] = False,
) -> None:
    """Make the judge with each seed, and write the table of its figures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = folder.absolute()
    plan = replace(NEXT if base else FIRST, bfloat16=bfloat16)
    base = (base or folder / "base").absolute()
    if not base.exists():
        subprocess.run([sys.executable, "-m", "research.judge.pretrain", f"--out={base}"], check=True)
    make_data(folder, plan, policy or [])
    seeds = seed or [0]
    for each in seeds:
        make_judge(folder, base, seed=each, plan=plan)
    if len(seeds) > 1:
        make_mean(folder, seeds)
    (folder / "table.md").write_text(table(folder, seeds))


if __name__ == "__main__":
    typer.run(main)
