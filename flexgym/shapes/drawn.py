"""A data set of captioned samples of the small world, which are drawn when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flexgym.data.captioned import Captioned, Sample
from flexgym.data.pixels import SampleForm
from flexgym.shapes.captions import Spec
from flexgym.shapes.sampling import draw_caption, draw_clip, draw_scene, draw_spec, wrong_spec
from flexgym.shapes.scenes import render, render_video

DRAWN = 10_000
"""Number of rows of the small world."""

_WORLD = 20
"""Seed of the scenes, apart from those that other parts of FlexGym draw."""


@dataclass(frozen=True)
class SmallWorld:
    """Captions of the small world with scenes that are drawn when they are asked for.

    The first sample of a row shows what its caption says and has the score 1. The others are plausible mistakes, with
    the score 0.

    Attributes:
        form: what samples are brought to.
        group_size: number of samples G of a group.
        count: number of rows.
    """

    form: SampleForm
    group_size: int
    count: int = DRAWN

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Captioned:
        rng = np.random.default_rng([_WORLD, index])
        modality = "image" if self.form.num_frames is None else "video"
        spec = draw_spec(rng, modality, "training")
        caption = draw_caption(rng, spec)
        shown = [spec, *(wrong_spec(rng, spec) for _ in range(self.group_size - 1))]
        seeds = rng.integers(2**32, size=self.group_size)
        samples = tuple(
            Sample(f"small world {index} {number}", partial(self._drawn, each, int(seed)))
            for number, (each, seed) in enumerate(zip(shown, seeds, strict=True))
        )
        return Captioned(caption, samples, np.array([1.0] + [0.0] * (self.group_size - 1), np.float32))

    def captions(self) -> list[str]:
        """Return all captions, each once."""
        return list(dict.fromkeys(self[index].caption for index in range(len(self))))

    def _drawn(self, spec: Spec, seed: int) -> NDArray[np.uint8]:
        rng, frames = np.random.default_rng(seed), self.form.num_frames
        if frames is None:
            return self.form.fitted(render(draw_scene(rng, spec)))
        clip = render_video(draw_clip(rng, spec))
        return np.stack([self.form.fitted(clip[at]) for at in np.arange(frames) * len(clip) // frames])
