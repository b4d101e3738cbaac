"""Winners stated by a label or in a short sentence: one grammar of what is read, for all dialects.

A sentence is read only if it cannot mean the other candidate: it must have one of the listed forms from its first word
to its last, so negations, comparisons, hedges and reasons are never skipped.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic_core import PydanticCustomError

from flexgym.judge.assessment import Label, normalize_label

_MAX_CHARACTERS = 200
_LABELS: dict[str, Label] = {label.lower(): label for label in get_args(Label)}
_SIGNS = re.compile(r"[\s*_`\"'\u2018\u2019\u201c\u201d()\[\]<>]+")
_ENDS = " .,:;!#\u3002\u2022-"
_DEGREE = (
    r"(?:(?:clearly|slightly|much|far|overall|generally|significantly|definitely|marginally|somewhat|obviously"
    r"|noticeably|considerably|a bit|a little|by far) ){0,2}"
)
_NOUN = r"(?: (?:image|video|one|choice|option|candidate|match|result))?"
_BETTER = rf"(?:better|best|superior|preferred|preferable|stronger|winning){_NOUN}"
_LAST = r"(?: overall| here| in this case| by far)?"


def _label(group: str) -> str:
    return rf"(?:the )?(?:edited )?(?P<{group}>(?:image|video)[ #:-]{{0,3}}[12])"


_LEAD = (
    r"(?:(?:in conclusion|overall|therefore|thus|so|hence|finally|conclusion"
    r"|(?:final |overall )?(?:answer|verdict|judgment|conclusion))[,:]? )?"
)
_WINNER = _label("winner")
_FORMS = (
    rf"{_LEAD}{_WINNER} (?:is|was) {_DEGREE}(?:the )?{_DEGREE}(?:{_BETTER}|winner){_LAST}",
    rf"{_LEAD}{_WINNER} {_DEGREE}wins{_LAST}",
    rf"(?:the )?(?:overall |final )?(?:{_BETTER}|winner|choice|preference|answer|verdict)(?: is:?|:) {_WINNER}{_LAST}",
    rf"{_LEAD}(?:i|we) (?:prefer|choose|pick|select) {_WINNER}{_LAST}",
)
_STATEMENT = re.compile("|".join(re.sub("winner>", f"winner{place}>", form) for place, form in enumerate(_FORMS)))
_COMPARISON = re.compile(rf"{_LEAD}{_WINNER} is {_DEGREE}better than {_label('loser')}{_LAST}")
_TIE = re.compile(
    rf"{_LEAD}(?:both|the two) (?:edited )?(?:images|videos) are"
    r" (?:equally good|equally bad|equal|tied|the same|of equal quality)"
)


def read_winner(value: Any) -> Label:
    """Return the label of the winner that a model stated by its label or in a short sentence.

    Args:
        value: the text, such as ``"Image 2"``, ``"Image 2 is better"`` or ``"The better one is Image 1."``.

    Raises:
        PydanticCustomError: of type ``echoed_template``, ``contradictory`` or ``no_winner``, if it states no winner or
            could mean the other candidate.
    """
    try:
        return normalize_label(value)  # type: ignore[return-value]
    except PydanticCustomError as error:
        stated = stated_winner(value) if error.type == "no_winner" and isinstance(value, str) else None
        if stated is None:
            raise
        return stated


def stated_winner(text: str, *, compared: bool = False) -> Label | None:
    """Return the label of the winner that a sentence states; None if it states none.

    Args:
        text: the sentence.
        compared: also read ``Image 1 is better than Image 2``.
    """
    sentence = _plain(text)
    if sentence is None:
        return None
    if compared and (both := _COMPARISON.fullmatch(sentence)):
        winner, loser = _canonical(both["winner"]), _canonical(both["loser"])
        return winner if winner[-1] != loser[-1] else None
    found = _STATEMENT.fullmatch(sentence)
    return None if found is None else _canonical(next(filter(None, found.groups())))


def states_tie(text: str) -> bool:
    """Return True if a sentence says that both candidates are equally good."""
    sentence = _plain(text)
    return sentence is not None and _TIE.fullmatch(sentence) is not None


def _plain(text: str) -> str | None:
    """Return a sentence in lower case without quotes, brackets and emphasis; None if it is too long to be one."""
    if len(text) > _MAX_CHARACTERS:
        return None
    return _SIGNS.sub(" ", text).strip(_ENDS).lower()


def _canonical(label: str) -> Label:
    return _LABELS[re.sub(r"[ #:-]+", "", label).replace("image", "image ").replace("video", "video ")]
