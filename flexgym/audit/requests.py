"""Captions and what they ask for, read word by word by recursive descent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from flexgym.audit.classifier import SHAPES

COLORS = ("red", "green", "blue", "yellow", "purple", "black")
SIZES = ("small", "large")
DIRECTIONS = ("left", "right", "up", "down")
SPEEDS = ("slowly", "quickly")
BETWEEN, PASSING, BEFORE = "between", "passing", "before"
_COUNTS = {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_SHAPES = {**{shape: shape for shape in SHAPES}, **{f"{shape}s": shape for shape in SHAPES}, "crosses": "cross"}
_CHANGES = {
    **{word: word for word in ("bouncing", "growing", "shrinking", "rotating")},
    **{"bounces": "bouncing", "grows": "growing", "shrinks": "shrinking", "rotates": "rotating"},
}
_SIDES = ("left of", "right of", "above", "below")
_LONGEST = 300
"""Characters of a caption that are read."""


@dataclass(frozen=True)
class Item:
    """One entry of the things asked for: ``count`` of a shape, with a color and a size if they are named."""

    shape: str
    color: str | None = None
    size: str | None = None
    count: int = 1

    def __str__(self) -> str:
        number = next(word for word, count in _COUNTS.items() if count == self.count)
        return " ".join(word for word in (number, self.size, self.color, self.shape) if word)


@dataclass(frozen=True)
class Request:
    """Things and events that a caption asks for.

    Attributes:
        items: everything that is to be seen, and nothing else.
        absent: what must not be seen.
        relation: ``left of``, ``right of``, ``above`` or ``below``, from the first item to the second; ``between``: the
            first item is between the others.
        event: for videos: a direction, ``bouncing``, ``growing``, ``shrinking``, ``rotating``, ``passing``, or
            ``before``: the first item appears before the second.
        speed: ``slowly`` or ``quickly``, of a direction.
        waits: whether the second item keeps its place while the first one moves.
    """

    items: tuple[Item, ...]
    absent: Item | None = None
    relation: str | None = None
    event: str | None = None
    speed: str | None = None
    waits: bool = False


class _UnreadableError(Exception):
    """A word is not one of those that may come next."""


class _Words:
    """The words of a caption with a position, and the rules of the grammar, one method each."""

    def __init__(self, text: str) -> None:
        self._words = re.findall(r"[a-z]+|[^\sa-z]", text.lower())
        while self._words[-1:] == ["."]:
            self._words.pop()
        self._next = 0

    def skip(self, *phrases: str) -> str | None:
        """Pass over the first of these phrases that comes next, and return it; None if none does."""
        for phrase in phrases:
            words = phrase.split()
            if self._words[self._next : self._next + len(words)] == words:
                self._next += len(words)
                return phrase
        return None

    def need(self, *phrases: str) -> str:
        """Pass over one of these phrases and return it.

        Raises:
            _UnreadableError: none of them comes next.
        """
        found = self.skip(*phrases)
        if found is None:
            raise _UnreadableError(f"{' or '.join(map(repr, phrases[:8]))} {self._place()}")
        return found

    def end(self) -> None:
        """Raise `_UnreadableError` if any words are left."""
        if self._next < len(self._words):
            raise _UnreadableError(f"nothing more {self._place()}")

    def _place(self) -> str:
        before = " ".join(self._words[: self._next])
        return f"after {before!r}" if before else "first"

    def request(self) -> Request:
        """Read a whole caption."""
        found = self._order() or self._scene()
        self.end()
        return found

    def _order(self) -> Request | None:
        """Read a caption that begins with the order of two events."""
        if self.skip("first"):
            first, _ = self._item(), self.need(", then")
            return Request((first, self._item()), event=BEFORE)
        if self.skip("the video begins with"):
            first, _ = self._item(), self.need(". then")
            second, _ = self._item(), self.need("appears")
            return Request((first, second), event=BEFORE)
        return None

    def _scene(self) -> Request:
        self.skip("a picture of", "a video of")
        announced = self._announcement()
        if announced and self.skip("they are", "it is"):
            return self._after(self._item())
        if announced and self.skip("one is"):
            first, _ = self._item(), self.need(", the other one is", ", the other is")
            return Request((first, self._item()))
        if announced and self.skip("the first is"):
            return self._enumeration()
        self.skip("there is", "there are", "exactly")
        first = self._item()
        return self._after(first)

    def _announcement(self) -> bool:
        """Pass over a sentence that announces a number of things without naming them."""
        start = self._next
        self.skip("there are", "there is")
        number, _ = self.skip("one thing", "two things", "three things"), self.skip("is", "are")
        if number and self.skip("in the picture .", "in the video ."):
            return True
        self._next = start
        return False

    def _enumeration(self) -> Request:
        first, _ = self._item(), self.need(", the second is")
        second = self._item()
        third = [self._item()] if self.skip(", the third is") else []
        return Request((first, second, *third))

    def _item(self) -> Item:
        """Read one noun with what belongs to it; without a number the noun is one of several that are counted later."""
        count = _COUNTS[self.skip(*_COUNTS) or "one"]
        size, color = self.skip(*SIZES), self.skip(*COLORS)
        item = Item(_SHAPES[self.need(*_SHAPES)], color, size, count)
        start = self._next
        if self.skip("that is"):
            size, color = self.skip(*SIZES), self.skip(*COLORS)
            if size or color:
                return replace(item, size=item.size or size, color=item.color or color)
            self._next = start
        return item

    def _after(self, first: Item) -> Request:
        """Read what follows the first noun."""
        self.skip("that is", "is")
        if side := self._side():
            return Request((first, self._item()), relation=side)
        if self.skip("and no", ", but no", "but no", "without a"):
            return Request((first,), absent=self._item())
        if self.skip("in the video ."):
            self.need("it")
        rules = {
            "between": self._between,
            "with": self._accompanied,
            "in the picture .": lambda item: self._described((item,)),
            "and": lambda item: self._pair(item, self._item()),
            ",": self._listed,
        }
        return rules.get(self.skip(*rules) or "", self._motion)(first)

    def _side(self) -> str | None:
        """Read a relation of two things."""
        self.skip("to the")
        return self.skip(*_SIDES)

    def _between(self, middle: Item) -> Request:
        first, _ = self._item(), self.need("and")
        return Request((middle, first, self._item()), relation=BETWEEN)

    def _accompanied(self, first: Item) -> Request:
        """Read the nouns after ``with``: further things, or one that is on a side of the first."""
        other = self._item()
        side = self._side()
        if side:
            self.need("it")
            return Request((other, first), relation=side)
        if self.skip("and"):
            return Request((first, other, self._item()))
        return Request((first, other))

    def _pair(self, first: Item, second: Item) -> Request:
        """Read what follows two nouns."""
        if self.skip("with"):
            middle, _ = self._item(), self.need("between them")
            return Request((middle, first, second), relation=BETWEEN)
        if self.skip("in the picture ."):
            return self._described((first, second))
        return Request((first, second))

    def _listed(self, first: Item) -> Request:
        """Read what follows a comma: more nouns, or how many of the first there are."""
        count = self.skip(*_COUNTS)
        if count and self.skip("of them"):
            return Request((replace(first, count=_COUNTS[count]),))
        self._next -= 1 if count else 0
        second, _ = self._item(), self.need(", and", "and")
        return Request((first, second, self._item()))

    def _described(self, items: tuple[Item, ...]) -> Request:
        """Read the second sentence about an image."""
        if self.skip("there is no"):
            return Request(items, absent=self._item())
        if self.skip("if you count them , there are"):
            return Request((replace(items[0], count=_COUNTS[self.need(*_COUNTS)]),))
        subject, _ = self._reference(items), self.need("is")
        side = self._side() or self.need(*_SIDES)
        other = self._reference(items)
        return Request((items[subject], items[other]), relation=side)

    def _reference(self, items: Sequence[Item]) -> int:
        """Read a word that refers to one of the nouns before, and return its index."""
        words = ("first", "second", *(item.shape for item in items))
        return words.index(self.need(*(f"the {word}" for word in words)).removeprefix("the ")) % 2

    def _motion(self, first: Item) -> Request:
        """Read a motion of the first noun; without one the noun is all that is asked for."""
        self.skip("that")
        if self.skip("appears before"):
            return Request((first, self._item()), event=BEFORE)
        if self.skip("appears after"):
            return Request((self._item(), first), event=BEFORE)
        if self.skip("passing", "passes", "moving past", "moves past"):
            return Request((first, self._item()), event=PASSING)
        if self.skip("moving", "moves"):
            return self._moving(first)
        if self.skip("standing still while"):
            moving, _ = self._item(), self.need("moves")
            return Request((moving, first), event=self.need(*DIRECTIONS), waits=True)
        change = self.skip(*_CHANGES)
        return Request((first,), event=_CHANGES[change] if change else None)

    def _moving(self, first: Item) -> Request:
        """Read a direction and what comes with it."""
        direction, speed = self.need(*DIRECTIONS), self.skip(*SPEEDS)
        if self.skip("while", ", and", "and"):
            second = self._item()
            self.need("stands still", "does not move")
            return Request((first, second), event=direction, speed=speed, waits=True)
        return Request((first,), event=direction, speed=speed)


@lru_cache(maxsize=2**14)
def read_request(caption: str) -> Request:
    """Return what a caption asks for.

    Raises:
        ValueError: the caption is not one of the small world.
    """
    try:
        return _Words(caption[:_LONGEST]).request()
    except _UnreadableError as error:
        raise ValueError(f"caption {caption[:_LONGEST]!r}: expected {error}") from None
