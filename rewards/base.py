"""What a reward is: groups of samples in, scores of each group out.

A new reward is one new file in this package with one class marked by `register`; its Gymnasium wrapper, its vector twin
and its name for `rewards.make` follow from that class.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexgym.errors import ConfigError
from flexgym.judge import Judge, Tournament, judge_groups, make_tournament
from flexgym.types import GroupScores, Prompt, SampleGroup

logger = logging.getLogger(__name__)

# Everything that a scorer's own code, its libraries or its data can raise while it works on one group. What stops the
# process (memory exhausted, interruption) is not a failed score and passes through.
SCORER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Reward(ABC):
    """Scores groups of finished samples.

    Attributes:
        name: how the reward is called in `rewards.make`, in the terms of its scores and in its failure counts.
    """

    name: ClassVar[str] = "reward"
    _worker: ThreadPoolExecutor | None = None

    @abstractmethod
    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group.

        Args:
            groups: finished samples; group sizes may differ.

        Returns:
            One `GroupScores` per group. What could not be scored is NaN there and counted, not raised.
        """

    def submit(self, groups: Sequence[SampleGroup]) -> Future[list[GroupScores]]:
        """Score in the background, so that judging overlaps with the next rollout.

        Submissions are worked off one after the other by a single thread, so a reward needs no locks as long as
        nobody calls `score` beside it.

        Args:
            groups: as for `score`; the arrays must not be written to until the future is done.

        Returns:
            The future of what `score` returns.
        """
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"reward-{self.name}")
        return self._worker.submit(self.score, groups)

    def metrics(self) -> dict[str, float]:
        """What the reward says of its own work, such as tokens and latency; logged under ``judge/``."""
        return {}

    def close(self) -> None:
        """Wait for submitted work and let go of the worker thread; a later `submit` starts a new one."""
        if self._worker is not None:
            self._worker.shutdown(wait=True)
            self._worker = None


class PointwiseReward(Reward):
    """A reward that looks at one sample at a time; only `score_samples` has to be written."""

    @abstractmethod
    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score the samples of one prompt.

        Args:
            prompt: what they were generated for.
            samples: uint8 ``[n, H, W, 3]`` or ``[n, F, H, W, 3]``.

        Returns:
            ``[n]``, higher is better; NaN for a sample that cannot be scored. An exception fails all n.
        """

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group; samples that fail are NaN and counted under the reward's name."""
        return [self.score_group(group, partial(self.score_samples, group.prompt, group.samples)) for group in groups]

    def score_group(self, group: SampleGroup, scorer: Callable[[], ArrayLike]) -> GroupScores:
        """The scores of one group by a scorer that may fail, for rewards that prepare many groups together.

        Args:
            group: what is scored.
            scorer: gives what `score_samples` gives. When it raises, all samples of this group are NaN and counted.
        """
        rewards = self._guarded_scores(group, scorer)
        failed = int(np.isnan(rewards).sum())
        return GroupScores(
            rewards=rewards,
            terms={self.name: rewards},
            failures={self.name: failed} if failed else {},
        )

    def _guarded_scores(self, group: SampleGroup, scorer: Callable[[], ArrayLike]) -> NDArray[np.float32]:
        """Scores of a group, float32 ``[G]``, with NaN for every one that is not a finite number."""
        unscored = np.full(len(group), np.nan, dtype=np.float32)
        try:
            scores = np.asarray(scorer(), dtype=np.float64)
        except SCORER_ERRORS as error:
            logger.warning("%s failed on %r: %s: %s", self.name, group.prompt.text, type(error).__name__, error)
            return unscored
        if scores.shape != unscored.shape:
            logger.warning("%s must return shape %s, got %s", self.name, unscored.shape, scores.shape)
            return unscored
        # The bound of float32 counts as well: beyond it the cast would make infinity.
        usable = np.abs(scores) <= np.finfo(np.float32).max
        return np.where(usable, scores, np.nan).astype(np.float32)


class JudgeReward(Reward):
    """A reward from pairwise judgements: every group holds a tournament.

    Args:
        judge: who compares the pairs.
        tournament: who meets whom and how verdicts become rewards, or the fields of such a `Tournament` by name; the
            paper's settings when None.
    """

    def __init__(self, judge: Judge, tournament: Tournament | Mapping[str, Any] | None = None) -> None:
        self.judge = judge
        self.tournament = make_tournament(tournament)

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Judge the pairs of all groups together; see `flexgym.judge.tournament_scores` for the terms."""
        return judge_groups(self.judge, groups, tournament=self.tournament)


_CLASSES: dict[str, type[Reward]] = {}
RewardClass = TypeVar("RewardClass", bound=type[Reward])


def register(name: str) -> Callable[[RewardClass], RewardClass]:
    """Class decorator that makes a reward known by name.

    Args:
        name: in lower case with underscores, and the file's name for rewards of this package. The class is called
            the same in capitals: ``clip_score`` and ``CLIPScore``.

    Raises:
        ConfigError: when name and class name do not agree, or the name is taken by another class.
    """

    def decorate(cls: RewardClass) -> RewardClass:
        key = name_key(name)
        if key != name_key(cls.__name__):
            raise ConfigError(f"reward {name!r} must be a class of the same name in capitals, got {cls.__name__!r}")
        known = _CLASSES.get(key)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"reward name {name!r} is taken by {known.__module__}.{known.__qualname__}")
        cls.name = name
        _CLASSES[key] = cls
        return cls

    return decorate


def registered() -> dict[str, type[Reward]]:
    """The classes registered so far, by `name_key`; `rewards.names` also knows those not imported yet."""
    return dict(_CLASSES)


def name_key(name: Any) -> str:
    """What ``"clip_score"`` and ``"CLIPScore"`` have in common."""
    return str(name).replace("_", "").lower()
