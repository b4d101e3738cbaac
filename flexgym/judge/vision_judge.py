"""The judge that looks: pairs become chat requests with pictures, replies become judgements."""

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
from flexgym.judge.template import Kind, Template
from flexgym.types import SampleGroup

Pictures = tuple[Picture, ...]


class VisionJudge:
    """A vision-language model as a `Judge`.

    Args:
        backend: who runs the model.
        dialect: how the model is asked and how it answers; that of UnifiedReward-Flex by default.
        template: the text below the pictures; the dialect's for images or videos when None.
        decoding: how replies are sampled; greedily when None.
        inputs: how samples are turned into pictures; as the authors of UnifiedReward-Flex do when None.

    Attributes:
        backend: who runs the model; whoever made it closes it.
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
            ConfigError: a sample that is no image and no video.
            RewardError: the backend did not answer once per request.
        """
        return self._judge(
            [
                self._request(
                    pair.prompt.text,
                    (self._pictures(pair.group, pair.first), self._pictures(pair.group, pair.second)),
                    kind=sample_kind(pair.samples[0]),
                )
                for pair in pairs
            ]
        )

    def compare(self, caption: str, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Outcome:
        """Judge two samples that may differ in size and length.

        Args:
            caption: what both are judged against.
            first: uint8 ``[H, W, 3]`` for an image, ``[F, H, W, 3]`` for a video.
            second: of the same kind.

        Raises:
            ConfigError: an image against a video, or a sample that is neither.
        """
        kinds = sample_kind(first), sample_kind(second)
        if kinds[0] != kinds[1]:
            raise ConfigError(f"expected two images or two videos, got one {kinds[0]} and one {kinds[1]}.")
        both = encode_sample(first, self._inputs), encode_sample(second, self._inputs)
        return self._judge([self._request(caption, both, kind=kinds[0])])[0]

    def _request(self, caption: str, both: tuple[Pictures, Pictures], *, kind: Kind) -> ChatRequest:
        template = self._template or self._dialect.template(kind)
        first, second = both
        return ChatRequest(first + second, template.fill(caption, kind, (len(first), len(second))))

    def _pictures(self, group: SampleGroup, index: int) -> Pictures:
        """The pictures of a sample, encoded once for as long as its group lives."""
        key = id(group)
        if key not in self._encoded:
            self._encoded[key] = {}
            weakref.finalize(group, self._encoded.pop, key, None).atexit = False
        mine = self._encoded[key]
        if index not in mine:
            mine[index] = encode_sample(group.samples[index], self._inputs)
        return mine[index]

    def _judge(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        parse = self._dialect.parse
        return [
            reply if isinstance(reply, JudgeFailure) else parse(reply.text, reply.finish_reason)
            for reply in ask(self.backend, requests, self._decoding)
        ]


def sample_kind(sample: NDArray[np.uint8]) -> Kind:
    """What a sample is: an image with three axes, a video with four."""
    return "image" if sample.ndim == 3 else "video"


def ask(backend: Backend, requests: Sequence[ChatRequest], decoding: Decoding) -> list[Reply | JudgeFailure]:
    """Send requests in one call.

    Args:
        backend: who answers.
        requests: those of one group together.
        decoding: how replies are sampled.

    Returns:
        One reply or failure per request, in order.

    Raises:
        RewardError: the backend did not answer once per request.
    """
    replies = backend.complete(requests, decoding)
    if len(replies) != len(requests):
        raise RewardError(f"the backend must answer once per request: {len(requests)} asked, {len(replies)} told")
    return replies
