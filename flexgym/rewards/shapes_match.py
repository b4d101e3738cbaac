"""A differentiable reward of the small world: how well outlines in the right colors match an image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from flexgym.core.errors import ConfigError
from flexgym.reward import PointwiseReward
from flexgym.shapes.captions import Noun, Spec, parse_caption
from flexgym.shapes.scenes import BACKGROUND, COLORS, SHAPES, SIZE, Thing, thing_mask
from flexgym.types import Prompt

_RADII = (3.0, 3.8, 4.6, 5.4, 6.6, 7.6, 8.8)
"""Radii of the outlines in pixels; the verifier's border between small and large, 6, lies between two of them."""
_SIDE = 25
"""Pixels of an outline's side."""
_SHARPNESS = 40.0
"""How quickly a pixel is no longer of a color, by its squared distance."""
_CONTRAST = 30.0
"""How strongly the shape that matches best counts against the others."""
_SURROUNDINGS = 1.5
"""Radius around an outline, in its own, in which other pixels of the color count against it."""
_UNEXPLAINED = 40.0
"""Pixels without a place in the caption that halve the score."""
_APART = 2
"""Pixels by which related things are away from the line between them."""


class ShapesMatch(PointwiseReward):
    """How well outlines of a caption's things match an image of the small world, 0 to 1, with gradients to pixels.

    Each thing of the caption takes the place and radius at which its outline overlaps best with pixels of its color,
    times the probability of its shape among all shapes there. The score is the mean over the things, and lower the
    more pixels belong to none of them. Related things are looked for on their sides of a line. Unlike
    `ShapesVerifier`, it can be raised without satisfying the caption: verify with another reward.
    """

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score the samples of one prompt, float32 ``[n]``; see `PointwiseReward.score_samples`."""
        if samples.shape[1:] != (SIZE, SIZE, 3):
            raise ValueError(f"expected images of {SIZE}x{SIZE} pixels, got uint8 {list(samples.shape)}")
        pixels = torch.tensor(samples).movedim(-1, 1).float() / 255.0
        with torch.no_grad():
            return self.gradient_scores(pixels, [prompt] * len(pixels)).numpy()

    def gradient_scores(self, pixels: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Score samples with gradients to their pixels, float32 ``[B]``; see `Reward.gradient_scores`."""
        if tuple(pixels.shape[1:]) != (3, SIZE, SIZE):
            raise ConfigError(
                f"{self.name}: expected images of the small world, [B, 3, {SIZE}, {SIZE}], got {list(pixels.shape)}"
            )
        specs = [parse_caption(prompt.text) for prompt in prompts]
        inks = _inks(pixels.float().clamp(0, 1))
        planes = [[_plane(ink, noun) for noun in spec.nouns] for ink, spec in zip(inks, specs, strict=True)]
        maps = iter(_maps(torch.stack([plane for row in planes for plane in row])))
        scores = [
            _score(spec, ink.sum(0), [(plane, next(maps)) for plane in row])
            for spec, ink, row in zip(specs, inks, planes, strict=True)
        ]
        return torch.stack(scores)


def _inks(pixels: Tensor) -> Tensor:
    """Return how much each pixel is of each color rather than of the background, ``[B, colors, H, W]``."""
    palette = torch.tensor([(BACKGROUND,) * 3, *COLORS.values()], device=pixels.device) / 255.0
    distances = (pixels[:, None] - palette.view(1, -1, 3, 1, 1)).square().sum(2)
    return torch.softmax(-_SHARPNESS * distances, dim=1)[:, 1:]


def _plane(inks: Tensor, noun: Noun) -> Tensor:
    """Return the ink that a noun is looked for in: that of its color, or all of it."""
    return inks.sum(0) if noun.color is None else inks[list(COLORS).index(noun.color)]


@cache
def _outlines() -> tuple[Tensor, Tensor]:
    """Return masks of every shape and radius, and the same with their surroundings, ``[S, R, side, side]``."""
    corner, middle = (SIZE - _SIDE) // 2, SIZE / 2 + 0.5
    cut = slice(corner + 1, corner + 1 + _SIDE)

    def mask(shape: str, radius: float) -> Tensor:
        return torch.from_numpy(thing_mask(Thing(shape, "red", middle, middle, radius))[cut, cut])

    masks = torch.stack([torch.stack([mask(shape, radius) for radius in _RADII]) for shape in SHAPES])
    disks = torch.stack([mask("circle", _SURROUNDINGS * radius) for radius in _RADII])
    return masks, torch.maximum(masks, disks)


def _dice(inside: Tensor, around: Tensor, sizes: Tensor) -> Tensor:
    return 2.0 * inside / (around + sizes)


@torch.no_grad()
def _maps(planes: Tensor) -> Tensor:
    """Compute the Dice overlap of every outline with ink at every place, ``[N, S, R, H, W]``; by FFT."""
    masks, around = (each.to(planes.device) for each in _outlines())
    size = (SIZE + _SIDE - 1,) * 2
    spectrum = torch.fft.rfft2(planes, s=size)[:, None, None]
    start = _SIDE // 2

    def correlated(kernels: Tensor) -> Tensor:
        product = spectrum * torch.fft.rfft2(kernels.flip(-2, -1), s=size)
        return torch.fft.irfft2(product, s=size)[..., start : start + SIZE, start : start + SIZE]

    return _dice(correlated(masks), correlated(around), masks.sum((2, 3))[..., None, None])


Plane = tuple[Tensor, Tensor]
"""Ink in which a noun is looked for ``[H, W]``, and the overlap of every outline at every place ``[S, R, H, W]``."""


def _score(spec: Spec, ink: Tensor, planes: Sequence[Plane]) -> Tensor:
    """Score one image: the best of the ways to place its things."""
    return torch.stack([_placed(spec, ink, planes, sides=sides) for sides in _sides(spec, ink.device)]).amax()


def _sides(spec: Spec, device: torch.device) -> list[list[Tensor | None]]:
    """Return where each noun may be, once for each line between related things; None for anywhere."""
    axis = {"left of": (1, 1), "right of": (1, -1), "above": (0, 1), "below": (0, -1)}.get(spec.relation or "")
    if axis is None:
        return [[None] * len(spec.nouns)]
    places = torch.arange(SIZE, device=device)
    grid = places.expand(SIZE, SIZE) if axis[0] else places.view(-1, 1).expand(SIZE, SIZE)
    lines = [(grid < line - _APART, grid > line + _APART) for line in range(8, SIZE - 7, 4)]
    return [list(both[:: axis[1]]) for both in lines]


def _placed(spec: Spec, ink: Tensor, planes: Sequence[Plane], *, sides: Sequence[Tensor | None]) -> Tensor:
    """Place the things of a caption one by one where they match best, and score how well they explain the image."""
    scores, left, free = [], torch.ones_like(ink), torch.ones_like(ink)
    for noun, (plane, match), side in zip(spec.nouns, planes, sides, strict=True):
        for _ in range(noun.count):
            allowed = free if side is None else free * side
            shape, radius, y, x = _best(noun, match, allowed)
            overlap = _overlap(plane * left, y, x)
            chances = torch.softmax(_CONTRAST * overlap.amax(1), dim=0)
            scores.append(overlap[shape, radius] * chances[shape])
            thing, disk = (
                torch.from_numpy(thing_mask(Thing(name, "red", x + 0.5, y + 0.5, size))).to(ink.device)
                for name, size in ((noun.shape, _RADII[radius]), ("circle", _SURROUNDINGS * _RADII[radius]))
            )
            left, free = left * (1.0 - thing), free * (1.0 - disk)
    unexplained = (ink * left).sum()
    return torch.stack(scores).mean() / (1.0 + unexplained / _UNEXPLAINED)


def _overlap(plane: Tensor, y: int, x: int) -> Tensor:
    """Compute the Dice overlap of every outline with ink at one place, with gradients, ``[S, R]``."""
    masks, around = (each.to(plane.device) for each in _outlines())
    window = functional.pad(plane, (_SIDE // 2,) * 4)[y : y + _SIDE, x : x + _SIDE]
    inside, near = ((window * each).sum((2, 3)) for each in (masks, around))
    return _dice(inside, near, masks.sum((2, 3)))


@torch.no_grad()
def _best(noun: Noun, match: Tensor, allowed: Tensor) -> tuple[int, int, int, int]:
    """Return shape, radius and place at which a thing matches best."""
    shape = SHAPES.index(noun.shape)
    small = torch.tensor([radius <= 6.0 for radius in _RADII], device=match.device)
    fits = torch.ones_like(small) if noun.size is None else small == (noun.size == "small")
    candidates = match[shape] * allowed * fits.view(-1, 1, 1)
    radius, y, x = np.unravel_index(int(candidates.argmax()), tuple(candidates.shape))
    return shape, int(radius), int(y), int(x)
