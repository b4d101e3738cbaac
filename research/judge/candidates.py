"""Candidates for a caption of the small world: scenes that are right, nearly right, or of another caption.

What is drawn for a caption of one split shows only compositions of the splits that the caller names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.shapes.brief import View, view
from flexgym.shapes.captions import BETWEEN, DIRECTIONS, NUMBERS, RESIZES, SIZES, SPEEDS, Noun, Spec
from flexgym.shapes.sampling import draw_caption, draw_clip, draw_scene
from flexgym.shapes.scenes import COLORS, OUTLINES, SHAPES, render, render_video
from flexgym.shapes.splits import colorings, compositions, specs, split_of

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
"""The relation that never holds together with each."""
_ALONE = {"bouncing": "bouncing", "growing": "growing", "shrinking": "growing", "rotating": "rotating"}
"""Category of each motion of a thing that is alone and has no direction."""
_ATTEMPTS = 20


@dataclass(frozen=True, eq=False)
class Candidates:
    """Samples of one caption that may be compared.

    Attributes:
        caption: of the small world.
        spec: its meaning.
        samples: uint8 ``[G, H, W, 3]`` or ``[G, F, H, W, 3]``.
        views: what each of them shows.
    """

    caption: str
    spec: Spec
    samples: NDArray[np.uint8]
    views: tuple[View, ...]


def show(rng: np.random.Generator, spec: Spec) -> NDArray[np.uint8]:
    """Render a sample that satisfies a spec."""
    return render_video(draw_clip(rng, spec)) if spec.motion else render(draw_scene(rng, spec))


def draw_rendered(
    rng: np.random.Generator, spec: Spec, *, splits: Sequence[str], caption: str | None = None
) -> Candidates:
    """Render three candidates in random order: one is right, one nearly, and the third is any of the sorts.

    Args:
        rng: draws them.
        spec: meaning of the caption.
        splits: compositions of these splits may be shown.
        caption: the wording; None draws it.
    """
    caption = caption or draw_caption(rng, spec)
    sort = rng.random()
    if sort < 0.3:
        third = spec
    elif sort < 0.65:
        third = near_miss(rng, spec, splits=splits)
    elif sort < 0.85:
        third = near_miss(rng, near_miss(rng, spec, splits=splits), splits=splits)
    else:
        members = specs(spec.modality, splits[0])[spec.category]
        third = members[rng.integers(len(members))]
    shown = [spec, near_miss(rng, spec, splits=splits), third]
    samples = np.stack([show(rng, shown[place]) for place in rng.permutation(3)])
    return Candidates(caption, spec, samples, tuple(view(caption, sample) for sample in samples))


def still_spec(spec: Spec, *, splits: Sequence[str]) -> Spec | None:
    """Return what every frame of a video should show, as the meaning of an image caption.

    Args:
        spec: meaning of a video's caption.
        splits: the result belongs to one of them.

    Returns:
        None if it belongs to another split.
    """
    colored = all(noun.color for noun in spec.nouns)
    one, two = ("color", "binding") if colored else ("shape", "two_things")
    still = Spec(one if len(spec.nouns) == 1 else two, spec.nouns)
    return still if _is_of(still, splits) else None


def near_miss(rng: np.random.Generator, spec: Spec, *, splits: Sequence[str]) -> Spec:
    """Change one thing about a spec, so that scenes of the result usually break a demand.

    Args:
        rng: chooses the change.
        spec: meaning of a caption.
        splits: the result belongs to one of them.

    Returns:
        Another spec; in the rare case that no change stays within the splits, another one of the same category.
    """
    for _ in range(_ATTEMPTS):
        changes = [changed for changed in _changes(rng, spec) if changed != spec and _is_of(changed, splits)]
        if changes:
            return changes[rng.integers(len(changes))]
    members = specs(spec.modality, splits[0])[spec.category]
    return members[rng.integers(len(members))]


def _is_of(spec: Spec, splits: Sequence[str]) -> bool:
    nouns = (*spec.nouns, *([spec.absent] if spec.absent else []))
    if len(set(nouns)) < len(nouns):
        return False
    return split_of(compositions(spec), spec.modality) in splits and bool(colorings(spec))


def _changes(rng: np.random.Generator, spec: Spec) -> Iterator[Spec]:
    """Yield specs that differ from a spec in one respect, each respect about equally often."""
    place = int(rng.integers(len(spec.nouns)))
    for noun in _changed_nouns(rng, spec.nouns[place], spec):
        yield replace(spec, nouns=(*spec.nouns[:place], noun, *spec.nouns[place + 1 :]))
    if len(spec.nouns) > 1:
        yield from _exchanges(rng, spec)
    if spec.motion:
        yield from _other_motions(rng, spec)
    else:
        yield from _other_counts(rng, spec)
    if spec.relation in _OPPOSITE:
        yield replace(spec, relation=_OPPOSITE[spec.relation])
    if spec.absent:
        yield Spec("binding", (*spec.nouns, spec.absent))
        yield Spec("binding", (*spec.nouns, spec.absent)[::-1])


def _changed_nouns(rng: np.random.Generator, noun: Noun, spec: Spec) -> Iterator[Noun]:
    # A circle does not show that it rotates.
    shapes = [shape for shape in SHAPES if spec.motion != "rotating" or OUTLINES[shape].symmetry]
    yield replace(noun, shape=_other(rng, shapes, noun.shape))
    if noun.color:
        yield replace(noun, color=_other(rng, list(COLORS), noun.color))
    if noun.size:
        yield replace(noun, size=_other(rng, SIZES, noun.size))
    if spec.category == "counting":
        counts = (1, *NUMBERS.values())
        yield replace(noun, count=_other(rng, counts, noun.count))
        yield replace(noun, count=min(max(noun.count + int(rng.choice([-1, 1])), 1), counts[-1]))


def _exchanges(rng: np.random.Generator, spec: Spec) -> Iterator[Spec]:
    """Yield specs in which two things exchange their roles or their colors."""
    nouns = list(spec.nouns)
    if spec.relation == BETWEEN:
        yield replace(spec, nouns=(nouns[1], nouns[0], nouns[2]))
    elif spec.relation or spec.motion:
        yield replace(spec, nouns=(nouns[1], nouns[0]))
    one, two = rng.permutation(len(nouns))[:2].tolist()
    first, second = nouns[one], nouns[two]
    if first.shape != second.shape:
        nouns[one], nouns[two] = replace(first, color=second.color), replace(second, color=first.color)
        yield replace(spec, nouns=tuple(nouns))


def _other_counts(rng: np.random.Generator, spec: Spec) -> Iterator[Spec]:
    """Yield image specs with one thing more, and with one less."""
    if spec.category == "counting" or spec.absent:
        return
    if len(spec.nouns) > 1:
        left = list(spec.nouns)
        left.pop(int(rng.integers(len(left))))
        colored = all(noun.color for noun in left)
        names = ("color", "binding") if colored else ("shape", "two_things")
        yield Spec(names[len(left) - 1], tuple(left))
    if len(spec.nouns) < 3 and all(noun.color and not noun.size for noun in spec.nouns):
        further = Noun(SHAPES[rng.integers(len(SHAPES))], list(COLORS)[rng.integers(len(COLORS))])
        yield Spec(("binding", "three_things")[len(spec.nouns) - 1], (*spec.nouns, further))


def _other_motions(rng: np.random.Generator, spec: Spec) -> Iterator[Spec]:
    motion, nouns = spec.motion, spec.nouns
    if motion in DIRECTIONS:
        yield replace(spec, motion=_other(rng, DIRECTIONS, motion))
    if spec.category == "direction":
        yield replace(spec, speed=_other(rng, (None, *SPEEDS), spec.speed))
    if motion in RESIZES:
        yield replace(spec, motion=_other(rng, RESIZES, motion))
    if len(nouns) == 1:
        known = [name for name in _ALONE if name != "rotating" or OUTLINES[nouns[0].shape].symmetry]
        other = _other(rng, (*known, *DIRECTIONS), motion)
        yield Spec(_ALONE.get(other, "direction"), nouns, motion=other)
        return
    pairs = [("passing", "passing"), ("order", "before"), ("standing", DIRECTIONS[rng.integers(len(DIRECTIONS))])]
    category, name = _other(rng, pairs, next(pair for pair in pairs if pair[0] == spec.category))
    yield Spec(category, nouns, motion=name)


def _other(rng: np.random.Generator, known: Any, value: Any) -> Any:
    rest = [each for each in known if each != value]
    return rest[rng.integers(len(rest))]
