"""Verbs that a docstring of a function may start with, in the imperative or in the third person: ``verbs.txt``.

An asterisk in that file marks verbs that are nouns as well: "Name of a run" starts with the noun, "Name the run" with
the verb.
"""

from __future__ import annotations

import re
from pathlib import Path

_LIST = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split()
_VERBS = frozenset(word.removesuffix("*") for word in _LIST)
_NOUNS = frozenset(word.removesuffix("*") for word in _LIST if word.endswith("*"))
_AFTER_NOUNS = re.compile(r"(?:of|whose)\b")
_AFTER_PLURALS = re.compile(r"(?:of|whose|that|which|in|from|at|with|for|to|as|per|by|on|and|or|are)\b")


def _base(word: str) -> str | None:
    """Return the verb behind the third person, None for a word that is not in it."""
    endings = (("ies", "y"), ("es", ""), ("s", ""))
    forms = (word[: -len(ending)] + instead for ending, instead in endings if word.endswith(ending))
    return next((form for form in forms if form in _VERBS), None)


def starts_with_verb(sentence: str) -> bool:
    """Return True if the first word is a verb, or the second after an adverb ("Lazily load ...").

    Verbs that are also nouns count as nouns where the next word shows it, as in "Number of samples".
    """
    words = re.match(r"([A-Za-z-]+)(\S*)\s*(.*)", sentence, re.DOTALL)
    if not words:
        return False
    word, mark, after = words[1].lower(), words[2], words[3]
    if word in _VERBS:
        return word not in _NOUNS or not _AFTER_NOUNS.match(after)
    if word.endswith("ly") and not mark:
        return starts_with_verb(after)
    base = _base(word)
    return base is not None and (base not in _NOUNS or not (mark or _AFTER_PLURALS.match(after)))
