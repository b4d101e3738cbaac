"""SFT against DPO without and with pairs of two right assessments: ``python -m research.study_judges OUT ...``.

A judge writes two assessments of each pair. DPO prefers the right one where one is right, and of two right ones the
better reasoned, or leaves the latter out. All judges are measured on the same pairs of the test split. Every step is a
command of `flexgym.rm`; a step whose result exists is skipped, so the same command continues a study that was stopped.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from flexgym.core.files import write_atomic
from flexgym.core.terminal import teaching_errors
from flexgym.types import MODALITIES, Modality
from research.judge.checkpoint import ASKED, NUM_FRAMES
from research.judge.measure import Figures, measure
from research.judge.preferences import ONE_WHOLE, PairSet, write_pairs

logger = logging.getLogger(__name__)

STAGES = {"SFT": "sft", "DPO, one right": "dpo_one_right", "DPO, also both right": "dpo"}
"""Columns of the table, with the folder of each judge."""
_PAIRS = {"sft": (1500, 1), "dpo": (600, 2)}
"""Pairs to learn from of each kind and source, and the number that their seeds begin with."""
_MEASURED = 300
_BATCH = 32
_RATES = {"sft": 2e-4, "dpo": 5e-5}
_ASK = (f"--num-frames={NUM_FRAMES}", f"--max-tokens={ASKED.decoding['max_tokens']}")


@dataclass(frozen=True)
class Study:
    """Judges with several seeds in one folder.

    Attributes:
        folder: where everything goes.
        generators: pipeline folders by kind.
        base: folder of the judge that all of them start from.
        seeds: of fine-tuning, of the assessments and of DPO.
        speed: divides all lengths.
    """

    folder: Path
    generators: dict[Modality, Path]
    base: Path
    seeds: Sequence[int]
    speed: float

    def make_data(self) -> None:
        """Write the pairs, and the assessments of the small world's rules."""
        for name, (count, first) in _PAIRS.items():
            for place, kind in enumerate(MODALITIES):
                for number, source in enumerate((None, self.generators[kind])):
                    file = self.folder / f"{name}_{kind}_{('rendered', 'generated')[number]}.jsonl"
                    size, seed = max(4, int(count / self.speed)), 100 * first + 10 * place + number
                    if not file.exists():
                        write_pairs(file, PairSet(source, kind, size, "training", ONE_WHOLE, seed))
        traces = self.folder / "traces.jsonl"
        if not traces.exists():
            _run("distill", *self._files("sft"), "--teacher=oracle", "--orders=both", *_ASK, f"--out={traces}")

    def make_judges(self, seed: int) -> None:
        """Fine-tune, sample two assessments of each pair, and align in both ways, with one seed."""
        own = self.folder / f"seed{seed}"
        self._train("sft", own / "sft", self.base, rows=self.folder / "traces.jsonl", seed=seed)
        for stage, chosen in (("dpo_one_right", "--without-both-right"), ("dpo", "--trajectory=rules")):
            rows = own / f"{stage}.jsonl"
            if not rows.exists():
                asked = (f"--judge={own / 'sft'}", f"--replies={own / 'replies.jsonl'}", f"--seed={seed}")
                _run("pairs", *self._files("dpo"), *asked, "--batch=256", chosen, *_ASK, f"--out={rows}")
            self._train("dpo", own / stage, own / "sft", rows=rows, seed=seed)

    def figures(self, judge: Path) -> Figures:
        """Measure a judge on the test split."""
        pairs = max(4, int(_MEASURED / self.speed))
        return measure(judge, self.generators, "test", pairs=pairs, out=judge.with_name(f"{judge.name}_figures"))

    def table(self) -> str:
        """Return accuracy and agreement of both orders, as means over the seeds with the lowest and the highest."""
        columns = {
            name: [self.figures(self.folder / f"seed{seed}" / stage) for seed in self.seeds]
            for name, stage in STAGES.items()
        }
        before = self.figures(self.base)
        lines = [["test pairs", "before", *columns], ["---", *["---:"] * (1 + len(columns))]]
        for title in ("right", "same in both orders"):
            for name in before:
                cells = [[each[name][title]["value"] for each in column] for column in columns.values()]
                lines.append([f"{name}, {title}", f"{before[name][title]['value']:.3f}", *map(_cell, cells)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def _files(self, name: str) -> list[Path]:
        return sorted(self.folder.glob(f"{name}_*.jsonl"))

    def _train(self, stage: str, judge: Path, source: Path, *, rows: Path, seed: int) -> None:
        """Train and export, or resume a run that was stopped; one pass over the rows for SFT, two for DPO."""
        if judge.exists():
            return
        run = judge.with_name(f"{judge.name}_run")
        if any(run.glob("checkpoints/iteration_*")):
            _run("train", stage, f"--resume={run}")
        else:
            shutil.rmtree(run, ignore_errors=True)
            where = (f"run.root={run.parent}", f"run.name={run.name}", f"run.seed={seed}", f"judge.source={source}")
            data = (f"data.files=[{rows}]", f"data.root={self.folder}")
            _run("train", stage, f"--config=rm_{stage}_shapes.yaml", *where, *data, *_length(stage, rows))
        _run("export", run, judge, "--dtype=float32")


def _length(stage: str, rows: Path) -> list[str]:
    """Return the settings that make so many passes; the rate falls to nothing with the last one."""
    count = sum(1 for _ in rows.open())
    batch, total = min(_BATCH, count), count * {"sft": 1, "dpo": 2}[stage]
    steps = min(10, max(1, total // batch))
    iterations = max(1, round(total / (steps * batch)))
    end = iterations * steps * batch
    schedule = [[0, 0.0], [end // 10, _RATES[stage]], [end, 0.0]]
    sizes = [f"training.{name}={batch}" for name in ("batch_size", "micro_batch_size")]
    return [
        f"run.iterations={iterations}",
        f"training.steps_per_iteration={steps}",
        f"training.lr={json.dumps(schedule)}",
        "data.image_format=png",
        *sizes,
    ]


def _run(*words: object) -> None:
    """Run one command of `flexgym.rm`."""
    command = [sys.executable, "-m", "flexgym.rm", *map(str, words)]
    logger.info("%s", " ".join(command[2:]))
    subprocess.run(command, check=True)


def _cell(values: Sequence[float]) -> str:
    spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main(
    out: Annotated[Path, typer.Argument(help="where everything goes")],
    *,
    t2i: Annotated[Path, typer.Option(help="image generator: a pipeline folder")],
    t2v: Annotated[Path, typer.Option(help="video generator: a pipeline folder")],
    judge: Annotated[Path, typer.Option(help="judge to start from, such as the folder 'generated' of its making")],
    seed: Annotated[list[int] | None, typer.Option(help="0, 1 and 2 by default")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="seeds at a time")] = 1,
    speed: Annotated[float, typer.Option(help="divide all lengths by this, to try the script out")] = 1.0,
) -> None:
    """Run the study, and print its table."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    with teaching_errors():
        generators: dict[Modality, Path] = {"image": t2i.absolute(), "video": t2v.absolute()}
        study = Study(out.absolute(), generators, judge.absolute(), seed or [0, 1, 2], speed)
        study.make_data()
        with ThreadPoolExecutor(parallel) as pool:
            for done in [pool.submit(study.make_judges, each) for each in study.seeds]:
                done.result()
        table = study.table()
        write_atomic(out / "table.md", table.encode())
        typer.echo(table)


if __name__ == "__main__":
    typer.run(main)
