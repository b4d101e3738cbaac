"""Watch the phases of an iteration, and answer for its rewards, without changing the code that trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from flexgym.generators.base import FlowGenerator
from flexgym.generators.prompt_encoder import PromptEncoder
from flexgym.reward import Reward
from flexgym.rllib import runner
from flexgym.rllib.learner import FlowLearner
from flexgym.types import GroupScores, SampleGroup

ENCODING, SAMPLING, DECODING, UPDATE = "encoding", "sampling", "decoding", "update"
GRADIENT, DATA = "reward gradient", "encoding samples"
_WORK: Sequence[tuple[Any, str, str]] = (
    (FlowLearner, "feed", DATA),
    (FlowLearner, "roll_out", SAMPLING),
    (PromptEncoder, "condition", ENCODING),
    (FlowGenerator, "decode", DECODING),
    (runner, "with_reward_gradient", GRADIENT),
    (FlowLearner, "replay_scored", UPDATE),
    (FlowLearner, "take_steps", UPDATE),
)
"""Functions of an iteration, each with the phase that it is; names are those of `flexgym.planning.plan.Phase`."""


@contextlib.contextmanager
def watched_phases(enter: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
    """Enter a context around every phase of the iterations inside.

    Args:
        enter: makes the context of a phase by its name; phases may lie within each other.
    """
    with watched_calls([(owner, name, partial(enter, phase)) for owner, name, phase in _WORK]):
        yield


@contextlib.contextmanager
def watched_calls(calls: Sequence[tuple[Any, str, Callable[[], AbstractContextManager[Any]]]]) -> Iterator[None]:
    """Enter contexts around every call of some functions.

    Args:
        calls: class or module, name of the function in it, and what makes the context.
    """
    with contextlib.ExitStack() as stack:
        for owner, name, enter in calls:
            stack.enter_context(patch.object(owner, name, _within(getattr(owner, name), enter)))
        yield


def _within(function: Callable[..., Any], enter: Callable[[], AbstractContextManager[Any]]) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        with enter():
            return function(*args, **kwargs)

    return watched


@dataclass
class HeldRewards:
    """Answers for the rewards of an iteration at once, so that no judge works beside sampling and update.

    An iteration that `record` watches shows the form of the scores. In one within `hold`, the same scores come back
    with rewards spread evenly, so that no group is without advantage.

    Attributes:
        asked: each reward with the groups that it was asked for within `hold`, in order.
    """

    asked: list[tuple[Reward, Sequence[SampleGroup]]] = field(default_factory=list)
    _answers: list[Future[list[GroupScores]]] = field(default_factory=list)

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Keep the scores of the iteration inside."""
        submit, answers = Reward.submit, self._answers
        answers.clear()

        def recorded(reward: Reward, groups: Sequence[SampleGroup]) -> Future[list[GroupScores]]:
            answers.append(submit(reward, groups))
            return answers[-1]

        with patch.object(Reward, "submit", recorded):
            yield

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Answer in place of the rewards in the iteration inside."""
        self.asked.clear()

        def held(reward: Reward, groups: Sequence[SampleGroup]) -> Future[list[GroupScores]]:
            known = self._answers[len(self.asked)].result()
            self.asked.append((reward, groups))
            answer: Future[list[GroupScores]] = Future()
            answer.set_result([_spread(scores) for scores in known])
            return answer

        with patch.object(Reward, "submit", held):
            yield


def _spread(scores: GroupScores) -> GroupScores:
    return replace(scores, rewards=np.linspace(0.0, 1.0, len(scores.rewards), dtype=np.float32))
