"""The questions of the UnifiedReward-Flex paper and its critics in small: ``python -m research.study OUT ...``.

How much the categories count against the overall winner (alpha), what each anchor and the personalized categories
contribute, whether alpha should depend on the category of the prompt, and what a weaker judge and one outside its
domain teach. Each answer is a row: the image generator is trained with each of three seeds and tested on captions of
the test split. The same command continues a study that was stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from flexgym.core.files import write_atomic
from flexgym.core.terminal import teaching_errors
from flexgym.judge.backends.base import Decoding
from flexgym.judge.backends.transformers_model import TransformersBackend
from flexgym.judge.inputs import Inputs
from flexgym.judge.sources import read_judge_config
from flexgym.judge.vision_judge import VisionJudge
from flexgym.shapes.accuracy import balanced_accuracy
from research.alpha_rule import alpha_rule
from research.held_out import Result, held_out
from research.judge.policies import PolicyRun, train_policy

logger = logging.getLogger(__name__)

ALPHAS = (0.0, 0.3, 0.5, 0.7, 1.0)
_ANCHORS = {"A, alignment": (0, 1, 1), "B, quality": (1, 0, 1), "C, aesthetics": (1, 1, 0)}
_ERRING = 0.75
_ITERATIONS, _CAPTIONS, _RULE_CAPTIONS = 80, 1400, 210
"""Length of each training, captions of the test, and captions of validation that the rule of alpha is learned on."""


@dataclass(frozen=True)
class Condition:
    """One row of a table.

    Attributes:
        question: of the table.
        name: of the row.
        judge: folder of the judge.
        overrides: settings that differ from the recipe's.
    """

    question: str
    name: str
    judge: Path
    overrides: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Return the name as a part of a file's name."""
        return "_".join("".join(c if c.isalnum() else " " for c in f"{self.question} {self.name}".lower()).split())


def _tournament(**settings: object) -> str:
    return f"reward.settings.tournament={json.dumps({'schedule': 'regular(4)', **settings})}"


def conditions(judge: Path, outside: Path, alphas: Mapping[str, float]) -> list[Condition]:
    """Return all conditions.

    Args:
        judge: folder of the judge.
        outside: folder of a judge that has never seen generated samples.
        alphas: alpha by category of the prompt, learned on validation.
    """
    found = [Condition("alpha", f"{alpha:g}", judge, (_tournament(alpha=alpha),)) for alpha in ALPHAS]
    found.append(Condition("alpha", "by category", judge, (_tournament(alpha_by_category=dict(alphas)),)))
    found += [
        Condition("anchor left out", name, judge, (_tournament(category_weights=list(weights)),))
        for name, weights in _ANCHORS.items()
    ]
    for counts in (True, False):
        settings = ("reward.name=research.study_rewards:SummedScores", f"reward.settings.personalized={counts}".lower())
        found.append(Condition("personalized categories", "on" if counts else "off", judge, (*settings, _tournament())))
    erring = ("reward.name=research.study_rewards:ErringJudge", f"reward.settings.accuracy={_ERRING}", _tournament())
    found.append(Condition("judge", f"weaker, right in {_ERRING:.0%}", judge, erring))
    found.append(Condition("judge", "outside its domain", outside, (_tournament(),)))
    return found


@dataclass(frozen=True)
class Study:
    """Trainings and their results in one folder.

    Attributes:
        folder: where everything goes.
        generator: pipeline folder of the image generator.
        seeds: of the trainings.
        iterations: of each training.
        captions: of the test.
    """

    folder: Path
    generator: Path
    seeds: Sequence[int]
    iterations: int
    captions: int

    def run(self, rows: Sequence[Condition], *, parallel: int) -> None:
        """Train and test all that is missing, several at a time."""
        jobs = [(row, seed) for seed in self.seeds for row in rows]
        with ThreadPoolExecutor(parallel) as pool:
            for done in [pool.submit(self.result, row, seed) for row, seed in jobs]:
                done.result()

    def result(self, row: Condition, seed: int) -> Result:
        """Return the result of one training; train and test if there is none."""
        name = f"{row.slug}_seed{seed}"
        run = PolicyRun(self.generator, row.judge, self.iterations, seed, row.overrides)
        file = self._file(name)
        policy = self.generator if file.exists() else train_policy(self.folder / "policies" / name, run)
        return held_out(policy, "test", count=self.captions, file=file)

    def base(self) -> Result:
        """Return the result of the generator before any training."""
        return held_out(self.generator, "test", count=self.captions, file=self._file("base"))

    def _file(self, name: str) -> Path:
        return self.folder / "results" / f"{name}.json"

    def tables(self, rows: Sequence[Condition]) -> str:
        """Return one Markdown table for each question."""
        base = self.base()
        parts = [f"Before training: {_cell([base], 'verifier')}, by the audit {_cell([base], 'audit')}.\n"]
        for question in dict.fromkeys(row.question for row in rows):
            lines = [[question, "test accuracy", "seeds", "audit"], ["---", "---:", "---:", "---:"]]
            for row in rows:
                if row.question == question:
                    lines.append([row.name, *self._cells(row)])
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
        return "\n".join(parts)

    def _cells(self, row: Condition) -> Iterator[str]:
        results = [self.result(row, seed) for seed in self.seeds]
        single = [balanced_accuracy(each["captions"], each["verifier"]).value for each in results]
        yield _cell(results, "verifier")
        yield f"{min(single):.3f} to {max(single):.3f}"
        yield _cell(results, "audit")


def _cell(results: Sequence[Result], verifier: str) -> str:
    """Return the balanced accuracy over all seeds, with its 95% interval over the compositions."""
    captions = [caption for each in results for caption in each["captions"]]
    return str(balanced_accuracy(captions, np.concatenate([each[verifier] for each in results])))


def _judge(folder: Path) -> VisionJudge:
    config = read_judge_config(folder)
    decoding, inputs = Decoding(**config.decoding), Inputs(**config.inputs)
    return VisionJudge(TransformersBackend(folder), decoding=decoding, inputs=inputs)


def main(
    out: Annotated[Path, typer.Argument(help="where everything goes")],
    *,
    t2i: Annotated[Path, typer.Option(help="image generator: a pipeline folder")],
    judge: Annotated[Path, typer.Option(help="folder of the judge")],
    outside: Annotated[Path, typer.Option(help="judge that saw no generated samples: folder 'rendered' of its making")],
    seed: Annotated[list[int] | None, typer.Option(help="of the trainings; 0, 1 and 2 by default")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="trainings at a time")] = 1,
    only: Annotated[str, typer.Option(help="conditions whose file names contain this")] = "",
    speed: Annotated[float, typer.Option(help="divide all lengths by this, to try the script out")] = 1.0,
) -> None:
    """Run the study, and print its tables."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    with teaching_errors():
        out, t2i, judge, outside = (path.absolute() for path in (out, t2i, judge, outside))
        out.mkdir(parents=True, exist_ok=True)
        sizes = [max(7, int(count / speed)) for count in (_CAPTIONS, _RULE_CAPTIONS)]
        rule = alpha_rule(_judge(judge), t2i, captions=sizes[1], file=out / "alpha_rule.json")
        study = Study(out, t2i, seed or [0, 1, 2], max(1, int(_ITERATIONS / speed)), sizes[0])
        rows = [row for row in conditions(judge, outside, rule) if only in row.slug]
        study.run(rows, parallel=parallel)
        tables = study.tables(rows)
        write_atomic(out / "tables.md", tables.encode())
        typer.echo(tables)


if __name__ == "__main__":
    typer.run(main)
