"""Text preprocessing of the published CLIP models: cleaning and tokens.

The tokenizer of transformers neither repairs encodings nor unescapes HTML, so curly quotes and ``&amp;`` give other
tokens there, and it composes characters, which the published one does not.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from functools import cache
from typing import Any

import ftfy
import regex
from tokenizers.models import BPE

from flexgym.core.errors import CheckpointError

OPENAI_MARKS = ("<|startoftext|>", "<|endoftext|>")
"""Words of a text that OpenAI's tokenizer reads as the marks of start and end."""

OPEN_CLIP_MARKS = ("<start_of_text>", "<end_of_text>")
"""Words of a text that open_clip's tokenizer, and therefore HPSv2's, reads as the marks of start and end."""

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clean(text: str) -> str:
    """Repair the encoding of a text, unescape HTML twice, collapse white space and lower the case, as CLIP does."""
    repaired = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", repaired).strip().lower()


class ClipTokens:
    """Tokenizer of CLIP as published, on the vocabulary of a tokenizer of transformers.

    Args:
        tokenizer: a CLIP tokenizer of transformers.
        marks: words that stand for the start and the end of a text, such as `OPENAI_MARKS`.

    Raises:
        CheckpointError: if it is not a CLIP tokenizer.
    """

    def __init__(self, tokenizer: Any, marks: tuple[str, str]) -> None:
        model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
        if not isinstance(model, BPE) or model.end_of_word_suffix != "</w>":
            raise CheckpointError(
                f"expected a CLIP tokenizer, which splits words into byte pairs, got {type(tokenizer).__name__}"
            )
        self._model = model
        self._start, self._end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._marks = dict(zip(marks, (self._start, self._end), strict=True))
        self._pattern = regex.compile("|".join([*map(regex.escape, marks), _WORDS]), regex.IGNORECASE)

    def __call__(self, text: str, max_length: int) -> list[int]:
        """Return at most ``max_length`` tokens of a text, including the marks of its start and end."""
        words = [token for word in self._pattern.findall(clean(text)) for token in self._tokens(word)]
        return [self._start, *words[: max_length - 2], self._end]

    def _tokens(self, word: str) -> Iterator[int]:
        if word in self._marks:
            yield self._marks[word]
            return
        characters = _byte_characters()
        yield from (token.id for token in self._model.tokenize("".join(characters[byte] for byte in word.encode())))


@cache
def _byte_characters() -> list[str]:
    """Return the printable character that stands for each byte in the vocabulary of CLIP."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
