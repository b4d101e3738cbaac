"""Captions of the small world: their meanings and phrasings.

Image categories follow GenEval (arXiv 2310.11513), with three things, things between others, and absence; video
categories are motions. Every caption is generated and parsed by one grammar, so a verifier needs nothing but the text.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from flexgym.shapes.scenes import COLORS, OUTLINES, SHAPES
from flexgym.types import Modality

SIZES = ("small", "large")
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
RELATIONS = ("left of", "right of", "above", "below")
BETWEEN = "between"
DIRECTIONS = ("left", "right", "up", "down")
SPEEDS = ("slowly", "quickly")
RESIZES = ("growing", "shrinking")
_LONGEST = 200
"""Characters of a text that are read; no caption has more."""
SIMPLE_CATEGORIES = ("shape", "color", "two_things")
"""Image categories whose captions name single things or shapes without colors; they occur in training only."""
IMAGE_CATEGORIES = ("size", "counting", "binding", "three_things", "position", "between", "absence")
VIDEO_CATEGORIES = ("direction", "bouncing", "growing", "rotating", "passing", "standing", "order")
"""Categories by which accuracy is balanced; those of `IMAGE_CATEGORIES` likewise."""


@dataclass(frozen=True)
class Noun:
    """Things that a caption names: ``count`` of one shape, with a color and a size if the caption names them."""

    shape: str
    color: str | None = None
    size: str | None = None
    count: int = 1

    @property
    def kind(self) -> str:
        """Return color and shape, such as ``"red circle"``; without a color the shape alone."""
        return f"{self.color} {self.shape}" if self.color else self.shape

    @property
    def name(self) -> str:
        """Return size and kind, such as ``"large red circle"``."""
        return f"{self.size} {self.kind}" if self.size else self.kind


@dataclass(frozen=True)
class Spec:
    """Meaning of a caption.

    Attributes:
        category: category of the caption.
        nouns: the requested things; a relation or motion applies to them in this order.
        relation: one of `RELATIONS`, from the first thing to the second, or `BETWEEN`: the first thing is between the
            others.
        absent: a thing that must not be there.
        motion: for videos: a direction, ``bouncing``, ``growing``, ``shrinking``, ``rotating``, ``passing`` or
            ``before``. In category ``standing`` the first thing moves in a direction and the second does not move.
        speed: one of `SPEEDS`, of a motion in a direction.
    """

    category: str
    nouns: tuple[Noun, ...]
    relation: str | None = None
    absent: Noun | None = None
    motion: str | None = None
    speed: str | None = None

    @property
    def total(self) -> int:
        """Return the total number of things that the caption requests."""
        return sum(noun.count for noun in self.nouns)

    @property
    def modality(self) -> Modality:
        """Return ``"video"`` if the caption names a motion, otherwise ``"image"``."""
        return "video" if self.motion else "image"


def plural(shape: str) -> str:
    """Return the plural of a shape's name, such as ``"circles"`` for ``"circle"``."""
    return shape + ("es" if shape.endswith("s") else "s")


def _phrase(noun: Noun, article: str = "a") -> str:
    """Return a noun in words, such as ``"a small red circle"`` or ``"three red circles"``."""
    if noun.count > 1:
        number = next(word for word, value in NUMBERS.items() if value == noun.count)
        words: Sequence[str | None] = (number, noun.size, noun.color, plural(noun.shape))
    else:
        words = (article, noun.size, noun.color, noun.shape)
    return " ".join(word for word in words if word)


def _that_is(noun: Noun) -> str:
    return f"a {noun.shape} that is {noun.size or noun.color}"


def _listed(phrases: Sequence[str]) -> str:
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def _say_things(spec: Spec) -> list[str]:
    phrases = [_phrase(noun) for noun in spec.nouns]
    said = [_listed(phrases), _listed([_phrase(noun, "one") for noun in spec.nouns])]
    if len(spec.nouns) < 3 and all((noun.size is None) != (noun.color is None) for noun in spec.nouns):
        said.append(_listed([_that_is(noun) for noun in spec.nouns]))
    if len(spec.nouns) == 1:
        return [*said, f"one thing is in the picture. it is {phrases[0]}"]
    if len(spec.nouns) == 2:
        return [*said, f"two things are in the picture. one is {phrases[0]}, the other is {phrases[1]}"]
    said.append(f"{phrases[0]} with {phrases[1]} and {phrases[2]}")
    return [*said, f"three things are in the picture. they are {said[0]}"]


def _say_count(spec: Spec) -> list[str]:
    noun = spec.nouns[0]
    phrase = _phrase(noun)
    number, kinds = phrase.split(" ", 1)
    return [
        phrase,
        f"exactly {phrase}",
        f"{kinds}, {number} of them",
        f"there are {phrase}",
        f"there are {kinds} in the picture. if you count them, there are {number}",
    ]


def _say_position(spec: Spec) -> list[str]:
    first, second = (_phrase(noun) for noun in spec.nouns)
    sides = spec.relation in ("left of", "right of")
    place = f"to the {spec.relation}" if sides else f"{spec.relation}"
    return [
        f"{first} {spec.relation} {second}",
        f"{first} that is {place} {second}",
        f"{second} with {first} {place} it",
        f"there are {first} and {second} in the picture. the {spec.nouns[0].shape} is {place} the {spec.nouns[1].shape}"
        if spec.nouns[0].shape != spec.nouns[1].shape
        else f"there are {first} and {second} in the picture. the first is {place} the second",
    ]


def _say_between(spec: Spec) -> list[str]:
    middle, first, second = (_phrase(noun) for noun in spec.nouns)
    return [
        f"{middle} between {first} and {second}",
        f"{middle} that is between {first} and {second}",
        f"{first} and {second} with {middle} between them",
        f"three things are in the picture. {middle} is between {first} and {second}",
    ]


def _say_absence(spec: Spec) -> list[str]:
    assert spec.absent
    here, absent = _phrase(spec.nouns[0]), spec.absent.kind
    return [
        f"{here} and no {absent}",
        f"{here}, but no {absent}",
        f"{here} without a {absent}",
        f"there is {here} in the picture. there is no {absent}",
    ]


def _say_direction(spec: Spec) -> list[str]:
    thing, way = _phrase(spec.nouns[0]), f"{spec.motion} {spec.speed}" if spec.speed else spec.motion
    said = [f"{thing} moving {way}", f"{thing} that moves {way}", f"{_phrase(spec.nouns[0], 'one')} moving {way}"]
    return [*said, f"there is {thing} in the video. it moves {way}"]


_VERBS = {"bouncing": "bounces", "growing": "grows", "shrinking": "shrinks", "rotating": "rotates"}


def _say_motion(spec: Spec) -> list[str]:
    assert spec.motion
    thing, verb = _phrase(spec.nouns[0]), _VERBS[spec.motion]
    said = [f"{thing} {spec.motion}", f"{_phrase(spec.nouns[0], 'one')} {spec.motion}", f"{thing} that {verb}"]
    return [*said, f"there is {thing} in the video. it {verb}"]


def _say_passing(spec: Spec) -> list[str]:
    first, second = (_phrase(noun) for noun in spec.nouns)
    return [
        f"{first} passing {second}",
        f"{first} moving past {second}",
        f"{first} that passes {second}",
        f"two things are in the video. {first} moves past {second}",
    ]


def _say_standing(spec: Spec) -> list[str]:
    first, second = (_phrase(noun) for noun in spec.nouns)
    return [
        f"{first} moving {spec.motion} while {second} stands still",
        f"{second} standing still while {first} moves {spec.motion}",
        f"{first} moves {spec.motion} and {second} does not move",
        f"two things are in the video. {first} moves {spec.motion}, and {second} stands still",
    ]


def _say_order(spec: Spec) -> list[str]:
    first, second = (_phrase(noun) for noun in spec.nouns)
    return [
        f"{first} appears before {second}",
        f"first {first}, then {second}",
        f"{second} appears after {first}",
        f"the video begins with {first}. then {second} appears",
    ]


_SAY: dict[str, Callable[[Spec], list[str]]] = {
    "counting": _say_count,
    "position": _say_position,
    "between": _say_between,
    "absence": _say_absence,
    "direction": _say_direction,
    "passing": _say_passing,
    "standing": _say_standing,
    "order": _say_order,
    **dict.fromkeys((*SIMPLE_CATEGORIES, "size", "binding", "three_things"), _say_things),
    **dict.fromkeys(("bouncing", "growing", "rotating"), _say_motion),
}


@lru_cache(maxsize=2**16)
def phrasings(spec: Spec) -> tuple[str, ...]:
    """Return every caption that expresses a spec; the last one has two sentences."""
    *short, long = _SAY[spec.category](spec)
    lead = "a picture of" if spec.modality == "image" else "a video of"
    led = [] if spec.category == "order" else [f"{lead} {short[0]}"]
    return (*short, *led, long)


def image_specs(shapes: Sequence[str] = SHAPES, colors: Sequence[str] = tuple(COLORS)) -> Iterator[Spec]:
    """Yield the meanings of all image captions about some shapes and colors, by default all."""
    kinds = [Noun(shape, color) for shape in shapes for color in colors]
    for shape in shapes:
        yield Spec("shape", (Noun(shape),))
        yield from (Spec("counting", (Noun(shape, count=count),)) for count in NUMBERS.values())
        yield from (Spec("size", (Noun(shape, size=size),)) for size in SIZES)
    for first, second in itertools.permutations(shapes, 2):
        yield Spec("two_things", (Noun(first), Noun(second)))
        yield from (Spec("position", (Noun(first), Noun(second)), relation) for relation in RELATIONS)
    for noun in kinds:
        yield Spec("color", (noun,))
        yield from (Spec("counting", (Noun(noun.shape, noun.color, count=count),)) for count in NUMBERS.values())
        yield from (Spec("size", (Noun(noun.shape, noun.color, size),)) for size in SIZES)
    for pair in itertools.permutations(kinds, 2):
        yield Spec("binding", pair)
        yield Spec("absence", pair[:1], absent=pair[1])
        yield from (Spec("position", pair, relation) for relation in RELATIONS)
    for three in itertools.permutations(kinds, 3):
        yield Spec("three_things", three)
        yield Spec("between", three, BETWEEN)


def video_specs(shapes: Sequence[str] = SHAPES, colors: Sequence[str] = tuple(COLORS)) -> Iterator[Spec]:
    """Yield the meanings of all video captions about some shapes and colors, by default all."""
    kinds = [Noun(shape, color) for shape in shapes for color in (None, *colors)]
    for noun in kinds:
        for direction, speed in itertools.product(DIRECTIONS, (None, *SPEEDS)):
            yield Spec("direction", (noun,), motion=direction, speed=speed)
        yield Spec("bouncing", (noun,), motion="bouncing")
        yield from (Spec("growing", (noun,), motion=resize) for resize in RESIZES)
        if OUTLINES[noun.shape].symmetry:
            yield Spec("rotating", (noun,), motion="rotating")
    for pair in itertools.permutations([noun for noun in kinds if noun.color], 2):
        yield Spec("passing", pair, motion="passing")
        yield Spec("order", pair, motion="before")
        yield from (Spec("standing", pair, motion=direction) for direction in DIRECTIONS)


_NUMBERS = "|".join(NUMBERS)
_NOUN = re.compile(
    rf"\b(?:(?:a|one|(?P<count>{_NUMBERS})) )?(?:(?P<size>{'|'.join(SIZES)}) )?(?:(?P<color>{'|'.join(COLORS)}) )?"
    rf"(?P<shape>{'|'.join(SHAPES)})(?:e?s)?\b(?: that is (?P<trait>{'|'.join((*SIZES, *COLORS))})\b)?"
)
_SLOT = "#"


@dataclass(frozen=True)
class _Template:
    """A caption with its nouns left out.

    Attributes:
        spec: meaning of an example.
        roles: for each noun of the text in order, the index of the thing that it names; the absent one comes last.
    """

    spec: Spec
    roles: tuple[int, ...]


def _things(spec: Spec) -> list[Noun]:
    return [*spec.nouns, *([spec.absent] if spec.absent else [])]


def _left_out(text: str) -> tuple[str, list[Noun]]:
    """Return a text with a mark in place of each noun, and the nouns."""
    nouns = []
    for found in _NOUN.finditer(text):
        trait = found["trait"]
        color = found["color"] or (trait if trait in COLORS else None)
        size = found["size"] or (trait if trait in SIZES else None)
        nouns.append(Noun(found["shape"], color, size, NUMBERS.get(found["count"] or "", 1)))
    return _NOUN.sub(_SLOT, text), nouns


@cache
def _templates() -> dict[str, list[_Template]]:
    """Return what each form of a caption can mean, from captions about three shapes and colors."""
    some = (SHAPES[:3], tuple(COLORS)[:3])
    templates: dict[str, dict[tuple[object, ...], _Template]] = {}
    for spec in itertools.chain(image_specs(*some), video_specs(*some)):
        things = _things(spec)
        for caption in phrasings(spec):
            form, nouns = _left_out(caption)
            roles = tuple(max(range(len(things)), key=lambda index: _likeness(things[index], noun)) for noun in nouns)
            key = (roles, spec.category, spec.relation, spec.motion, spec.speed, *map(_pattern, things))
            templates.setdefault(form, {}).setdefault(key, _Template(spec, roles))
    return {form: list(known.values()) for form, known in templates.items()}


def _likeness(thing: Noun, noun: Noun) -> int:
    return (thing.shape == noun.shape) + (noun.color is not None and thing.color == noun.color)


def _pattern(noun: Noun) -> tuple[bool, bool, int]:
    return noun.color is not None, noun.size is not None, noun.count


def _filled(template: _Template, nouns: Sequence[Noun]) -> Spec | None:
    """Return the meaning of a text of this form with these nouns; None if the form does not take them."""
    spec, examples = template.spec, _things(template.spec)
    things: list[Noun] = []
    for role, example in enumerate(examples):
        named = [noun for noun, own in zip(nouns, template.roles, strict=True) if own == role]
        fullest = max(named, key=lambda noun: (noun.color is not None) + (noun.size is not None))
        things.append(replace(fullest, count=example.count))
    if [*map(_pattern, things)] != [*map(_pattern, examples)] or len(set(things)) < len(things):
        return None
    return replace(spec, nouns=tuple(things[: len(spec.nouns)]), absent=things[-1] if spec.absent else None)


def normalize(text: str) -> str:
    """Convert a caption to lower case with single spaces and without a final period."""
    return re.sub(r"\s+", " ", text).strip().rstrip(". ").lower()


@lru_cache(maxsize=2**14)
def _parsed(text: str) -> Spec | None:
    form, nouns = _left_out(text)
    for template in _templates().get(form, ()):
        if len(nouns) == len(template.roles) and (spec := _filled(template, nouns)) and text in phrasings(spec):
            return spec
    return None


def parse_caption(text: str) -> Spec:
    """Parse a caption to its meaning.

    Args:
        text: a caption in one of the phrasings; letter case, extra spaces and a final period are ignored.

    Raises:
        ValueError: if the caption is not from the small world.
    """
    spec = _parsed(normalize(text[:_LONGEST]))
    if spec is None:
        raise ValueError(
            "expected a caption of the small world, such as 'a red circle and a blue square' or 'a blue square moving"
            f" left', got {text[:_LONGEST]!r}{_suggestion(text[:_LONGEST])}"
        )
    return spec


def category_of(text: str) -> str:
    """Return the category of a caption, written as `parse_caption` takes it; empty for any other text."""
    spec = _parsed(normalize(text[:_LONGEST]))
    return spec.category if spec else ""


@cache
def vocabulary() -> tuple[str, ...]:
    """Return all words and marks of the captions, sorted."""
    every = itertools.chain(image_specs(SHAPES[:2], list(COLORS)[:2]), video_specs(SHAPES[:2], list(COLORS)[:2]))
    found = {word for spec in every for caption in phrasings(spec) for word in re.findall(r"\w+|[^\w\s]+", caption)}
    return tuple(sorted({*found, *SHAPES, *map(plural, SHAPES), *COLORS}))


def _suggestion(text: str) -> str:
    """Replace each word by the nearest known one, and return the result as a hint if it is a valid caption."""
    words = re.split(r"(\W+)", normalize(text))
    near = "".join(
        (difflib.get_close_matches(word, vocabulary(), n=1) or [word])[0] if word.isalpha() else word for word in words
    )
    return f". Did you mean {near!r}?" if _parsed(near) else ""
