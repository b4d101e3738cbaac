"""The small judge from nothing to its figures: ``python -m research.judge.make OUT --t2i FOLDER --t2v FOLDER``.

First its vision tower learns to see. What follows is one training in phases: describing single rendered samples,
judging rendered pairs, judging rendered and generated pairs, and judging these and pairs of trained policies. The judge
of the third phase is the reward of two short trainings of the image generator, whose samples show on what it errs. The
same command continues one that was stopped.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save

from flexgym.core.errors import ConfigError
from flexgym.core.files import held_folder, write_atomic
from flexgym.core.terminal import teaching_errors
from flexgym.types import Modality
from research.judge.checkpoint import build_judge, save_judge
from research.judge.lessons import Lessons, Phase
from research.judge.measure import write_figures
from research.judge.policies import PolicyRun, train_policy
from research.judge.pools import fill_pool
from research.judge.seeing import SEEING_RATE, Seer, SightLessons, loss_of_sights, share_seen
from research.judge.training import Training, loss_of_replies

logger = logging.getLogger(__name__)

_SEEING = 800
"""Steps in which the vision tower learns to see."""
_PHASES = (
    Phase("describing", 1400, described=1.0, trains_sight=False),
    Phase("rendered", 2600, described=0.1),
    Phase("generated", 2400, described=0.05, sources={"rendered": 0.35, "base": 0.55, "stills": 0.1}),
    Phase(
        "policies",
        2000,
        described=0.05,
        sources={"rendered": 0.3, "base": 0.35, "stills": 0.1, "policy1": 0.2, "policy2": 0.2},
    ),
)
_MEASURED = 600
"""Pairs of each kind and source that the finished judge is measured on."""
Pools = dict[Modality, dict[str, Path]]


@dataclass(frozen=True)
class Recipe:
    """Size of everything that is made.

    Attributes:
        seeing: steps in which the vision tower learns to see.
        phases: of what follows; the third is the first that needs generators, and the last one needs policies.
        pools: captions in the pool of each generator, by kind.
        policy_captions: captions in the pool of each policy.
        policy_iterations: length of the training of each policy.
    """

    seeing: int = _SEEING
    phases: Sequence[Phase] = _PHASES
    pools: Mapping[Modality, int] = field(default_factory=lambda: {"image": 2000, "video": 1500})
    policy_captions: int = 1000
    policy_iterations: int = 40

    def shorter(self, speed: float) -> Recipe:
        """Return a recipe that is shorter by the factor ``speed``."""
        return Recipe(
            max(2, int(self.seeing / speed)),
            [replace(phase, steps=max(2, int(phase.steps / speed))) for phase in self.phases],
            {kind: max(4, int(count / speed)) for kind, count in self.pools.items()},
            max(4, int(self.policy_captions / speed)),
            max(1, int(self.policy_iterations / speed)),
        )


class Making:
    """Everything about one judge, in one folder.

    Args:
        out: the folder.
        generators: pipeline folders by kind, read when the third phase begins.
        recipe: sizes.
        seed: of all draws.
    """

    def __init__(self, out: Path, generators: Mapping[Modality, Path], recipe: Recipe, *, seed: int) -> None:
        self._out, self._generators, self._recipe, self._seed = out, generators, recipe, seed

    def make(self, *, workers: int = 0, compiled: bool = False) -> Path:
        """Take all steps that remain, and return the folder of the judge.

        Args:
            workers: processes that prepare lessons.
            compiled: run the layers of the language model through ``torch.compile``.
        """
        judge = self._out / "judge"
        if judge.exists():
            return judge
        torch.manual_seed(self._seed)
        model, tokenizer = build_judge()
        self._see(model.model.visual, workers=workers)
        ends = list(itertools.accumulate(phase.steps for phase in self._recipe.phases))
        training = Training(model, ends[-1], loss_of_replies)
        if compiled:
            for layer in model.model.language_model.layers:
                layer.compile(dynamic=True)
        state = self._out / "state"
        if training.restore(state):
            logger.info("continuing after %d steps", training.step)
        for number, (phase, end) in enumerate(zip(self._recipe.phases, ends, strict=True)):
            if training.step > end:
                continue
            model.model.visual.requires_grad_(phase.trains_sight)
            lessons = Lessons(phase, self._pools(number), seed=self._seed)
            logger.info("phase %s until step %d", phase.name, end)
            training.run(lessons, end, workers=workers, watch=lambda training: training.save(state))
            self._keep(training.average, tokenizer, self._out / phase.name)
        self._keep(training.average, tokenizer, judge)
        return judge

    def _see(self, visual: torch.nn.Module, *, workers: int) -> None:
        """Train the vision tower, or load what was trained before."""
        file, state, steps = self._out / "seeing.safetensors", self._out / "state_seeing", self._recipe.seeing
        if not file.exists():
            training = Training(Seer(visual), steps, loss_of_sights, learning_rate=SEEING_RATE)
            training.restore(state)
            logger.info("seeing until step %d", steps)
            lessons = SightLessons(seed=self._seed)
            training.run(lessons, steps, workers=workers, watch=lambda training: training.save(state))
            logger.info("%.4f of what covers patches is seen", share_seen(training.average, lessons[steps]))
            write_atomic(file, save(training.average.visual.state_dict()))
        visual.load_state_dict(load_file(file))

    @staticmethod
    def _keep(model: torch.nn.Module, tokenizer: object, folder: Path) -> None:
        if not folder.exists():
            with held_folder(folder) as partial:
                save_judge(model, tokenizer, partial)
                partial.rename(folder)

    def _pools(self, number: int) -> Pools:
        """Return the folders of the pools for a phase, after making those that are missing."""
        pools: Pools = {"image": {}, "video": {}}
        if number < 2:
            return pools
        for place, (kind, source) in enumerate(self._generators.items()):
            if not (source / "model_index.json").exists():
                raise ConfigError(
                    f"{source}: expected the folder of a pipeline (research.pretrain makes it) for the third phase, and"
                    " there is none; the same command continues from here"
                )
            pools[kind]["base"] = self._out / "pools" / f"base_{kind}"
            count = self._recipe.pools[kind]
            fill_pool(pools[kind]["base"], source, kind, captions=count, seed=1000 * self._seed + place)
        if number > 2:
            for seed in (1, 2):
                pools["image"][f"policy{seed}"] = self._policy_pool(seed)
        return pools

    def _policy_pool(self, seed: int) -> Path:
        """Train a policy with the judge of the phase before as the reward, and fill a pool with its samples."""
        pool = self._out / "pools" / f"policy{seed}"
        policy = self._out / "policies" / f"policy{seed}"
        judge = self._out / self._recipe.phases[2].name
        iterations = self._recipe.policy_iterations
        train_policy(policy, PolicyRun(self._generators["image"], judge, iterations, seed))
        fill_pool(pool, policy, "image", captions=self._recipe.policy_captions, seed=1000 * self._seed + 100 + seed)
        return pool


def main(
    out: Annotated[Path, typer.Argument(help="where everything goes")],
    *,
    t2i: Annotated[Path, typer.Option(help="image generator: a pipeline folder, read when the third phase begins")],
    t2v: Annotated[Path, typer.Option(help="video generator, likewise")],
    seed: int = 0,
    threads: int = 1,
    workers: Annotated[int, typer.Option(help="processes that prepare lessons; 0 prepares them in between")] = 0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="use torch.compile: a seventh less time per step")
    ] = False,
    speed: Annotated[float, typer.Option(help="divide all lengths by this, to try the script out")] = 1.0,
) -> None:
    """Make the judge, and write its figures; the same command continues one that was stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    with teaching_errors():
        generators: dict[Modality, Path] = {"image": t2i.absolute(), "video": t2v.absolute()}
        making = Making(out.absolute(), generators, Recipe().shorter(speed), seed=seed)
        judge = making.make(workers=workers, compiled=compiled)
        for split in ("validation", "test"):
            logger.info("%s", write_figures(judge, generators, split, pairs=max(8, int(_MEASURED / speed))))


if __name__ == "__main__":
    typer.run(main)
