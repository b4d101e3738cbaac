"""The first phase of the small judge: its vision tower learns what each patch of a rendered scene shows.

Most of the work of a lesson about pairs is text, so such lessons alone show the tower few images, and say little about
each. Here it sees many, each with labels for every patch: which thing covers it, how large that is, and where its
center lies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from flexgym.shapes.sampling import draw_clip, draw_scene, draw_spec
from flexgym.shapes.scenes import COLORS, SHAPES, SIZE, Scene, render, thing_mask
from research.judge.checkpoint import PATCH
from research.judge.lessons import MERGE, SIDE, patches
from research.judge.wear import as_seen, worn

SEEING_RATE = 4e-3
"""Learning rate of Muon; AdamW takes half."""
_BATCH = 128
_IMAGES = 0.6
"""Share of the scenes of image captions; the others are frames of videos."""
_COVERED = 0.12
"""Share of a patch that a thing covers at least if it is the patch's."""
_KINDS = 1 + len(SHAPES) * len(COLORS)
_PATCHES = SIZE // PATCH
_MIDDLES = PATCH * (np.arange(_PATCHES, dtype=np.float32) + 0.5)


class Sights(NamedTuple):
    """Images of scenes, and what each of their patches shows, in the order of the tower's tokens.

    Attributes:
        frames: uint8 ``[B, 32, 32, 3]``.
        kinds: number of shape and color of what covers most of a patch, 0 for nothing, int64 ``[B * tokens, 4]``.
        measures: radius of that thing, and where its center lies from that of the patch in x and y, in patches, float32
            ``[B * tokens, 4, 3]``.
    """

    frames: Tensor
    kinds: Tensor
    measures: Tensor


class SightLessons(Dataset[Sights]):
    """Worn images of scenes of the training split, by the number of the step.

    Args:
        seed: of all draws.
    """

    def __init__(self, *, seed: int) -> None:
        self._seed = seed

    def __getitem__(self, step: int) -> Sights:
        rng = np.random.default_rng([self._seed, step])
        scenes = [_scene(rng) for _ in range(_BATCH)]
        frames = np.stack([as_seen(worn(rng, render(scene)[None]))[0] for scene in scenes])
        kinds, measures = (np.stack(each) for each in zip(*map(labels, scenes), strict=True))
        return Sights(torch.from_numpy(frames), _by_token(kinds), _by_token(measures))


def _scene(rng: np.random.Generator) -> Scene:
    if rng.random() < _IMAGES:
        return draw_scene(rng, draw_spec(rng, "image", "training"))
    clip = draw_clip(rng, draw_spec(rng, "video", "training"))
    return clip[rng.integers(len(clip))]


def labels(scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return what each patch of a scene shows: kinds ``[8, 8]`` and measures ``[8, 8, 3]``, see `Sights`."""
    kinds = np.zeros((_PATCHES, _PATCHES), np.int64)
    measures = np.zeros((_PATCHES, _PATCHES, 3), np.float32)
    shares = [thing_mask(thing).reshape(_PATCHES, PATCH, _PATCHES, PATCH).mean((1, 3)) for thing in scene]
    for place, (thing, share) in enumerate(zip(scene, shares, strict=True)):
        own = (share > _COVERED) & (np.argmax(shares, axis=0) == place)
        kinds[own] = 1 + SHAPES.index(thing.shape) * len(COLORS) + list(COLORS).index(thing.color)
        dx, dy = np.meshgrid(thing.x - _MIDDLES, thing.y - _MIDDLES)
        measures[own] = np.stack([np.full_like(dx, thing.radius), dx, dy], axis=-1)[own] / PATCH
    return kinds, measures


def _by_token(values: NDArray[Any]) -> Tensor:
    """Bring values of patches, ``[B, 8, 8, ...]``, into the order of the tokens, ``[B * tokens, 4, ...]``."""
    further = values.shape[3:]
    blocks = torch.from_numpy(values).view(-1, SIDE, MERGE, SIDE, MERGE, *further).transpose(2, 3)
    return blocks.reshape(-1, MERGE**2, *further)


class Seer(nn.Module):
    """A vision tower with a linear head that says what each patch shows.

    Args:
        visual: the tower of a judge, which is trained in place.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(visual.config.out_hidden_size, MERGE**2 * (_KINDS + 3))

    def forward(self, frames: Tensor) -> Tensor:
        """Return logits of the kinds and then the measures of each patch, ``[B * tokens, 4, kinds + 3]``."""
        grid = torch.tensor([[1, _PATCHES, _PATCHES]] * len(frames))
        tokens = self.visual(patches(frames), grid, return_dict=True).pooler_output
        said: Tensor = self.head(tokens).view(-1, MERGE**2, _KINDS + 3)
        return said


def loss_of_sights(seer: Seer, sights: Sights) -> Tensor:
    """Compute cross-entropy of the kinds plus smooth L1 distance of the measures of what is covered."""
    said, covered = seer(sights.frames), sights.kinds > 0
    wrong = functional.cross_entropy(said[..., :_KINDS].flatten(0, 1), sights.kinds.flatten())
    return wrong + functional.smooth_l1_loss(said[..., _KINDS:][covered], sights.measures[covered])


@torch.no_grad()
def share_seen(seer: Seer, sights: Sights) -> float:
    """Return the share of the covered patches whose kind is predicted correctly."""
    covered = sights.kinds > 0
    said = seer(sights.frames)[..., :_KINDS].argmax(-1)
    return float((said == sights.kinds)[covered].float().mean())
