"""What a backend is: chat requests with pictures in, one reply or one typed failure per request out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from flexgym.judge.protocol import JudgeFailure


@dataclass(frozen=True)
class Picture:
    """One image in the form in which it is sent.

    Attributes:
        data: the encoded file.
        media_type: ``"image/jpeg"`` or ``"image/png"``.
        id: hash of ``data``; pictures of one id are the same, so a backend may encode and send each once.
    """

    data: bytes = field(repr=False)
    media_type: str
    id: str


@dataclass(frozen=True)
class ChatRequest:
    """One user message: all pictures in their order, then the text.

    Attributes:
        pictures: in the order in which the model sees them.
        text: what follows the pictures.
    """

    pictures: tuple[Picture, ...]
    text: str


@dataclass(frozen=True)
class Decoding:
    """How a reply is sampled; always sent in full, since servers otherwise take defaults from the checkpoint.

    Attributes:
        max_tokens: after so many the reply is cut off and counts as truncated.
        temperature: 0 is greedy.
        seed: of the sampling, for temperatures above 0.
        json_schema: a schema that the reply must follow; None lets the model write freely, as it was trained to.
        top_logprobs: how many of the likeliest first tokens are told with their log-probabilities; servers allow 20.
    """

    max_tokens: int = 2048
    temperature: float = 0.0
    seed: int = 0
    json_schema: Mapping[str, Any] | None = None
    top_logprobs: int = 0


@dataclass(frozen=True)
class Reply:
    """What a model wrote.

    Attributes:
        text: the reply.
        finish_reason: ``"stop"``, or ``"length"`` when it was cut off.
        prompt_tokens: tokens read, pictures included.
        completion_tokens: tokens written.
        cached_tokens: those of the tokens read that came from a prefix cache.
        seconds: from sending to the last token.
        first_tokens: the likeliest first tokens and their log-probabilities, where `Decoding.top_logprobs` asks for
            them, the likeliest first.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    first_tokens: tuple[tuple[str, float], ...] = ()


@runtime_checkable
class Backend(Protocol):
    """Anything that answers chat requests with pictures."""

    def complete(self, requests: Sequence[ChatRequest], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """Answer every request.

        Args:
            requests: any number; requests of one group stand together and share their first picture in runs, so that
                a prefix cache helps.
            decoding: how replies are sampled.

        Returns:
            One reply or failure (``timed_out``, ``server_error``) per request, in order.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Counters since the backend was made: requests, tokens, bytes sent, latency percentiles, cache hits."""
        ...

    def close(self) -> None:
        """Let go of connections, processes and memory."""
        ...
