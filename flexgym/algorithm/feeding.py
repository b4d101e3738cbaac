"""Groups from a data set in place of a rollout, for the same replay."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from flexgym.algorithm.kept import Rollout
from flexgym.core.seeds import whole_seed
from flexgym.data.captioned import Captioned, CaptionedSet
from flexgym.data.order import EpochOrder
from flexgym.flow import Steps
from flexgym.generators.latent_cache import FIRST, LATENTS, LatentCache
from flexgym.types import FirstFrame, GroupScores, Prompt

_DROPOUT = 1
"""Number that separates the draw of the caption from other uses of a group's seed."""


class Feed:
    """Turns rows of a data set into groups: the caption is the prompt, and the latents of the samples are the target.

    Args:
        rows: the data set.
        cache: encodes the samples.
        seed: of the order of the rows.
        caption_dropout: probability that a group is trained with the empty caption, which classifier-free guidance
            needs.
        dtype: precision in which latents are kept.
    """

    def __init__(
        self,
        rows: CaptionedSet,
        cache: LatentCache,
        *,
        seed: int = 0,
        caption_dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._rows, self._cache = rows, cache
        self._order = EpochOrder(len(rows), seed)
        self._dropout, self._dtype = caption_dropout, dtype

    def groups(self, first: int, *, seeds: Sequence[int], window: Steps) -> tuple[Rollout, list[GroupScores]]:
        """Return neighboring groups of the endless order of rows.

        Args:
            first: number of the first group, counted from 0 over the entire training.
            seeds: one for each group; its noise, and whether its caption is dropped, follow from it alone.
            window: the trained steps.

        Returns:
            The groups as a rollout without pixels, and their scores.

        Raises:
            DataError: a row cannot be read; the message names file and row.
        """
        started = time.perf_counter()
        rows = [self._rows[self._order.row(first + number)] for number in range(len(seeds))]
        encoded = [[self._cache.get(sample.key, sample.load) for sample in row.samples] for row in rows]
        latents = torch.stack([torch.stack([each[LATENTS] for each in group]) for group in encoded])
        prompts = [
            self._prompt(row, group[0].get(FIRST), seed) for row, group, seed in zip(rows, encoded, seeds, strict=True)
        ]
        rollout = Rollout(
            prompts=tuple(prompts),
            samples=np.zeros((*latents.shape[:2], 0), np.uint8),
            window=window,
            kept={"target": latents[None].to(self._dtype)},
            seeds=tuple(int(seed) for seed in seeds),
            seconds=time.perf_counter() - started,
        )
        return rollout, [GroupScores(rewards=row.scores) for row in rows]

    def prompts(self) -> list[Prompt]:
        """Return every prompt of the data set, with the first frames where the generator is given them."""
        dropped = [""] if self._dropout else []
        if not self._cache.keeps_first_frames:
            return [Prompt(text) for text in [*dropped, *self._rows.captions()]]
        found = []
        for index in range(len(self._rows)):
            row = self._rows[index]
            frame = self._cache.get(row.samples[0].key, row.samples[0].load)[FIRST]
            found += [Prompt(text, first_frame=FirstFrame(frame.numpy())) for text in [*dropped, row.caption]]
        return found

    def epochs(self, number: int) -> float:
        """Return how many epochs a number of groups is."""
        return number / self._order.count

    def _prompt(self, row: Captioned, first: torch.Tensor | None, seed: int) -> Prompt:
        dropped = np.random.default_rng([whole_seed(seed), _DROPOUT]).random() < self._dropout
        frame = None if first is None else FirstFrame(first.numpy())
        return Prompt("" if dropped else row.caption, first_frame=frame)
