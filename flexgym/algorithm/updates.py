"""The optimizer steps of an iteration: which trained levels of which groups each of them replays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexgym.algorithm.kept import Rollout
from flexgym.algorithm.process import Process

Weighted = tuple[Rollout, NDArray[np.float32]]
"""Groups of one forward with their advantages, ``[P, G]`` or of each level ``[W, P, G]``."""


@dataclass(frozen=True, eq=False)
class Job:
    """Trained levels of some groups that share one forward.

    Attributes:
        rollout: the groups.
        indices: numbers of the L levels.
        advantages: of the samples ``[P, G]``, or of each of these levels ``[L, P, G]``.
        share: weight of its mean loss among the jobs of the optimizer step.
        draw: number by which noise differs from that of other passes over the same samples.
        fresh: whether the weights are still those that sampled.
    """

    rollout: Rollout
    indices: tuple[int, ...]
    advantages: Tensor
    share: float
    draw: int
    fresh: bool


@dataclass(frozen=True)
class UpdatePlan:
    """How an iteration trains on its rollout.

    Attributes:
        process: how samples become training examples.
        num_updates: optimizer steps of a pass.
        passes: passes over the rollout.
        split: whether the optimizer steps of a pass divide the groups, or the samples of every group.
        stacked: replay all levels of a sample in one forward.
        acts: whether the weights that train are those that sample.
    """

    process: Process
    num_updates: int = 1
    passes: int = 1
    split: Literal["groups", "samples"] = "groups"
    stacked: bool = False
    acts: bool = True

    def first(self, parts: Iterable[Weighted], count: int) -> Iterator[Job]:
        """Yield the jobs of the first optimizer step, lazily as each part's advantages become available.

        Args:
            parts: those of the rollout in order; no more are taken than the step needs.
            count: number of parts of the rollout.
        """
        taken = self.parts_of_first(count)
        for _, part in zip(range(taken), parts, strict=False):
            yield from self._jobs(part, taken, number=0, turn=0)

    def parts_of_first(self, count: int) -> int:
        """Return how many of the parts of a rollout the first optimizer step takes."""
        return count if self.split == "samples" else count // self.num_updates

    def levels_of_first(self, rollouts: Sequence[Rollout]) -> int:
        """Return the number of jobs of the first optimizer step."""
        levels = 1 if self.stacked else self.process.count(rollouts[0].window)
        return self.parts_of_first(len(rollouts)) * levels

    def later(self, parts: Sequence[Weighted], *, seed: int) -> Iterator[list[Job]]:
        """Yield the jobs of each optimizer step after the first.

        Args:
            parts: all parts of the rollout.
            seed: of the order of the parts in the passes after the first.
        """
        for turn in range(self.passes):
            order = np.random.default_rng([seed, turn]).permutation(len(parts)) if turn else range(len(parts))
            for number in range(0 if turn else 1, self.num_updates):
                chosen = [parts[index] for index in self._share(list(order), number)]
                yield [job for part in chosen for job in self._jobs(part, len(chosen), number=number, turn=turn)]

    def _share(self, order: Sequence[int], number: int) -> Sequence[int]:
        """Return the parts that one optimizer step of a pass takes."""
        if self.split == "samples":
            return order
        size = len(order) // self.num_updates
        return order[number * size : (number + 1) * size]

    def _jobs(self, part: Weighted, count: int, *, number: int, turn: int) -> Iterator[Job]:
        """Yield the jobs of one part in one of the optimizer steps, which takes ``count`` parts."""
        rollout, advantages = part
        draw = turn
        if self.split == "samples":
            size = rollout.group_size // self.num_updates
            columns = slice(number * size, (number + 1) * size)
            rollout, advantages = rollout.select_samples(columns), advantages[..., columns]
            draw = turn * self.num_updates + number
        levels = self.process.count(rollout.window)
        chunks = [tuple(range(levels))] if self.stacked else [(index,) for index in range(levels)]
        for indices in chunks:
            own = advantages[list(indices)] if advantages.ndim == 3 else advantages
            yield Job(
                rollout,
                indices,
                torch.from_numpy(own),
                share=1.0 / (count * len(chunks)),
                draw=draw,
                fresh=self.acts and not turn and not number,
            )
