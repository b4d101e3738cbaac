"""Pools of generated samples for captions of the training split, on disk as arrays of pixels."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexgym.algorithm.rollout import sample
from flexgym.core.files import write_atomic
from flexgym.generators.loader import load_generator
from flexgym.shapes.brief import View, view
from flexgym.shapes.captions import Spec, parse_caption
from flexgym.shapes.sampling import draw_caption, draw_spec
from research.judge.candidates import Candidates, still_spec

logger = logging.getLogger(__name__)

GROUP = 4
"""Samples of each caption."""
CHUNK = 50
"""Captions in each file of a pool that has more."""


def fill_pool(folder: Path, source: Path, kind: str, *, captions: int, seed: int) -> None:
    """Generate the samples of a pool; files that are there are kept, so a pool that was stopped is completed.

    Args:
        folder: for the files.
        source: folder of a pipeline of the small world.
        kind: ``"image"`` or ``"video"``.
        captions: how many; more than a file of `CHUNK` are rounded up to whole files.
        seed: of captions and samples.
    """
    size = min(CHUNK, captions)
    missing = [number for number in range(-(-captions // size)) if not (folder / _name(number)).exists()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    generator = load_generator(source, modality=kind, channels_last=kind == "video")
    for number in missing:
        rng = np.random.default_rng([seed, number])
        texts = [draw_caption(rng, draw_spec(rng, kind, "training")) for _ in range(size)]
        prompts = [text for text in texts for _ in range(GROUP)]
        drawn = sample(generator, prompts, seeds=rng.integers(2**31, size=len(prompts)).tolist(), sampler="rollout")
        file = io.BytesIO()
        np.savez_compressed(file, captions=np.array(texts), samples=drawn.reshape(size, GROUP, *drawn.shape[1:]))
        write_atomic(folder / _name(number), file.getvalue())
        logger.info("%s: %d captions", folder, (number + 1) * size)


def _name(number: int) -> str:
    return f"{number:04d}.npz"


class Pool:
    """Generated samples with what they show, which is found out when a sample is first drawn.

    Args:
        folder: that `fill_pool` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self._captions: list[str] = []
        self._samples: list[NDArray[np.uint8]] = []
        for file in sorted(folder.glob("*.npz")):
            with np.load(file, allow_pickle=False) as content:
                self._captions += content["captions"].tolist()
                self._samples += list(content["samples"])
        if not self._captions:
            raise FileNotFoundError(f"{folder}: expected files of a pool, such as {_name(0)}, and there are none")
        self._views: dict[tuple[int, int], View] = {}

    def __len__(self) -> int:
        return len(self._captions)

    def draw(self, rng: np.random.Generator) -> Candidates:
        """Draw three of the samples of a caption."""
        number = int(rng.integers(len(self)))
        places = rng.permutation(GROUP)[:3].tolist()
        views = tuple(self._view(number, place) for place in places)
        return Candidates(self._captions[number], views[0].spec, self._samples[number][places], views)

    def draw_stills(self, rng: np.random.Generator) -> Candidates:
        """Draw three frames of the videos of a caption, for a caption of what every frame should show."""
        number, spec = self._stills[int(rng.integers(len(self._stills)))]
        frames = np.concatenate(list(self._samples[number]))
        return seen_as(draw_caption(rng, spec), frames[rng.permutation(len(frames))[:3]])

    @cached_property
    def _stills(self) -> list[tuple[int, Spec]]:
        """Return the numbers of the captions whose frames have a training caption, with its meaning."""
        known = (still_spec(parse_caption(caption), splits=("training",)) for caption in self._captions)
        found = [(number, spec) for number, spec in enumerate(known) if spec is not None]
        if not found:
            raise ValueError("expected a video of the pool whose frames have a training caption, got none: enlarge it")
        return found

    def _view(self, number: int, place: int) -> View:
        key = (number, place)
        if key not in self._views:
            self._views[key] = view(self._captions[number], self._samples[number][place])
        return self._views[key]


def seen_as(caption: str, samples: NDArray[np.uint8]) -> Candidates:
    """Return samples as candidates for a caption."""
    return Candidates(caption, parse_caption(caption), samples, tuple(view(caption, each) for each in samples))


def generated_groups(
    source: Path, kind: str, captions: Iterable[str], *, seed: int, at_once: int = 16
) -> Iterator[Candidates]:
    """Yield a group of `GROUP` generated candidates for each caption.

    Args:
        source: folder of a pipeline.
        kind: ``"image"`` or ``"video"``.
        captions: of the small world.
        seed: of the samples.
        at_once: captions of one call of the generator.
    """
    generator = load_generator(source, modality=kind, channels_last=kind == "video")
    rng = np.random.default_rng(seed)
    remaining = iter(captions)
    while some := list(itertools.islice(remaining, at_once)):
        prompts = [text for text in some for _ in range(GROUP)]
        drawn = sample(generator, prompts, seeds=rng.integers(2**31, size=len(prompts)).tolist(), sampler="rollout")
        yield from map(seen_as, some, drawn.reshape(len(some), GROUP, *drawn.shape[1:]))
