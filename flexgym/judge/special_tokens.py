"""Special tokens of a tokenizer inside texts, where they would end a message or stand for an image."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


class SpecialTokens:
    """The tokens that a tokenizer takes for more than text, wherever they are.

    Args:
        tokenizer: a tokenizer of transformers. Added tokens that are not special, such as ``<think>``, are text.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        words = sorted(added.union(map(str, tokenizer.all_special_tokens)), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, words)) or "(?!)")

    def found_in(self, texts: Iterable[str]) -> str | None:
        """Return the first special token in some texts; None if there is none."""
        return next((found[0] for text in texts if (found := self._pattern.search(text))), None)
