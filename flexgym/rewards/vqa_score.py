"""VQAScore (arXiv 2404.01291): the probability that a vision-language model says yes to the prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Unpack

import numpy as np

from flexgym.core.typed import Share
from flexgym.judge.backends.base import ChatRequest, Reply
from flexgym.judge.failures import check_failure_share, count_failures
from flexgym.judge.inputs import encode_sample
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.template import quoted
from flexgym.judge.vision_judge import ask
from flexgym.rewards.vision import JudgeSource, ModelSettings, VisionReward
from flexgym.types import GroupScores, SampleGroup

_WORDS = {"image": "figure", "video": "video"}
_ALTERNATIVES = 20  # the most that servers return


class VQAScore(VisionReward):
    """Probability that a vision-language model answers yes when asked whether the sample shows the prompt.

    The question is ``Does this figure show "{prompt}"? Please answer Yes or No.`` (arXiv 2404.01291, equation 1). One
    token is requested, with the log-probabilities of the most likely ones. The probabilities of all tokens that say
    yes, in any case and with any spaces, are added. A reply whose most likely tokens say neither yes nor no has no
    score. The model must answer directly: a reasoning model never says yes with its first token.

    Args:
        judge: addresses of OpenAI-compatible servers, a checkpoint folder, a hub id, or a backend, which is not closed.
        max_failure_share: maximum share of failed samples in a call; above it `score` raises. 1.0 never raises.
        **model: ``backend``, ``backend_settings``, ``prompt_template`` (a text with ``{prompt}`` that replaces the
            question) and ``inputs``, see `rewards.vision.ModelSettings`.

    Raises:
        ConfigError: for a setting that cannot work.
        UnknownNameError: for an unknown setting; the message names the nearest one.
    """

    def __init__(
        self, judge: JudgeSource = "", *, max_failure_share: Share = 0.5, **model: Unpack[ModelSettings]
    ) -> None:
        super().__init__(judge, model)
        self.max_failure_share = max_failure_share
        self._decoding = replace(self.wording.decoding, max_tokens=1, temperature=0.0, top_logprobs=_ALTERNATIVES)

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every sample of all groups with one call to the model.

        Raises:
            JudgeFailureShareError: if too many samples failed, see `flexgym.judge.failures.check_failure_share`.
        """
        requests = [self._request(group, index) for group in groups for index in range(len(group))]
        replies = ask(self.backend, requests, self._decoding)
        outcomes = [reply if isinstance(reply, JudgeFailure) else probability_of_yes(reply) for reply in replies]
        check_failure_share(outcomes, self.max_failure_share)
        remaining = iter(outcomes)
        return [self._scores(group, list(islice(remaining, len(group)))) for group in groups]

    def _scores(self, group: SampleGroup, outcomes: Sequence[float | JudgeFailure]) -> GroupScores:
        failed = [(index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, JudgeFailure)]
        self.failed.keep(self.name, group, failed)
        rewards = np.array([np.nan if isinstance(it, JudgeFailure) else it for it in outcomes], np.float32)
        return GroupScores(rewards=rewards, terms={self.name: rewards}, failures=count_failures(outcomes))

    def _request(self, group: SampleGroup, index: int) -> ChatRequest:
        modality, caption = group.modality, group.prompt.text
        pictures = encode_sample(group.samples[index], self.wording.inputs)
        if self.wording.template is not None:
            return ChatRequest(pictures, self.wording.template.fill(caption, modality, (len(pictures),)))
        return ChatRequest(pictures, f"Does this {_WORDS[modality]} show {quoted(caption)}? Please answer Yes or No.")


def probability_of_yes(reply: Reply) -> float | JudgeFailure:
    """Return the probability that the reply begins with yes, or a failure that says why it is unknown."""
    if not reply.first_tokens:
        return JudgeFailure("server_error", "the reply has no log-probabilities: use a backend that returns them")
    answers = {word: math.fsum(_probabilities(reply, word)) for word in ("yes", "no")}
    if not any(answers.values()):
        likeliest = ", ".join(repr(token[:20]) for token, _ in reply.first_tokens[:3])
        return JudgeFailure("invalid", f"expected a reply that begins with Yes or No; most likely are {likeliest}")
    return min(answers["yes"], 1.0)


def _probabilities(reply: Reply, word: str) -> list[float]:
    return [math.exp(value) for token, value in reply.first_tokens if token.strip().lower() == word]
