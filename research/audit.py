"""Training of the classifier of shapes of `flexgym.audit`: ``python -m research.audit``.

The classifier never sees the small world: its drawings are made by Pillow at high resolution, with proportions, angles,
colors, blur, noise and compression of their own.
"""

from __future__ import annotations

import colorsys
import io
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from safetensors.numpy import save_file
from torch import Tensor, nn

from flexgym.audit.classifier import LAYERS, OTHER, SHAPES, WEIGHTS
from flexgym.audit.segments import PATCH, SIDE, features, regions

logger = logging.getLogger(__name__)

_SCALE = 8
"""Factor by which silhouettes are larger than the images made of them."""
_EXTENTS = (1.0, 0.9, 1.35, 1.15, 1.15, 1.45, 1.3)
"""Half of the width of each class at about the same area."""
_HIDDEN = (64, 32)

Points = NDArray[np.float64]
Floats = NDArray[np.float32]


def _box(half_width: float, half_height: float) -> Points:
    return np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]) * (half_width, half_height)


def _circle(rng: np.random.Generator) -> list[Points]:
    angles = np.linspace(0.0, 2.0 * math.pi, 48, endpoint=False)
    return [np.stack([np.cos(angles) * rng.uniform(0.95, 1.05), np.sin(angles)], axis=1)]


def _square(rng: np.random.Generator) -> list[Points]:
    return [_box(1.0, rng.uniform(0.92, 1.08))]


def _triangle(rng: np.random.Generator) -> list[Points]:
    height = rng.uniform(1.55, 1.95)
    return [np.array([(-1.0, height / 3), (1.0, height / 3), (rng.uniform(-0.08, 0.08), -2.0 * height / 3)])]


def _cross(rng: np.random.Generator) -> list[Points]:
    arm = rng.uniform(0.28, 0.42)
    return [_box(1.0, arm), _box(arm * rng.uniform(0.9, 1.1), rng.uniform(0.94, 1.06))]


def _ring(rng: np.random.Generator) -> list[Points]:
    outer = _circle(rng)[0]
    return [outer, outer * rng.uniform(0.4, 0.62)]


def _bar(rng: np.random.Generator) -> list[Points]:
    return [_box(1.0, 1.0 / rng.uniform(2.0, 3.1))]


def _scrap(rng: np.random.Generator) -> list[Points]:
    """Return a rectangle between a square and a bar, an angle, or an irregular outline."""
    kind = rng.random()
    if kind < 0.3:
        return [_box(1.0, 1.0 / rng.uniform(1.35, 1.6))]
    if kind < 0.5:
        arm, other = rng.uniform(0.5, 0.7, 2)
        return [np.array([(-1, -1), (arm - 1, -1), (arm - 1, 1 - other), (1, 1 - other), (1, 1), (-1, 1)])]
    count = int(rng.integers(5, 9))
    angles = np.sort(rng.uniform(0.0, 2.0 * math.pi, count))
    return [np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.3, 1.2, (count, 1))]


_OUTLINES: tuple[Callable[[np.random.Generator], list[Points]], ...]
_OUTLINES = (_circle, _square, _triangle, _cross, _ring, _bar, _scrap)


def _silhouette(rng: np.random.Generator, label: int, *, radius: float, place: Points) -> Floats:
    """Draw a thing that covers about as much as a disk of this radius; float32 ``[SIDE, SIDE]`` in ``[0, 1]``."""
    turned = radius > 4.6 and rng.random() < 0.5
    angle = math.radians(rng.uniform(0.0, 360.0) if turned else rng.normal(0.0, 4.0))
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    mask = Image.new("L", (SIDE * _SCALE, SIDE * _SCALE))
    pen = ImageDraw.Draw(mask)
    for index, points in enumerate(_OUTLINES[label](rng)):
        corners = (points @ turn * radius * _EXTENTS[label] + place) * _SCALE
        hole = SHAPES[label : label + 1] == ("ring",) and index == 1
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=0 if hole else 255)
    if rng.random() < 0.5:
        mask = _uneven(rng, mask, width=radius * _SCALE)
    return np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255.0


def _uneven(rng: np.random.Generator, mask: Image.Image, *, width: float) -> Image.Image:
    """Round the corners of a silhouette and shift its outline a little, differently at every place."""
    smooth = mask.filter(ImageFilter.BoxBlur(width * rng.uniform(0.05, 0.25)))
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).resize(mask.size, Image.Resampling.BILINEAR)
    mixed = Image.blend(smooth, coarse, rng.uniform(0.0, 0.3))
    return mixed.point([0] * 128 + [255] * 128)


def _color(rng: np.random.Generator) -> Points:
    if rng.random() < 0.15:
        return np.full(3, rng.uniform(20.0, 70.0)) + rng.uniform(-8.0, 8.0, 3)
    return 255.0 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.65, 1.0), rng.uniform(0.5, 1.0)))


def _places(rng: np.random.Generator) -> list[tuple[float, Points]]:
    """Draw radii and centers of one to five things that rarely touch; the more there are, the smaller they are."""
    count = int(rng.choice([1, 2, 3, 4, 5], p=[0.35, 0.25, 0.1, 0.15, 0.15]))
    low, high = ((3.2, 9.0), (3.9, 5.4), (2.8, 3.7))[min(count, 3) - 1]
    placed: list[tuple[float, Points]] = []
    for _ in range(4 * count):
        radius = rng.uniform(low, high)
        place = rng.uniform(0.95 * radius, SIDE - 0.95 * radius, 2)
        apart = [math.dist(place, other) - radius - size for size, other in placed]
        if len(placed) < count and min(apart, default=9.0) > rng.uniform(0.5, 4.0):
            placed.append((radius, place))
    return placed


def _worn(rng: np.random.Generator, pixels: Points) -> NDArray[np.uint8]:
    """Return an image after blur, noise or compression, or as it is."""
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    if rng.random() < 0.4:
        noisy = np.asarray(image) + rng.normal(0.0, rng.uniform(2.0, 11.0), (SIDE, SIDE, 3))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.35:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(45, 96)))
        image = Image.open(file)
    return np.asarray(image)


def draw(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[tuple[int, Floats]]]:
    """Draw an image.

    Returns:
        The image, uint8 ``[SIDE, SIDE, 3]``, and the class of each thing in it with how much of each pixel it covers.
    """
    pixels = np.full((SIDE, SIDE, 3), rng.uniform(225.0, 255.0))
    things: list[tuple[int, Floats]] = []
    shared, ragged = (_color(rng) if rng.random() < 0.5 else None), rng.uniform(0.0, 0.5) * (rng.random() < 0.4)
    for radius, place in _places(rng):
        label = int(rng.integers(OTHER + (rng.random() < 0.5)))
        cover = _silhouette(rng, label, radius=radius, place=place)
        edge = cover * (1.0 - cover) * rng.normal(0.0, 4.0 * ragged, cover.shape)
        cover = (cover + edge).clip(0.0, 1.0).astype(np.float32)
        color = _color(rng) if shared is None else shared
        pixels += cover[..., None] * (color - pixels)
        if cover.sum() > 1.0:
            things.append((label, cover))
    return _worn(rng, pixels), things


def _examples(rng: np.random.Generator) -> Iterator[tuple[Floats, int]]:
    """Yield the features and the class of each region of one image; a region of several things is `OTHER`."""
    image, things = draw(rng)
    for region in regions(image):
        inside = [(label, float((cover * region.cover).sum() / (cover * cover).sum())) for label, cover in things]
        labels = [label for label, share in inside if share > 0.4]
        size = sum(float(cover.sum()) for (_, cover), (_, share) in zip(things, inside, strict=True) if share > 0.4)
        if labels and 0.7 < float(region.cover.sum()) / size < 1.5:
            yield features(region.cover), labels[0] if len(labels) == 1 else OTHER


def _network() -> nn.Sequential:
    sizes = (PATCH * PATCH + 1, *_HIDDEN, OTHER + 1)
    layers = [nn.Linear(*pair) for pair in zip(sizes[:-1], sizes[1:], strict=True)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def _train(inputs: Tensor, labels: Tensor, *, steps: int, batch_size: int = 256) -> nn.Sequential:
    network = _network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (batch_size,))
        loss = nn.functional.cross_entropy(network(inputs[chosen]), labels[chosen], label_smoothing=0.01)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def main(
    *,
    output: Annotated[Path, typer.Option(help="File of the weights.")] = WEIGHTS,
    images: Annotated[int, typer.Option(help="Number of drawings; a tenth of them is for the test.")] = 24_000,
    steps: Annotated[int, typer.Option(help="Number of optimizer steps.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of drawings and training.")] = 0,
) -> None:
    """Train the classifier of shapes and write its weights."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    started, rng = time.monotonic(), np.random.default_rng(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    drawn = [example for _ in range(images) for example in _examples(rng)]
    inputs, labels = torch.from_numpy(np.stack([x for x, _ in drawn])), torch.tensor([label for _, label in drawn])
    logger.info("%d things of %d drawings in %.0f s", len(drawn), images, time.monotonic() - started)
    train = len(drawn) - len(drawn) // 10
    network = _train(inputs[:train], labels[:train], steps=steps)
    with torch.no_grad():
        right = network(inputs[train:]).argmax(dim=1) == labels[train:]
    for label, name in enumerate((*SHAPES, "other")):
        logger.info("%-9s accuracy %.4f", name, right[labels[train:] == label].float().mean())
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    weights = {
        f"{name}.{part}": getattr(layer, part).detach().numpy()
        for name, layer in zip(LAYERS, linear, strict=True)
        for part in ("weight", "bias")
    }
    save_file(weights, output)
    logger.info("accuracy %.4f, %.0f s, %s", right.float().mean(), time.monotonic() - started, output)


if __name__ == "__main__":
    typer.run(main)
