"""Parse assessments from judge replies: tolerant of formatting, strict about content.

The rules are:

- Formatting is ignored: reasoning before the answer, code fences, prose around the JSON object, wrapper objects, the
  case of keys and labels, and JSON syntax errors.
- The overall winner and the winners of the three mandatory categories are content: if one of them breaks a rule, the
  whole reply is rejected. A winner may be a label or a short sentence, see `flexgym.judge.statement`.
- Scores explain the winners. Sub-dimensions whose scores are not numbers, out of range or do not sum to 10 are set
  aside, and counted in `Assessment.odd_scores`.
- A personalized category affects rewards only through the overall winner, so a broken one is dropped and counted in
  `Assessment.left_out`.
- A verdict is never guessed: not from prose, not from a truncated reply, not from one of two verdicts, and not by a
  JSON repair that changes any winner written in the text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import json_repair
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from flexgym.judge.assessment import Assessment, Category, Dimension, anchor_places
from flexgym.judge.protocol import FailureKind, Outcome
from flexgym.judge.reply import UntrustedError, nothing_found, quoted, read_reply, split_thoughts
from flexgym.judge.statement import read_winner

_OPENINGS = ("{", "[", "```")
# A quotation mark, comment, closing brace or the end must follow, since captions and prose contain braces too.
_OBJECT_START = re.compile(r"""\{\s*(?:["'\u201c\u201d}/#]|\Z)""")
# A winner in broken JSON: its key, and what ends its value (a bracket, a comment or the next key).
_QUOTE = "[\"'\u2018\u2019\u201c\u201d]"
_WINNER_KEY = re.compile(rf"\b(cat[\s_-]?winner|winner)\s{{0,9}}{_QUOTE}\s{{0,9}}:", re.IGNORECASE)
_WINNER_END = re.compile(rf"[}}\]]|//|/\*|{_QUOTE}[\w\s-]{{1,40}}{_QUOTE}\s{{0,9}}:")
_MAX_WINNER = 80
_SCORES = {
    f"score_{side}": re.compile(
        rf"\bscore[\s_-]?{side}\s{{0,9}}{_QUOTE}?\s{{0,9}}:\s{{0,9}}{_QUOTE}?\s{{0,9}}", re.IGNORECASE
    )
    for side in (1, 2)
}
# A number in broken JSON, with what may follow it: a bracket, a quotation mark, a comment, a word or the next key.
_STATED_NUMBER = re.compile(
    r"([-+]?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:e[-+]?[0-9]{1,3})?)\s{0,99}"
    r"(?=[}\]\"'\u2019\u201d#a-z]|//|/\*|,[\s,]{0,99}(?:[\"'\u2018\u201c}\]/#a-z]|\Z)|\Z)",
    re.IGNORECASE,
)
_DECISIVE_KEYS = {"categories", "name", "dims", "score_1", "score_2", "cat_winner", "winner"}
_VERDICT_KEYS = {"categories", "winner"}
# JSON repair has no limit of its own and takes minutes on a reply that fell into a loop. A normal reply needs three
# lookups per character. The length is also limited, since some repair rules replace the metered string.
_MAX_REPAIR = 20_000
_MAX_LOOKS = 200_000
# If a reply breaks several rules, the first of these is reported.
_PRIORITY: tuple[FailureKind, ...] = ("echoed_template", "contradictory", "invalid")


class _Metered(str):
    """String that raises `UntrustedError` once more than ``_MAX_LOOKS`` characters have been read from it."""

    looks = 0

    def __getitem__(self, place: SupportsIndex | slice) -> str:
        found = super().__getitem__(place)
        self.looks += len(found)
        if self.looks > _MAX_LOOKS:
            raise UntrustedError("unparsable", "broken JSON that would take too long to repair")
        return found


def parse_assessment(text: str | None, finish_reason: str = "stop") -> Outcome:
    """Parse an assessment from a judge's reply.

    Args:
        text: the reply; None is treated as empty.
        finish_reason: ``"length"`` if the reply was truncated. An assessment that is complete by then is kept;
            otherwise the reply fails, and nothing is repaired.

    Returns:
        The assessment, or a `JudgeFailure` that explains why the reply cannot be trusted. Never raises.
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
    """Return the text after the reasoning; a reply that begins with its answer is returned whole."""
    if text.lstrip("\ufeff \t\r\n").startswith(_OPENINGS):
        return text
    return split_thoughts(text, answers_begin_with="{[`")[1]


def _plain_key(key: str) -> str:
    return key.strip().lower().replace(" ", "_").replace("-", "_")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object with normalized keys; reject repeated keys, since the last one would silently win."""
    data = {_plain_key(key): value for key, value in pairs}
    if len(data) < len(pairs):
        counts = Counter(_plain_key(key) for key, _ in pairs)
        if repeated := [key for key in _DECISIVE_KEYS if counts[key] > 1]:
            raise UntrustedError("contradictory", f"the key {min(repeated)!r} occurs twice in one object")
    return data


# Line breaks in strings are allowed. Parsing integers as floats avoids the limit on the digits of an int.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=float, strict=False)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield all top-level JSON objects in a text; raise JSONDecodeError at the first broken one."""
    position = 0
    while start := _OBJECT_START.search(text, position):
        data, position = _DECODER.raw_decode(text, start.start())
        yield data


def _verdict(objects: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return the only object with verdict keys, at top level or nested in other objects."""
    found = [data for outermost in objects for data in _verdict_objects(outermost)]
    if len(found) > 1:
        raise UntrustedError("contradictory", f"expected one overall verdict, got {len(found)}")
    if not found:
        raise UntrustedError("invalid", "expected an object with 'categories' and 'winner', got neither key")
    return found[0]


def _verdict_objects(data: Any) -> Iterator[dict[str, Any]]:
    """Yield the outermost objects that contain a verdict key."""
    if isinstance(data, dict):
        if not _VERDICT_KEYS.isdisjoint(data):
            yield data
            return
        data = list(data.values())
    if isinstance(data, list):
        for value in data:
            yield from _verdict_objects(value)


def _repaired(excerpt: str) -> Assessment:
    """Repair broken JSON and validate it, unless the repair changes a winner."""
    if len(excerpt) > _MAX_REPAIR:
        raise UntrustedError("unparsable", f"expected at most {_MAX_REPAIR} characters of broken JSON to repair")
    try:
        repaired = json_repair.repair_json(_Metered(excerpt), skip_json_loads=True)
        data = _verdict(_objects(repaired))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UntrustedError("unparsable", f"broken JSON that cannot be repaired: {type(error).__name__}") from error
    assessment = _validated(_with_stated_scores(data, excerpt))
    if Counter(_stated_winners(excerpt)) != Counter(_winners(data)):
        raise UntrustedError("contradictory", "broken JSON whose winners can be read in more than one way")
    return assessment


def _stated_winners(text: str) -> Iterator[tuple[str, str]]:
    """Yield all winners as written in broken JSON, with their keys."""
    for key in _WINNER_KEY.finditer(text):
        value = _WINNER_END.split(text[key.end() : key.end() + _MAX_WINNER], maxsplit=1)[0]
        yield _plain_key(key[1]), _bare(value)


def _winners(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield all winners of a parsed reply, with their keys, for comparison with `_stated_winners`."""
    yield "winner", _bare(data["winner"])
    for category in data["categories"]:
        if isinstance(category, dict) and "cat_winner" in category:
            yield "cat_winner", _bare(category["cat_winner"])


def _with_stated_scores(data: dict[str, Any], text: str) -> dict[str, Any]:
    """Replace scores that a repair cut short, such as ``8½``, by None, so that their sub-dimensions are set aside."""
    stated = {key: [_stated_score(text, match) for match in pattern.finditer(text)] for key, pattern in _SCORES.items()}
    dims = [dim for dim in _all_dims(data) if not _SCORES.keys().isdisjoint(dim)]
    for key, numbers in stated.items():
        holders = [dim for dim in dims if key in dim]
        if len(holders) != len(numbers):
            numbers = [None] * len(holders) if None in numbers else [_as_number(dim[key]) for dim in holders]
        for dim, number in zip(holders, numbers, strict=True):
            if number is None or number != _as_number(dim[key]):
                dim[key] = None
    return data


def _all_dims(data: dict[str, Any]) -> list[dict[str, Any]]:
    categories = data.get("categories")
    lists = [part.get("dims") for part in categories if isinstance(part, dict)] if isinstance(categories, list) else []
    return [dim for dims in lists if isinstance(dims, list) for dim in dims if isinstance(dim, dict)]


def _stated_score(text: str, key: re.Match[str]) -> float | None:
    number = _STATED_NUMBER.match(text, key.end())
    return float(number[1]) if number else None


def _as_number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _bare(value: Any) -> str:
    return str(value).strip(" \t\r\n,\"'\u2018\u2019\u201c\u201d").lower()


def _validated(data: dict[str, Any]) -> Assessment:
    categories, left_out = _without_broken_extras(data.get("categories"))
    read = {"categories": categories, "left_out": left_out}
    if "winner" in data:
        read["winner"] = _label(data["winner"])
    try:
        return Assessment.model_validate(data | read)
    except ValidationError as error:
        raise _broken_rule(error) from error


def _without_broken_extras(categories: Any) -> tuple[Any, int]:
    """Drop personalized categories that break a rule, and count them."""
    if not isinstance(categories, list):
        return categories, 0
    names = [str(category.get("name", "")) if isinstance(category, dict) else "" for category in categories]
    anchors = anchor_places(names)
    labeled = [_with_label(category) for category in categories]
    kept = [
        _with_odd_set_aside(category) if place in anchors else category
        for place, category in enumerate(labeled)
        if place in anchors or _is_category(category)
    ]
    return kept, len(categories) - len(kept)


def _label(value: Any) -> Any:
    """Return the label of a winner given as a short sentence; anything else is returned unchanged for validation."""
    try:
        return read_winner(value)
    except PydanticCustomError:
        return value


def _with_label(category: Any) -> Any:
    if not isinstance(category, dict) or "cat_winner" not in category:
        return category
    return category | {"cat_winner": _label(category["cat_winner"])}


def _with_odd_set_aside(category: Any) -> Any:
    """Move the sub-dimensions with odd scores from ``dims`` to ``odd_dims``."""
    dims = category.get("dims") if isinstance(category, dict) else None
    if not isinstance(dims, list):
        return category
    problems = [_odd_scores(dim) for dim in dims]
    odd = [
        {"name": dim.get("name"), "problem": problem}
        for dim, problem in zip(dims, problems, strict=True)
        if problem is not None
    ]
    return category | {
        "dims": [dim for dim, problem in zip(dims, problems, strict=True) if problem is None],
        "odd_dims": odd,
    }


def _odd_scores(dim: Any) -> str | None:
    """Return why the scores of a sub-dimension cannot be used; None if they can, or if something else is wrong."""
    if not isinstance(dim, dict):
        return None
    try:
        Dimension.model_validate(dim)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if all(item["loc"][:1] in ((), ("score_1",), ("score_2",)) for item in found):
            return ": ".join([*map(str, found[0]["loc"]), found[0]["msg"]])
    return None


def _is_category(data: Any) -> bool:
    try:
        Category.model_validate(data)
    except ValidationError:
        return False
    return True


def _broken_rule(error: ValidationError) -> UntrustedError:
    """Return the most severe of the broken rules."""
    broken: dict[FailureKind, str] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(map(str, item["loc"]))
        kind: FailureKind = next((known for known in _PRIORITY if known == item["type"]), "invalid")
        broken.setdefault(kind, f"{place}: {item['msg']}")
    gravest = next(kind for kind in _PRIORITY if kind in broken)
    return UntrustedError(gravest, broken[gravest])
