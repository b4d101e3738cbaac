"""Backend protocol: chat requests with images in, one reply or one typed failure per request out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from flexgym.judge.protocol import JudgeFailure


@dataclass(frozen=True)
class Picture:
    """One encoded image of a request.

    Attributes:
        data: bytes of the encoded file.
        media_type: ``"image/jpeg"`` or ``"image/png"``.
        id: hash of ``data``. Images with the same id are identical, so a backend can encode and send each one once.
    """

    data: bytes = field(repr=False)
    media_type: str
    id: str


@dataclass(frozen=True)
class ChatRequest:
    """One user message: all images in order, followed by the text.

    Attributes:
        pictures: images in the order in which the model sees them.
        text: text after the images.
    """

    pictures: tuple[Picture, ...]
    text: str


@dataclass(frozen=True)
class Decoding:
    """Decoding settings. They are always sent in full, since servers otherwise use the checkpoint's defaults.

    Attributes:
        max_tokens: maximum number of generated tokens; longer replies are cut off and count as truncated.
        temperature: sampling temperature; 0 is greedy.
        seed: sampling seed, used if the temperature is above 0.
        json_schema: JSON schema that constrains the reply; None lets the model write freely, as it was trained to.
        top_logprobs: number of most likely first tokens to return with their log-probabilities; servers allow up to 20.
    """

    max_tokens: int = 2048
    temperature: float = 0.0
    seed: int = 0
    json_schema: Mapping[str, Any] | None = None
    top_logprobs: int = 0


@dataclass(frozen=True)
class Reply:
    """Reply of a model to one request.

    Attributes:
        text: text of the reply.
        finish_reason: ``"stop"``, or ``"length"`` if the reply was cut off.
        prompt_tokens: number of prompt tokens, including images.
        completion_tokens: number of generated tokens.
        cached_tokens: number of prompt tokens that came from a prefix cache.
        seconds: time from sending the request to the last token, in seconds.
        first_tokens: the most likely first tokens with their log-probabilities, most likely first, if requested by
            `Decoding.top_logprobs`.
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
    """Interface of anything that answers chat requests with images."""

    def complete(self, requests: Sequence[ChatRequest], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """Answer every request.

        Args:
            requests: any number of requests. Those of one group should be adjacent and sorted by their first image, so
                that a prefix cache can be reused.
            decoding: decoding settings.

        Returns:
            One reply or failure (``timed_out``, ``server_error``) per request, in order.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Return counters since creation: requests, tokens, bytes sent, latency percentiles, cache hits."""
        ...

    def close(self) -> None:
        """Release connections, processes and memory."""
        ...
