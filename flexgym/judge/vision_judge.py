"""Judge that queries a vision-language model: pairs become chat requests with images, replies become judgments."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError, RewardError
from flexgym.judge.backends.base import Backend, ChatRequest, Decoding, Picture, Reply
from flexgym.judge.dialect import FLEX, Dialect
from flexgym.judge.inputs import Inputs, encode_sample
from flexgym.judge.protocol import JudgeFailure, Outcome, Pair
from flexgym.judge.template import Template
from flexgym.types import Modality, SampleGroup

Pictures = tuple[Picture, ...]


class VisionJudge:
    """Vision-language model as a `Judge`.

    Args:
        backend: backend that runs the model.
        dialect: prompt templates and reply format; UnifiedReward-Flex by default.
        template: prompt template; None uses the dialect's for images or videos.
        decoding: decoding settings; None uses greedy decoding.
        inputs: how samples are converted to model inputs; None uses the settings of UnifiedReward-Flex.

    Attributes:
        backend: backend that runs the model. It is not closed by this class.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        dialect: Dialect = FLEX,
        template: Template | None = None,
        decoding: Decoding | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.backend = backend
        self._dialect = dialect
        self._template = template
        self._decoding = decoding or Decoding()
        self._inputs = inputs or Inputs()
        self._encoded: dict[int, dict[int, Pictures]] = {}

    def assess(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Judge every pair, see `Judge.assess`; each sample of a group is encoded once.

        Raises:
            ConfigError: if a sample is neither an image nor a video.
            RewardError: if the backend does not return one reply per request.
        """
        return self._judge(
            [
                self._request(
                    pair.prompt.text,
                    (self._pictures(pair.group, pair.first), self._pictures(pair.group, pair.second)),
                    modality=pair.group.modality,
                )
                for pair in pairs
            ]
        )

    def compare(self, caption: str, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Outcome:
        """Judge two samples that may differ in size and length.

        Args:
            caption: caption that both are judged against.
            first: uint8 ``[H, W, 3]`` for an image, ``[F, H, W, 3]`` for a video.
            second: a sample of the same modality.

        Raises:
            ConfigError: if one is an image and the other a video, or a sample is neither.
        """
        modality, other = _modality(first), _modality(second)
        if modality != other:
            raise ConfigError(f"expected two images or two videos, got one {modality} and one {other}.")
        both = encode_sample(first, self._inputs), encode_sample(second, self._inputs)
        return self._judge([self._request(caption, both, modality=modality)])[0]

    def _request(self, caption: str, both: tuple[Pictures, Pictures], *, modality: Modality) -> ChatRequest:
        template = self._template or self._dialect.template(modality)
        first, second = both
        return ChatRequest(first + second, template.fill(caption, modality, (len(first), len(second))))

    def _pictures(self, group: SampleGroup, index: int) -> Pictures:
        """Encode a sample, cached for the lifetime of its group."""
        key = id(group)
        if key not in self._encoded:
            self._encoded[key] = {}
            weakref.finalize(group, self._encoded.pop, key, None).atexit = False
        cached = self._encoded[key]
        if index not in cached:
            cached[index] = encode_sample(group.samples[index], self._inputs)
        return cached[index]

    def _judge(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        parse = self._dialect.parse
        return [
            reply if isinstance(reply, JudgeFailure) else parse(reply.text, reply.finish_reason)
            for reply in ask(self.backend, requests, self._decoding)
        ]


def _modality(sample: NDArray[np.uint8]) -> Modality:
    """Return ``"image"`` if the sample has three axes, otherwise ``"video"``."""
    return "image" if sample.ndim == 3 else "video"


def ask(backend: Backend, requests: Sequence[ChatRequest], decoding: Decoding) -> list[Reply | JudgeFailure]:
    """Send all requests to a backend in one call.

    Args:
        backend: backend that runs the model.
        requests: the requests; those of one group must be adjacent.
        decoding: decoding settings.

    Returns:
        One reply or failure per request, in order.

    Raises:
        RewardError: if the backend does not return one reply per request.
    """
    replies = backend.complete(requests, decoding)
    if len(replies) != len(requests):
        raise RewardError(
            f"the backend must return one reply per request: {len(requests)} requests, {len(replies)} replies"
        )
    return replies
