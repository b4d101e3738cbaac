"""Training, validation and test: no composition occurs in two of them, neither in captions nor in samples.

A composition is something that a model has to combine anew: two things of different kinds, such as a red circle and a
blue square; a number of things of one kind; the size or the motion of a thing that is alone. Checksums of their
names decide which of them belong to validation and which to test, so the splits are the same everywhere. A caption or
scene with compositions of training alone belongs to training, one that also has some of one other split belongs to that
split, and one with compositions of both validation and test to none.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.shapes.captions import (
    IMAGE_CATEGORIES,
    SIMPLE_CATEGORIES,
    VIDEO_CATEGORIES,
    Noun,
    Spec,
    image_specs,
    phrasings,
    video_specs,
)
from flexgym.shapes.scenes import COLORS
from flexgym.types import MODALITIES

SPLITS = ("training", "validation", "test")
CATEGORIES = {"image": IMAGE_CATEGORIES, "video": VIDEO_CATEGORIES}
"""Categories by which accuracy is balanced, by modality."""
PROMPTS_OF_A_CATEGORY = 1000
"""Number of prompts of each category that environments draw from."""
_SHARE_OF_PAIRS, _SHARE = 0.15, 0.25
"""Share of compositions of two kinds, and of all others of a category, that validation and test have each."""


def pair(first: str, second: str) -> str:
    """Return the name of the composition of two kinds, such as ``"blue square + red circle"``."""
    return " + ".join(sorted((first, second)))


def counted(count: int, kind: str) -> str:
    """Return the name of the composition of several things of one kind, such as ``"3 x red circle"``."""
    return f"{count} x {kind}"


def sized(size: str, kind: str) -> str:
    """Return the name of the composition of a size and the kind of the only thing, such as ``"small red circle"``."""
    return f"{size} {kind}"


def moved(motion: str, kind: str, speed: str | None = None) -> str:
    """Return the name of the composition of a motion and a kind, such as ``"left quickly: red circle"``."""
    return f"{motion} {speed}: {kind}" if speed else f"{motion}: {kind}"


def compositions(spec: Spec) -> frozenset[str]:
    """Return the compositions that a caption names; things without a color have none."""
    things: list[Noun] = [*spec.nouns, *([spec.absent] if spec.absent else [])]
    if any(noun.color is None for noun in things):
        return frozenset()
    kinds = [noun.kind for noun in things]
    if len(kinds) > 1:
        return frozenset(pair(*two) for two in itertools.combinations(kinds, 2))
    noun = things[0]
    if spec.motion:
        return frozenset({moved(spec.motion, noun.kind, spec.speed)})
    if noun.count > 1:
        return frozenset({counted(noun.count, noun.kind)})
    return frozenset({sized(noun.size, noun.kind)} if noun.size else ())


@cache
def _assigned(modality: str) -> dict[str, str]:
    """Return the compositions of validation and test with their split."""
    assigned: dict[str, str] = {}
    for category, names in _families(modality).items():
        drawn = sorted(names, key=lambda name: zlib.crc32(f"{modality}: {name}".encode()))
        size = round(len(drawn) * (_SHARE_OF_PAIRS if category == "pair" else _SHARE))
        assigned |= dict.fromkeys(drawn[:size], "validation") | dict.fromkeys(drawn[size : 2 * size], "test")
    return assigned


def _every_spec(modality: str) -> Iterator[Spec]:
    return image_specs() if modality == "image" else video_specs()


def _families(modality: str) -> dict[str, set[str]]:
    """Return the names of all compositions, those of two kinds apart from those of each category."""
    families: dict[str, set[str]] = {}
    for spec in _every_spec(modality):
        if len(spec.nouns) < 3:  # three things are three pairs
            names = compositions(spec)
            families.setdefault("pair" if any(" + " in name for name in names) else spec.category, set()).update(names)
    return families


def split_of_composition(name: str, modality: str) -> str:
    """Return the split that a composition belongs to."""
    return _assigned(modality).get(name, "training")


def split_of(names: Iterable[str], modality: str) -> str | None:
    """Return the split of a caption or scene with these compositions; None if it belongs to no split."""
    others = {split_of_composition(name, modality) for name in names} - {"training"}
    return None if len(others) > 1 else next(iter(others), "training")


def colorings(spec: Spec) -> tuple[Spec, ...]:
    """Return a spec with the colors that it leaves open, in every way such that its scenes belong to its split.

    Things of one noun get one color; things of two nouns may get the same. A caption that names all colors has one
    coloring, and one without colors none if all of them are held out from training.
    """
    return (spec,) if all(noun.color for noun in spec.nouns) else _colored(spec)


@lru_cache(maxsize=2**10)
def _colored(spec: Spec) -> tuple[Spec, ...]:
    split = split_of(compositions(spec), spec.modality)
    choices = [[noun] if noun.color else [replace(noun, color=color) for color in COLORS] for noun in spec.nouns]
    colored = [replace(spec, nouns=nouns) for nouns in itertools.product(*choices)]
    return tuple(each for each in colored if split_of(compositions(each), spec.modality) == split)


def specs(modality: str, split: str) -> dict[str, tuple[Spec, ...]]:
    """Return the meanings of all captions of a split, by category.

    A caption without colors belongs to training, unless each color would make its scenes belong to another split.

    Args:
        modality: ``"image"`` or ``"video"``.
        split: ``"training"``, ``"validation"`` or ``"test"``.

    Raises:
        UnknownNameError: there is no such modality or split.
    """
    for what, name, known in (("modality", modality, MODALITIES), ("split", split, SPLITS)):
        if name not in known:
            raise unknown_name(what, name, known)
    return _divided(modality)[split]


@cache
def _divided(modality: str) -> dict[str, dict[str, tuple[Spec, ...]]]:
    order = (*SIMPLE_CATEGORIES, *CATEGORIES[modality])
    found: dict[str, dict[str, list[Spec]]] = {split: {category: [] for category in order} for split in SPLITS}
    for spec in _every_spec(modality):
        split = split_of(compositions(spec), modality)
        if split and colorings(spec):
            found[split][spec.category].append(spec)
    return {split: {name: tuple(some) for name, some in known.items() if some} for split, known in found.items()}


def draw_prompts(modality: str, split: str, count: int, *, seed: int) -> list[str]:
    """Draw distinct captions, balanced over the categories, and within each over the compositions.

    A category that has no more captions leaves its share to the others.

    Args:
        modality: ``"image"`` or ``"video"``.
        split: ``"training"``, ``"validation"`` or ``"test"``.
        count: number of captions.
        seed: of the draw.

    Returns:
        The captions, those of the categories by turns, so that any beginning is balanced as well.

    Raises:
        ConfigError: the split has fewer captions.
    """
    rng = np.random.default_rng(seed)
    decks = [_deck(rng, members, count) for members in specs(modality, split).values()]
    dealt = [caption for turn in itertools.zip_longest(*decks) for caption in turn if caption is not None][:count]
    if len(dealt) < count:
        raise ConfigError(f"expected at most {len(dealt)} prompts, the {modality} captions of {split}, got {count}")
    return dealt


def training_prompts(modality: str) -> list[str]:
    """Return the built-in prompts of environments, always the same: training captions, as many of each category.

    A category with fewer captions repeats them, so that all categories are equally likely when a prompt is drawn.

    Args:
        modality: ``"image"`` or ``"video"``.
    """
    rng, members = np.random.default_rng(0), specs(modality, "training")
    decks = [_deck(rng, members[name], PROMPTS_OF_A_CATEGORY) for name in CATEGORIES[modality]]
    rows = zip(*(itertools.islice(itertools.cycle(deck), PROMPTS_OF_A_CATEGORY) for deck in decks), strict=True)
    return [caption for row in rows for caption in row]


def _deck(rng: np.random.Generator, members: Sequence[Spec], count: int) -> list[str]:
    """Return up to ``count`` captions: one of each meaning in random order, then a second one of each, and so on."""
    chosen = [members[index] for index in rng.permutation(len(members))[:count]]
    shuffled = [[texts[index] for index in rng.permutation(len(texts))] for texts in map(phrasings, chosen)]
    rounds = itertools.zip_longest(*shuffled)
    return [text for turn in rounds for text in turn if text is not None][:count]
