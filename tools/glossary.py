"""Words that the project does not use, each with the term of the field or the American spelling to use instead."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

GLOSSARY: tuple[tuple[str, str], ...] = (
    (r"cut (?:over|among)", "sharded"),
    (r"whole models?|made whole", "unsharded, gathered"),
    (r"(?<!the )rest(?:s|ed|ing)? (?:in|on|there|beside|between|while)|lets? [\w ]{1,30} rest", "offload"),
    (r"(?:go|goes|going|went|gone) on", "resume, continue"),
    (r"way back", "resuming"),
    (r"moving averages?|averaged weights", "EMA"),
    (r"divergence from (?:the )?(?:reference|policy)", "KL to the reference"),
    (r"policy before training", "reference policy"),
    (r"what trains|nothing trains", "trainable parameters; frozen"),
    (r"told|tells?|is said", "log, report, print, raise; distinguish"),
    (r"pictures?", "image"),
    (r"(?:stands?|stood)(?!(?: |-)(?:for|in|alone|out|on (?:its|their) own)\b)", "is, lives in, is stored"),
    (r"to the letter", "reward hacking, overoptimization"),
    (r"prompts met", "held-out accuracy"),
    (r"sum of ten", "scores sum to 10"),
    (r"(?:win|lose) sides?", "first position, second position"),
    (r"(?:let|lets|letting) go|forgets?|forgotten|forgetting", "free, clear"),
    (r"refus(?:e|es|ed|ing)", "reject, raise ConfigError"),
    (r"roll(?:s|ed|ing)? out", "sample; rollout is the noun"),
    (r"mend(?:s|ed|ing)?", "fix"),
    (r"without a word", "silently"),
    (r"at most so many|so many at most", "up to N"),
)
"""Patterns of whole words, in any case, each with what to use instead."""

SPELLINGS: tuple[tuple[str, str], ...] = (
    (r"(\w*(?:arm|behavi|col|endeav|fav|flav|harb|hon|hum|lab|neighb|od|rum|vap))our(\w*)", r"\1or\2"),
    (r"(\w{3,})is(e|ed|es|er|ers|ing|ation|ations|able)", r"\1iz\2"),
    (r"(\w*a|cata|para)lys(e|ed|ing)", r"\1lyz\2"),
    (r"(\w*)centre(s?)", r"\1center\2"),
    (r"(\w*)centr(ed|ing)", r"\1center\2"),
    (r"(met|fib)re(s?)", r"\1er\2"),
    (r"grey(\w*)", r"gray\1"),
    (r"(\w*(?:channel|label|level|model|signal|total|travel))l(ed|ing|er|ers)", r"\1\2"),
    (r"(catalog)ue(s?)|(program)me(s?)", r"\1\2\3\4"),
    (r"(defen|licen|offen)ce(s?)", r"\1se\2"),
    (r"arte(facts?)", r"arti\1"),
    (r"(\w*)judge(ments?)", r"\1judg\2"),
    (r"learnt", "learned"),
    (r"(amid|among)st", r"\1"),
    (r"whilst", "while"),
)
"""Patterns of British words with their American form."""

_ALWAYS_ISE = frozenset(
    re.split(
        r"\W+",
        "adv appra appr chast circumc compr comprom conc dem deno desp dev disgu enterpr exc exerc expert franch improv"
        " merchand parad prec prem prom rev superv surm surpr telev treat",
    )
)
"""Words in -ise, without that ending, that have no form in -ize."""

_NO_PROSE = re.compile(
    r"``[^`]*``|`[^`]*`|\S*[_/\\{}<>=@]\S*|\b\w+(?:\.\w+)+|\b[A-Z]{2,}\b"
    r"|^\s+\*{0,2}\w+(?=:)",
    re.MULTILINE,
)
"""Code, names (also those that a list of arguments explains), paths and placeholders within a text."""
_TERMS = [(re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), advice) for pattern, advice in GLOSSARY]


@functools.cache
def american(word: str) -> str | None:
    """Return the American spelling of a British word, None for any other word."""
    lower = word.lower()
    for pattern, form in SPELLINGS:
        if match := re.fullmatch(pattern, lower):
            if "is(e|ed" in pattern and (match[1] in _ALWAYS_ISE or match[1].endswith("w")):
                return None
            return match.expand(form)
    return None


def wrong_words(text: str) -> Iterator[tuple[int, str, str]]:
    """Find the words and phrases of a text that the project does not use.

    Args:
        text: prose; code in backticks, names with underscores or dots, paths and words in capitals are skipped.

    Yields:
        Place in the text, the phrase, and what to use instead.
    """
    prose = _NO_PROSE.sub(lambda match: " " * len(match[0]), text)
    for pattern, advice in _TERMS:
        yield from ((match.start(), match[0], advice) for match in pattern.finditer(prose))
    for match in re.finditer(r"[A-Za-z]+", prose):
        if form := american(match[0]):
            yield match.start(), match[0], form
