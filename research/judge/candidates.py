"""Candidates for a caption of the small world: rendered right, rendered wrong, or made by the small generators.

A generator of videos draws a shape that it finds hard as something between two shapes. A pair of videos shows that once
in nine frames each; a pair of single frames shows it in one image, at a ninth of the cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.algorithm.rollout import sample
from flexgym.core.errors import ConfigError, check_names, unknown_name
from flexgym.generators.base import FlowGenerator
from flexgym.generators.loader import load_generator
from flexgym.shapes.brief import View, view
from flexgym.shapes.captions import (
    DIRECTIONS,
    IMAGE_CATEGORIES,
    RESIZES,
    SIZES,
    VIDEO_CATEGORIES,
    Noun,
    Spec,
)
from flexgym.shapes.reading import read_samples
from flexgym.shapes.sampling import draw_caption, draw_clip, draw_scene, draw_spec, wrong_spec
from flexgym.shapes.scenes import COLORS, OUTLINES, SHAPES, render, render_video
from flexgym.shapes.splits import colorings

SOURCES = ("rendered", "generated")
FRAMES = "frames"
"""The source of images that are frames of generated videos."""
GROUP = 4
"""Candidates for one caption."""
_FRAMES_OF_EACH = 2
_CAPTIONS_AT_ONCE = 16
# The others of the relations may hold as well.
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True, eq=False)
class Candidates:
    """Samples of one caption that may be compared.

    Attributes:
        caption: of the small world.
        category: its category.
        samples: uint8 ``[G, H, W, 3]`` or ``[G, F, H, W, 3]``.
        views: what each of them shows.
    """

    caption: str
    category: str
    samples: NDArray[np.uint8]
    views: tuple[View, ...]


def draw_candidates(
    kind: str, source: str | Path, *, splits: tuple[str, ...], seed: int, category: str | None = None
) -> Iterator[Candidates]:
    """Yield groups of candidates without end, balanced over the categories and determined by the seed.

    Args:
        kind: ``"image"`` or ``"video"``.
        source: one of `SOURCES`, `FRAMES`, or the folder of a pipeline of the small world, such as one exported from a
            run.
        splits: of the captions, see `flexgym.shapes.splits.specs`; taken in turns. Those of the videos for `FRAMES`.
        seed: of everything that is drawn.
        category: of all captions; None for all categories. That of the videos for `FRAMES`.

    Raises:
        UnknownNameError: no such source or category.
        ConfigError: frames as videos.
        GeneratorError: the folder holds no pipeline for this kind.
    """
    if source == FRAMES:
        if kind != "image":
            raise ConfigError(f"source {FRAMES!r}: expected kind 'image', since frames are images, got {kind!r}")
        videos = draw_candidates("video", "generated", splits=splits, seed=seed, category=category)
        yield from stills(videos, seed=seed)
        return
    if source not in SOURCES and not Path(source).is_dir():
        raise unknown_name("source of candidates", str(source), [*SOURCES, FRAMES, "the folder of a pipeline"])
    if category is not None:
        check_names("category of captions", [category], IMAGE_CATEGORIES if kind == "image" else VIDEO_CATEGORIES)
    rng = np.random.default_rng(seed)
    specs = (draw_spec(rng, kind, split) for split in itertools.cycle(splits))
    asked = ((spec, draw_caption(rng, spec)) for spec in specs if category in (None, spec.category))
    if source == "rendered":
        for spec, caption in asked:
            yield _with_views(spec, caption, np.stack([_rendered(rng, spec, place) for place in range(GROUP)]))
    folder = None if source == "generated" else source
    generator = load_generator(folder, modality=kind, channels_last=kind == "video")
    while True:
        some = list(itertools.islice(asked, _CAPTIONS_AT_ONCE))
        samples = _generated(rng, generator, [caption for _, caption in some])
        yield from (_with_views(*each, group) for each, group in zip(some, samples, strict=True))


def stills(videos: Iterable[Candidates], *, seed: int) -> Iterator[Candidates]:
    """Yield frames of videos, two of each, as candidates for a caption of what every frame should show.

    Args:
        videos: groups of them.
        seed: of the choice of frames, and of the wording.
    """
    rng = np.random.default_rng(seed)
    for group in videos:
        nouns = group.views[0].spec.nouns
        colored = all(noun.color for noun in nouns)
        one, two = ("color", "binding") if colored else ("shape", "two_things")
        spec = Spec(one if len(nouns) == 1 else two, nouns)
        frames = [video[rng.permutation(len(video))[:_FRAMES_OF_EACH]] for video in group.samples]
        yield _with_views(spec, draw_caption(rng, spec), np.concatenate(frames))


def near_miss(rng: np.random.Generator, spec: Spec) -> Spec:
    """Change one thing about a spec, so that a scene of the result breaks a demand."""
    changes: list[Spec] = []
    for place, noun in enumerate(spec.nouns):
        for other in _changed_nouns(rng, noun, spec):
            changes.append(replace(spec, nouns=(*spec.nouns[:place], other, *spec.nouns[place + 1 :])))
    if spec.relation in _OPPOSITE:
        changes.append(replace(spec, relation=_OPPOSITE[spec.relation]))
    for motions in (DIRECTIONS, RESIZES):
        if spec.motion in motions:
            changes.append(replace(spec, motion=_other(rng, motions, spec.motion)))
    if spec.category in ("passing", "order", "standing", "between"):
        changes.append(replace(spec, nouns=spec.nouns[::-1]))
    possible = [change for change in changes if colorings(change)]
    return possible[rng.integers(len(possible))]


def _changed_nouns(rng: np.random.Generator, noun: Noun, spec: Spec) -> list[Noun]:
    # A circle does not show that it rotates.
    shapes = [shape for shape in SHAPES if spec.category != "rotating" or OUTLINES[shape].symmetry]
    changed = [replace(noun, shape=_other(rng, shapes, noun.shape))]
    if noun.color:
        changed.append(replace(noun, color=_other(rng, list(COLORS), noun.color)))
    if noun.size:
        changed.append(replace(noun, size=_other(rng, SIZES, noun.size)))
    if spec.category == "counting":
        changed.append(replace(noun, count=_other(rng, (1, 2, 3, 4, 5), noun.count)))
    return changed


def _other(rng: np.random.Generator, known: Any, value: Any) -> Any:
    rest = [each for each in known if each != value]
    return rest[rng.integers(len(rest))]


def _rendered(rng: np.random.Generator, spec: Spec, place: int) -> NDArray[np.uint8]:
    """Render a candidate: the first two are right, the third nearly, and the fourth shows another caption."""
    shown = spec if place < 2 else near_miss(rng, spec) if place == 2 else wrong_spec(rng, spec)
    return render_video(draw_clip(rng, shown)) if spec.motion else render(draw_scene(rng, shown))


def _generated(rng: np.random.Generator, generator: FlowGenerator, captions: list[str]) -> NDArray[np.uint8]:
    """Generate one group for each caption, uint8 ``[N, G, ...]``."""
    prompts = [caption for caption in captions for _ in range(GROUP)]
    samples = sample(generator, prompts, seeds=rng.integers(2**31, size=len(prompts)).tolist())
    return samples.reshape(len(captions), GROUP, *samples.shape[1:])


def _with_views(spec: Spec, caption: str, samples: NDArray[np.uint8]) -> Candidates:
    readings = read_samples(samples)
    views = [view(caption, sample, reading) for sample, reading in zip(samples, readings, strict=True)]
    return Candidates(caption, spec.category, samples, tuple(views))
