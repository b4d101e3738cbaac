"""Agreement of the audit with the meaning of rendered scenes: ``python -m research.agreement``.

Each scene is checked against a caption of its own meaning, a caption of another meaning of its category, one that
differs in a single word or in the order of the things, and its own caption after one of its things was changed.
"""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from flexgym.audit import audit, shown
from flexgym.shapes.captions import DIRECTIONS, NUMBERS, RELATIONS, SIZES, SPEEDS, Noun, Spec
from flexgym.shapes.sampling import draw_caption, draw_clip, draw_scene, with_colors
from flexgym.shapes.scenes import COLORS, SHAPES, Scene, Thing, render, render_video
from flexgym.shapes.splits import SPLITS, compositions, specs

_Value = TypeVar("_Value")
Pixels = NDArray[np.uint8]
Wear = Callable[[np.random.Generator, Pixels], Pixels]
Example = tuple[str, bool, str, Pixels]
"""How it was made, whether the caption is true of the sample, the caption, and the sample."""


def _blurred(_: np.random.Generator, image: Pixels) -> Pixels:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.7), np.uint8)


def _noisy(rng: np.random.Generator, image: Pixels) -> Pixels:
    return np.clip(image + rng.normal(0.0, 8.0, image.shape), 0, 255).astype(np.uint8)


def _compressed(_: np.random.Generator, image: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def _specked(rng: np.random.Generator, image: Pixels) -> Pixels:
    """Add two spots of two to six pixels to the background."""
    spotted = image.copy()
    empty = np.abs(image - np.median(image, axis=(0, 1))).max(axis=2).astype(np.uint8) < 20
    free = np.argwhere(cv2.erode(empty.astype(np.uint8), np.ones((9, 9), np.uint8)))
    for index in rng.integers(len(free), size=2 * (len(free) > 0)):
        y, x = free[index]
        spotted[y : y + 2, x : x + int(rng.integers(1, 4))] = rng.integers(0, 256, 3)
    return spotted


WEARS: Mapping[str, Wear] = {
    "none": lambda _, image: image,
    "blur": _blurred,
    "noise": _noisy,
    "jpeg": _compressed,
    "specks": _specked,
}


def _is_true(caption: Spec, scene: Spec, things: Scene) -> bool:
    """Return whether a caption is true of a scene that was drawn for a meaning of the same category.

    Args:
        caption: meaning of the caption.
        scene: meaning of the scene, with all colors.
        things: the things of an image; for a video those of its last frame.
    """
    orders: Sequence[Sequence[Noun]] = [scene.nouns]
    if scene.category in ("two_things", "binding", "three_things", "position"):
        orders = list(itertools.permutations(scene.nouns))
    elif scene.category == "between":
        orders = [scene.nouns, (scene.nouns[0], *scene.nouns[:0:-1])]
    for nouns in orders:
        same = all(map(_fits, caption.nouns, nouns)) and caption.motion == scene.motion
        if same and caption.speed in (None, scene.speed) and _is_related(caption, nouns, things):
            return True
    return False


def _fits(asked: Noun, shown: Noun) -> bool:
    same = (asked.shape, asked.count, asked.size or shown.size) == (shown.shape, shown.count, shown.size)
    return same and asked.color in (None, shown.color)


def _is_related(caption: Spec, nouns: Sequence[Noun], things: Scene) -> bool:
    if caption.relation not in RELATIONS:
        return True
    first, second = (
        next(thing for thing in things if (thing.shape, thing.color) == (noun.shape, noun.color)) for noun in nouns
    )
    dx, dy = second.x - first.x, _middle(second) - _middle(first)
    return {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[caption.relation] > 4.0


def _middle(thing: Thing) -> float:
    return thing.y - (0.39 * thing.radius if thing.shape == "triangle" else 0.0)


def _near_miss(rng: np.random.Generator, spec: Spec) -> Spec:
    """Return a meaning that differs in one word, or in the order of two things."""
    kinds = {(noun.shape, noun.color) for noun in spec.nouns}
    while True:
        nouns, index = list(spec.nouns), int(rng.integers(len(spec.nouns)))
        noun = nouns[index]
        part = ("color", "shape", "count", "size", "order", "relation", "motion", "speed")[rng.integers(8)]
        if part in ("relation", "motion", "speed") and getattr(spec, part) in _VALUES[part]:
            return replace(spec, **{part: _other(rng, _VALUES[part], getattr(spec, part))})
        if part in ("color", "shape", "count", "size") and getattr(noun, part) in _VALUES[part]:
            nouns[index] = replace(noun, **{part: _other(rng, _VALUES[part], getattr(noun, part))})
        elif part == "order":
            nouns.reverse()
        changed = {(noun.shape, noun.color) for noun in nouns}
        if (
            nouns != list(spec.nouns)
            and len(changed) == len(kinds)
            and (spec.absent is None or spec.absent.kind not in {n.kind for n in nouns})
        ):
            return replace(spec, nouns=tuple(nouns))


_VALUES: Mapping[str, Sequence[Any]] = {
    "color": tuple(COLORS),
    "shape": SHAPES,
    "count": tuple(NUMBERS.values()),
    "size": SIZES,
    "relation": RELATIONS,
    "motion": DIRECTIONS,
    "speed": SPEEDS,
}


def _other(rng: np.random.Generator, values: Sequence[_Value], than: _Value) -> _Value:
    left = [value for value in values if value != than]
    return left[rng.integers(len(left))]


def _changed(rng: np.random.Generator, frames: Sequence[Scene], *, recolor: bool) -> tuple[str, list[Scene]]:
    """Change one of the things of a scene: one too many, one too few, another shape, or another color."""
    index = int(rng.integers(len(frames[-1])))
    thing = frames[-1][index]
    how = ("extra", "missing", "shape", "color")[rng.integers(3 + recolor)]
    if how == "extra" and (place := _free_place(rng, frames)):
        new = Thing(SHAPES[rng.integers(len(SHAPES))], tuple(COLORS)[rng.integers(len(COLORS))], *place, radius=3.2)
        return how, [(*scene, new) for scene in frames]
    if how in ("extra", "missing"):
        return "missing", [(*scene[:index], *scene[index + 1 :]) for scene in frames]
    name, known = (thing.shape, SHAPES) if how == "shape" else (thing.color, tuple(COLORS))
    other = _other(rng, known, name)
    altered = [
        tuple(
            (replace(own, shape=other) if how == "shape" else replace(own, color=other)) if number == index else own
            for number, own in enumerate(scene)
        )
        for scene in frames
    ]
    return how, altered


def _free_place(rng: np.random.Generator, frames: Sequence[Scene]) -> tuple[float, float] | None:
    """Return a place that is far from all things in all frames."""
    for x, y in rng.uniform(5.0, 27.0, (40, 2)):
        if all(max(abs(x - t.x), abs(y - t.y)) > 1.4 * t.radius + 6.0 for scene in frames for t in scene):
            return float(x), float(y)
    return None


def examples(rng: np.random.Generator, spec: Spec, others: Sequence[Spec]) -> Iterator[Example]:
    """Yield a sample of a meaning with captions that are true and false of it, and one that was changed.

    Args:
        rng: generator of the draw.
        spec: the meaning.
        others: the meanings of its category.
    """
    scene = with_colors(rng, spec)
    frames = [draw_scene(rng, scene)] if spec.modality == "image" else draw_clip(rng, scene)
    sample = _rendered(spec, frames)
    yield "true", True, draw_caption(rng, spec), sample
    for how, other in (("other", others[int(rng.integers(len(others)))]), ("near", _near_miss(rng, spec))):
        yield how, _is_true(other, scene, frames[-1]), draw_caption(rng, other), sample
    colored = all(noun.color for noun in spec.nouns)
    how, altered = _changed(rng, frames, recolor=colored)
    yield how, False, draw_caption(rng, spec), _rendered(spec, altered)


def _rendered(spec: Spec, frames: Sequence[Scene]) -> Pixels:
    return render(frames[0]) if spec.modality == "image" else render_video(frames)


def worn(rng: np.random.Generator, sample: Pixels, wear: str) -> Pixels:
    """Return a sample, uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``, with every frame worn as `WEARS` says."""
    change = WEARS[wear]
    return change(rng, sample) if sample.ndim == 3 else np.stack([change(rng, frame) for frame in sample])


def agreement(
    modality: str, *, split: str, count: int, wear: str = "none", seed: int = 0
) -> dict[str, dict[str, list[bool]]]:
    """Compare the verdicts of the audit with the truth.

    Args:
        modality: ``"image"`` or ``"video"``.
        split: split whose meanings are drawn.
        count: number of scenes of each category.
        wear: one of `WEARS`, by which samples are worn first.
        seed: of the draw.

    Returns:
        For each category and each way in which an example was made, which verdicts agree; ``"shown"`` counts the
        scenes whose compositions are those that the audit names.
    """
    rng = np.random.default_rng(seed)
    results: dict[str, dict[str, list[bool]]] = {}
    for category, members in specs(modality, split).items():
        found = results.setdefault(category, {})
        for index in rng.integers(len(members), size=count):
            for how, truth, caption, sample in examples(rng, members[index], members):
                sample = worn(rng, sample, wear)
                found.setdefault(how, []).append(audit(caption, sample).satisfied == truth)
    return results


def shown_agreement(
    modality: str, *, split: str, count: int, wear: str = "none", seed: int = 0
) -> dict[str, list[bool]]:
    """Return for each category in which scenes the audit names exactly the compositions of their meaning."""
    rng = np.random.default_rng(seed)
    results: dict[str, list[bool]] = {}
    for category, members in specs(modality, split).items():
        for index in rng.integers(len(members), size=count):
            scene = with_colors(rng, members[index])
            frames = [draw_scene(rng, scene)] if modality == "image" else draw_clip(rng, scene)
            names = shown(worn(rng, _rendered(scene, frames), wear))
            # A thing that must not be there has a composition in the caption, and none in the image.
            results.setdefault(category, []).append(names == compositions(replace(scene, absent=None)))
    return results


def main(
    *,
    count: Annotated[int, typer.Option(help="Number of scenes of each category.")] = 200,
    split: Annotated[str, typer.Option(help=f"One of {', '.join(SPLITS)}.")] = "validation",
    wear: Annotated[str, typer.Option(help=f"How samples are worn: one of {', '.join(WEARS)}.")] = "none",
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Print the agreement of the audit with the meaning of rendered scenes, for each category."""
    for modality in ("image", "video"):
        started = time.process_time()
        results = agreement(modality, split=split, count=count, wear=wear, seed=seed)
        verdicts = sum(len(found) for by_way in results.values() for found in by_way.values())
        each = 1000.0 * (time.process_time() - started) / verdicts
        names = shown_agreement(modality, split=split, count=count, wear=wear, seed=seed)
        for category, by_way in results.items():
            every = list(itertools.chain(*by_way.values()))
            ways = "  ".join(f"{way} {np.mean(found):.3f}" for way, found in by_way.items())
            typer.echo(f"{category:13} {np.mean(every):.4f}  shown {np.mean(names[category]):.4f}  {ways}")
        mean = np.mean([one for by_way in results.values() for found in by_way.values() for one in found])
        typer.echo(f"{modality}: {mean:.4f} of {verdicts} verdicts, {each:.1f} ms each with drawing and rendering\n")


if __name__ == "__main__":
    typer.run(main)
