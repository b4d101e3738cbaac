"""Reading a judge's reply: tolerant of form, strict about content.

Where the line is drawn:

- Thoughts, fences, prose around the object, wrappers, the case of keys and labels, and broken syntax are form.
- The overall winner and the three mandatory categories are content; where one of them breaks the rules, the reply is
  refused as a whole. A personalised category counts through the overall winner alone, so a broken one is left out and
  counted in `Assessment.left_out`.
- A verdict is never guessed: not from prose, not from a reply that was cut off, not from one of two verdicts, and not
  by a repair, which must leave every winner as it stands in the text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import json_repair
from pydantic import ValidationError

from flexgym.judge.assessment import Assessment, Category, anchor_places
from flexgym.judge.protocol import FailureKind, Outcome
from flexgym.judge.reply import UntrustedError, nothing_found, quoted, read_reply, split_thoughts

_OPENINGS = ("{", "[", "```")
# A quotation mark, the end, or a comment must follow, since captions and prose hold braces too.
_OBJECT_START = re.compile(r"""\{\s*(?:["'\u201c\u201d}/#]|\Z)""")
# A winner as it stands in broken text: its key, and what ends its value (a bracket, a comment or the next key).
_QUOTE = "[\"'\u2018\u2019\u201c\u201d]"
_WINNER_KEY = re.compile(rf"\b(cat[\s_-]?winner|winner)\s{{0,9}}{_QUOTE}\s{{0,9}}:", re.IGNORECASE)
_WINNER_END = re.compile(rf"[}}\]]|//|/\*|{_QUOTE}[\w\s-]{{1,40}}{_QUOTE}\s{{0,9}}:")
_MAX_WINNER = 80
_DECISIVE_KEYS = {"categories", "name", "dims", "score_1", "score_2", "cat_winner", "winner"}
_VERDICT_KEYS = {"categories", "winner"}
# Repair has no limit of its own: on a reply that fell into a loop it takes minutes. An honest one needs three looks per
# character. The length is held down too, since some rules of the repair replace the metered text.
_MAX_REPAIR = 20_000
_MAX_LOOKS = 200_000
# Where one reply breaks several rules, the first of these names it.
_PRIORITY: tuple[FailureKind, ...] = ("echoed_template", "contradictory", "invalid")


class _Metered(str):
    """A text that can be looked at a limited number of times."""

    looks = 0

    def __getitem__(self, place: SupportsIndex | slice) -> str:
        found = super().__getitem__(place)
        self.looks += len(found)
        if self.looks > _MAX_LOOKS:
            raise UntrustedError("unparsable", "broken JSON that would take too long to repair")
        return found


def parse_assessment(text: str | None, finish_reason: str = "stop") -> Outcome:
    """Read the assessment out of a judge's reply.

    Args:
        text: the reply; None stands for an empty one.
        finish_reason: ``"length"`` for a reply that was cut off. An assessment that was whole by then is kept; nothing
            else is, and nothing is repaired.

    Returns:
        The assessment, or a `JudgeFailure` that says why the reply cannot be trusted. Nothing is raised.
    """
    return read_reply(_read, text, finish_reason)


def _read(text: str, cut_off: bool) -> Assessment:
    answer = _without_thoughts(text)
    start = _OBJECT_START.search(answer)
    if start is None:
        raise nothing_found("a JSON object", answer, cut_off=cut_off)
    try:
        return _validated(_verdict(_objects(answer)))
    except json.JSONDecodeError as error:
        rest = answer[start.start() :]
        if cut_off or rest.count("{") > rest.count("}") or rest.count("[") > rest.count("]"):
            raise UntrustedError("truncated", f"the reply ends before its JSON does: {quoted(rest[-40:])}") from error
        return _repaired(rest[: rest.rindex("}") + 1])


def _without_thoughts(text: str) -> str:
    """What follows the thoughts; a reply that begins with its answer has none, whatever tags its strings hold."""
    if text.lstrip("\ufeff \t\r\n").startswith(_OPENINGS):
        return text
    return split_thoughts(text, answers_begin_with="{[`")[1]


def _plain_key(key: str) -> str:
    return key.strip().lower().replace(" ", "_").replace("-", "_")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object with its keys in plain form; of a repeated key the last would silently win."""
    data = {_plain_key(key): value for key, value in pairs}
    if len(data) < len(pairs):
        counts = Counter(_plain_key(key) for key, _ in pairs)
        if repeated := [key for key in _DECISIVE_KEYS if counts[key] > 1]:
            raise UntrustedError("contradictory", f"the key {min(repeated)!r} stands twice in one object")
    return data


# Line breaks in strings are form; whole numbers of any length are read without the limit of int.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=float, strict=False)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """All JSON objects in a text, wherever they begin; raises JSONDecodeError at the first that is broken."""
    position = 0
    while start := _OBJECT_START.search(text, position):
        data, position = _DECODER.raw_decode(text, start.start())
        yield data


def _verdict(objects: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The only object that bears a verdict, on its own or wrapped in others."""
    found = [data for outermost in objects for data in _bearers(outermost)]
    if len(found) > 1:
        raise UntrustedError("contradictory", f"expected one overall verdict, got {len(found)}")
    if not found:
        raise UntrustedError("invalid", "expected an object with 'categories' and 'winner', got neither key")
    return found[0]


def _bearers(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict):
        if not _VERDICT_KEYS.isdisjoint(data):
            yield data
            return
        data = list(data.values())
    if isinstance(data, list):
        for value in data:
            yield from _bearers(value)


def _repaired(excerpt: str) -> Assessment:
    if len(excerpt) > _MAX_REPAIR:
        raise UntrustedError("unparsable", f"expected at most {_MAX_REPAIR} characters of broken JSON")
    try:
        repaired = json_repair.repair_json(_Metered(excerpt), skip_json_loads=True)
        data = _verdict(_objects(repaired))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UntrustedError("unparsable", f"broken JSON that cannot be repaired: {type(error).__name__}") from error
    assessment = _validated(data)
    if Counter(_stated_winners(excerpt)) != Counter(_winners(data)):
        raise UntrustedError("contradictory", "broken JSON in which the winners can be read in more than one way")
    return assessment


def _stated_winners(text: str) -> Iterator[tuple[str, str]]:
    """All winners as they stand in broken text, with their keys."""
    for key in _WINNER_KEY.finditer(text):
        value = _WINNER_END.split(text[key.end() : key.end() + _MAX_WINNER], maxsplit=1)[0]
        yield _plain_key(key[1]), _bare(value)


def _winners(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The same for what was read from it."""
    yield "winner", _bare(data["winner"])
    for category in data["categories"]:
        if isinstance(category, dict) and "cat_winner" in category:
            yield "cat_winner", _bare(category["cat_winner"])


def _bare(value: Any) -> str:
    return str(value).strip(" \t\r\n,\"'\u2018\u2019\u201c\u201d").lower()


def _validated(data: dict[str, Any]) -> Assessment:
    categories, left_out = _without_broken_extras(data.get("categories"))
    try:
        return Assessment.model_validate(data | {"categories": categories, "left_out": left_out})
    except ValidationError as error:
        raise _broken_rule(error) from error


def _without_broken_extras(categories: Any) -> tuple[Any, int]:
    """The categories without the personalised ones that break the rules, and the number of those."""
    if not isinstance(categories, list):
        return categories, 0
    names = [str(category.get("name", "")) if isinstance(category, dict) else "" for category in categories]
    anchors = anchor_places(names)
    kept = [category for place, category in enumerate(categories) if place in anchors or _is_category(category)]
    return kept, len(categories) - len(kept)


def _is_category(data: Any) -> bool:
    try:
        Category.model_validate(data)
    except ValidationError:
        return False
    return True


def _broken_rule(error: ValidationError) -> UntrustedError:
    """The gravest of the broken rules."""
    broken: dict[FailureKind, str] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(map(str, item["loc"]))
        kind: FailureKind = next((known for known in _PRIORITY if known == item["type"]), "invalid")
        broken.setdefault(kind, f"{place}: {item['msg']}")
    gravest = next(kind for kind in _PRIORITY if kind in broken)
    return UntrustedError(gravest, broken[gravest])
