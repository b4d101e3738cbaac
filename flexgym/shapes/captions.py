"""Captions of the small world: their meaning, their phrasings, and the compositions held out from training.

Image categories are those of GenEval (arXiv 2310.11513): one object, two objects, counting, colors, position and color
attribution. Video categories are motions. Captions are parsed by the same grammar that generates them, so a verifier
needs nothing but the text.
"""

from __future__ import annotations

import difflib
import itertools
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from flexgym.core.errors import unknown_name
from flexgym.shapes.scenes import COLORS, SHAPES, SYMMETRY
from flexgym.types import MODALITIES, Modality

IMAGE_CATEGORIES = ("object", "two_objects", "counting", "colours", "position", "attribution")
VIDEO_CATEGORIES = ("direction", "bouncing", "growing", "rotating", "passing", "order")
SIZES = ("small", "large")
NUMBERS = {"two": 2, "three": 3, "four": 4}
RELATIONS = ("left of", "right of", "above", "below")
DIRECTIONS = ("left", "right", "up", "down")
RESIZES = ("growing", "shrinking")

UNTAUGHT_COLORS = {("red", "cross"), ("green", "circle")}
"""Colored shapes that the base models were never trained on, left for reinforcement learning to teach."""
HELD_OUT_THINGS = {
    ("large", "red", "cross"),
    ("small", "green", "circle"),
    ("bouncing", "red", "cross"),
    ("bouncing", "green", "circle"),
}
HELD_OUT_RELATIONS = {("square", "left of", "triangle"), ("triangle", "above", "circle")}
"""Held-out relations between shapes, for ``left of`` and ``above``; the converse phrasings are held out as well."""
HELD_OUT_SHARE = 8
"""One in this many compositions of three parts is held out; every two of its parts occur together in training."""


@dataclass(frozen=True)
class Noun:
    """Objects that a caption asks for: ``count`` of one shape, with a color and a size if the caption names them."""

    shape: str
    color: str | None = None
    size: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Spec:
    """Meaning of a caption.

    Attributes:
        category: one of `IMAGE_CATEGORIES` or `VIDEO_CATEGORIES`.
        nouns: the requested objects; a relation or motion applies to them in this order.
        relation: one of `RELATIONS`, for category ``position``.
        motion: for videos: a direction, ``bouncing``, ``growing``, ``shrinking``, ``rotating``, ``passing`` or
            ``before``.
    """

    category: str
    nouns: tuple[Noun, ...]
    relation: str | None = None
    motion: str | None = None

    @property
    def total(self) -> int:
        """Return the total number of objects that the caption asks for."""
        return sum(noun.count for noun in self.nouns)

    @property
    def modality(self) -> Modality:
        """Return ``"video"`` if the caption asks for a motion, otherwise ``"image"``."""
        return "video" if self.motion else "image"


def _is_drawn(*parts: object) -> bool:
    """Return True if a composition of three parts is held out, decided by a checksum that is the same everywhere."""
    return zlib.crc32(" ".join(map(str, parts)).encode()) % HELD_OUT_SHARE == 0


def _noun_is_held_out(spec: Spec, noun: Noun) -> bool:
    if noun.color is None:
        return False
    partners = [other.shape for other in spec.nouns if other is not noun]
    return (
        not HELD_OUT_THINGS.isdisjoint((what, noun.color, noun.shape) for what in (noun.size, spec.motion))
        or (noun.size is not None and _is_drawn(noun.size, noun.color, noun.shape))
        or (noun.count > 1 and _is_drawn(noun.count, noun.color, noun.shape))
        or (spec.motion is not None and not partners and _is_drawn(spec.motion, noun.color, noun.shape))
        or any(_is_drawn(noun.color, noun.shape, "with", partner) for partner in partners)
    )


def held_out(spec: Spec) -> bool:
    """Return True if any composition in a spec is excluded from all training captions."""
    shapes = tuple(noun.shape for noun in spec.nouns)
    relation = spec.relation
    if relation in ("right of", "below"):
        shapes, relation = shapes[::-1], {"right of": "left of", "below": "above"}[relation]
    placed = relation is not None and (shapes[0], relation, shapes[1]) in HELD_OUT_RELATIONS
    return placed or any(_noun_is_held_out(spec, noun) for noun in spec.nouns)


def taught(spec: Spec) -> bool:
    """Return True if the base models were trained on captions with this meaning."""
    return not any((noun.color, noun.shape) in UNTAUGHT_COLORS for noun in spec.nouns)


def _image_specs() -> Iterator[Spec]:
    for size, shape in itertools.product(SIZES, SHAPES):
        yield Spec("object", (Noun(shape, size=size),))
    for count, shape in itertools.product(NUMBERS.values(), SHAPES):
        yield Spec("counting", (Noun(shape, count=count),))
    for color, shape in itertools.product(COLORS, SHAPES):
        yield Spec("colours", (Noun(shape, color),))
    for first, second in itertools.permutations(SHAPES, 2):
        yield Spec("two_objects", (Noun(first), Noun(second)))
        for relation in RELATIONS:
            yield Spec("position", (Noun(first), Noun(second)), relation)
        for colors in itertools.permutations(COLORS, 2):
            yield Spec("attribution", (Noun(first, colors[0]), Noun(second, colors[1])))


def _rich_image_specs() -> Iterator[Spec]:
    for shape in SHAPES:
        yield Spec("object", (Noun(shape),))
        for color in COLORS:
            for size in SIZES:
                yield Spec("object", (Noun(shape, color, size),))
            for count in NUMBERS.values():
                yield Spec("counting", (Noun(shape, color, count=count),))
    for shapes in itertools.permutations(SHAPES, 2):
        for colors in itertools.product((None, *COLORS), repeat=2):
            if colors == (None, None):
                continue
            nouns = (Noun(shapes[0], colors[0]), Noun(shapes[1], colors[1]))
            if None in colors:
                yield Spec("two_objects", nouns)
            for relation in RELATIONS:
                yield Spec("position", nouns, relation)


def _video_specs() -> Iterator[Spec]:
    for color, shape in itertools.product(COLORS, SHAPES):
        yield from _motions_of(Noun(shape, color))
    for shapes, colors in itertools.product(itertools.permutations(SHAPES, 2), itertools.permutations(COLORS, 2)):
        yield from _events_of(Noun(shapes[0], colors[0]), Noun(shapes[1], colors[1]))


def _rich_video_specs() -> Iterator[Spec]:
    for shape in SHAPES:
        yield from _motions_of(Noun(shape))
    for shapes, color in itertools.product(itertools.permutations(SHAPES, 2), (None, *COLORS)):
        yield from _events_of(Noun(shapes[0], color), Noun(shapes[1]))
        if color:
            yield from _events_of(Noun(shapes[0]), Noun(shapes[1], color))


def _motions_of(noun: Noun) -> Iterator[Spec]:
    for direction in DIRECTIONS:
        yield Spec("direction", (noun,), motion=direction)
    yield Spec("bouncing", (noun,), motion="bouncing")
    for resize in RESIZES:
        yield Spec("growing", (noun,), motion=resize)
    if SYMMETRY[noun.shape]:
        yield Spec("rotating", (noun,), motion="rotating")


def _events_of(first: Noun, second: Noun) -> Iterator[Spec]:
    yield Spec("passing", (first, second), motion="passing")
    yield Spec("order", (first, second), motion="before")


SPLITS = ("training", "rich", "held_out")


@cache
def specs(modality: str, split: str, *, only_taught: bool = False) -> dict[str, tuple[Spec, ...]]:
    """Return all specs of a split, by category.

    Args:
        modality: ``"image"`` or ``"video"``.
        split: ``"training"``, ``"held_out"``, or ``"rich"``: training captions with more or fewer words than the plain
            form of their category, from which a generator learns the meaning of individual words. No composition of a
            held-out caption occurs in any other caption. Held-out captions are plain in categories where a plain form
            is held out, otherwise rich.
        only_taught: exclude specs that the base models were not trained on.

    Raises:
        UnknownNameError: if there is no such modality or split.
    """
    for what, name, known in (("modality", modality, MODALITIES), ("split", split, SPLITS)):
        if name not in known:
            raise unknown_name(what, name, known)
    plain, rich = {
        "image": (_image_specs, _rich_image_specs),
        "video": (_video_specs, _rich_video_specs),
    }[modality]
    if split == "rich":
        return _by_category(spec for spec in rich() if not held_out(spec) and (taught(spec) or not only_taught))
    if split == "training":
        return _by_category(spec for spec in plain() if not held_out(spec) and (taught(spec) or not only_taught))
    return {
        **_by_category(spec for spec in rich() if held_out(spec)),
        **_by_category(spec for spec in plain() if held_out(spec)),
    }


def _by_category(members: Iterable[Spec]) -> dict[str, tuple[Spec, ...]]:
    found: dict[str, list[Spec]] = {}
    for spec in members:
        found.setdefault(spec.category, []).append(spec)
    return {category: tuple(specs) for category, specs in found.items()}


def _noun_phrases(noun: Noun, article: str) -> list[str]:
    if noun.count > 1:
        number = next(word for word, value in NUMBERS.items() if value == noun.count)
        return [" ".join(word for word in (number, noun.color, plural(noun.shape)) if word)]
    words = [word for word in (article, noun.size, noun.color, noun.shape) if word]
    return [" ".join(words)]


def plural(shape: str) -> str:
    """Return the plural of a shape's name, such as ``"circles"`` for ``"circle"``."""
    return shape + ("es" if shape.endswith("s") else "s")


def _bodies(spec: Spec) -> list[str]:
    for_article = [[_noun_phrases(noun, article)[0] for noun in spec.nouns] for article in ("a", "one")]
    a, one = for_article
    if spec.category == "position":
        places = [spec.relation] + ([f"to the {spec.relation}"] if spec.relation in RELATIONS[:2] else [])
        return [f"{a[0]} {place} {a[1]}" for place in places]
    if spec.category == "direction":
        return [f"{a[0]} moving {spec.motion}", f"{a[0]} that moves {spec.motion}"]
    if spec.category in ("bouncing", "growing", "rotating"):
        return [f"{a[0]} {spec.motion}", f"{one[0]} {spec.motion}"]
    if spec.category == "passing":
        return [f"{a[0]} passing {a[1]}", f"{a[0]} moving past {a[1]}"]
    if spec.category == "order":
        return [f"{a[0]} appears before {a[1]}", f"first {a[0]} then {a[1]}"]
    if spec.category == "counting":
        return [a[0], f"exactly {a[0]}"]
    bodies = [" and ".join(a), " and ".join(one)]
    if spec.category in ("colours", "attribution") and not any(noun.size for noun in spec.nouns):
        bodies.append(" and ".join(f"a {noun.shape} that is {noun.color}" for noun in spec.nouns))
    return bodies


@cache
def phrasings(spec: Spec) -> tuple[str, ...]:
    """Return every caption that expresses a spec."""
    bodies = _bodies(spec)
    lead = "a picture of " if spec.modality == "image" else "a video of "
    led = [] if spec.category == "order" else [lead + bodies[0]]
    return tuple(bodies + led)


@cache
def _grammar() -> dict[str, Spec]:
    every = itertools.chain(_image_specs(), _rich_image_specs(), _video_specs(), _rich_video_specs())
    return {caption: spec for spec in every for caption in phrasings(spec)}


def normalize(text: str) -> str:
    """Convert a caption to lower case with single spaces and without a final period."""
    return re.sub(r"\s+", " ", text).strip().rstrip(". ").lower()


def parse_caption(text: str) -> Spec:
    """Parse a caption to its meaning.

    Args:
        text: a caption in one of the phrasings; letter case, extra spaces and a final period are ignored.

    Raises:
        ValueError: if the caption is not from the small world.
    """
    spec = _grammar().get(normalize(text))
    if spec is None:
        raise ValueError(
            "expected a caption of the small world, such as 'a red circle' or 'a blue square moving left', "
            f"got {text[:200]!r}{_suggestion(text[:200])}"
        )
    return spec


def category_of(text: str) -> str:
    """Return the category of a caption, written as `parse_caption` takes it; empty for any other text."""
    spec = _grammar().get(normalize(text))
    return spec.category if spec else ""


@cache
def _vocabulary() -> list[str]:
    return sorted({word for caption in _grammar() for word in caption.split()})


def _suggestion(text: str) -> str:
    """Replace each word by the nearest known one, and return the result as a hint if it is a valid caption."""
    words = normalize(text).split()
    near = " ".join((difflib.get_close_matches(word, _vocabulary(), n=1) or [word])[0] for word in words)
    return f". Did you mean {near!r}?" if near in _grammar() else ""


def _captions(modality: str, split: str) -> dict[str, list[str]]:
    """Return every caption of a split, by category."""
    members = specs(modality, split).items()
    return {category: [text for spec in found for text in phrasings(spec)] for category, found in members}


def training_prompts(modality: str) -> list[str]:
    """Return all plain and rich training captions, balanced over the categories, in a fixed order.

    Every caption occurs. Smaller categories repeat their captions from the start until they are as large as the largest
    category, so all categories are equally likely when a prompt is drawn.

    Args:
        modality: ``"image"`` or ``"video"``.
    """
    by_category: dict[str, list[str]] = {}
    for split in ("training", "rich"):
        for category, captions in _captions(modality, split).items():
            by_category.setdefault(category, []).extend(captions)
    most = max(map(len, by_category.values()))
    return [text for captions in by_category.values() for text in itertools.islice(itertools.cycle(captions), most)]


def heldout_prompts(modality: str) -> list[str]:
    """Return every held-out caption once, in a fixed order.

    Args:
        modality: ``"image"`` or ``"video"``.
    """
    return list(itertools.chain.from_iterable(_captions(modality, "held_out").values()))
