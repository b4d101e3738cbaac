"""What a reward is: groups of samples in, scores of each group out.

A new reward is one new file in this package with one class marked by `register`; its Gymnasium wrapper, its vector twin
and its name for `rewards.make` follow from that class.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexgym.core.errors import ConfigError, check_names
from flexgym.judge import Judge, Tournament, judge_groups, make_tournament
from flexgym.types import GroupScores, Prompt, SampleGroup
from rewards.guard import FailedSamples, OneAtATime, checked_deadline, guarded_scores, sample_scores
from rewards.known import KnownPair, fitting_and_other_prompt

PROTOCOL_SETTINGS = ("deadline_s", "failed_samples")
"""Settings that every reward takes besides its own, see `build`."""


class Reward(ABC):
    """Scores groups of finished samples.

    Attributes:
        name: how the reward is called in `rewards.make`, in the terms of its scores and in its failure counts; by
            default the class's name with underscores.
        deadline_s: seconds that one call of `score` may take; None for no limit.
    """

    name: ClassVar[str] = "reward"
    deadline_s: float | None = None
    _worker: ThreadPoolExecutor | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    @abstractmethod
    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group.

        Args:
            groups: finished samples; group sizes may differ.

        Returns:
            One `GroupScores` per group. What could not be scored is NaN there and counted, not raised.
        """

    def guarded(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """`score` under the protocol: what everything that uses a reward calls.

        A reward that raises, answers in another form than agreed, with NaN or infinity, or not within ``deadline_s``
        has failed on these samples: they are NaN, counted under its name and kept in `failed`.

        Args:
            groups: as for `score`.

        Returns:
            One `GroupScores` per group, whatever the reward does.

        Raises:
            FlexGymError: what the reward says on purpose, such as that no judge server is left.
        """

        def scored() -> list[GroupScores]:
            if self.deadline_s is None:
                return self.score(groups)
            return self._in_time.call(lambda: self.score(groups), self.deadline_s)

        return guarded_scores(self.name, groups, scored, failed=self.failed)

    @cached_property
    def failed(self) -> FailedSamples:
        """The latest samples that got no score; `keep_failed` has them written to a folder."""
        return FailedSamples()

    def keep_failed(self, failed: FailedSamples) -> None:
        """Keep samples without a score there from now on."""
        self.failed = failed

    @cached_property
    def _in_time(self) -> OneAtATime:
        return OneAtATime()

    def submit(self, groups: Sequence[SampleGroup]) -> Future[list[GroupScores]]:
        """Score in the background, so that judging overlaps with the next rollout.

        Submissions are worked off one after the other by a single thread, so a reward needs no locks as long as
        nobody calls `score` beside it.

        Args:
            groups: as for `score`; the arrays must not be written to until the future is done.

        Returns:
            The future of what `guarded` returns.
        """
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"reward-{self.name}")
        return self._worker.submit(self.guarded, groups)

    def known_pairs(self) -> list[KnownPair]:
        """Samples that it must tell apart when it is set up right, for `rewards.validate`.

        By default pictures of shapes and captions that fit one of them.
        """
        return fitting_and_other_prompt()

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
        rewards, failures = sample_scores(scorer, len(group))
        self.failed.keep(self.name, group, failures)
        return GroupScores(
            rewards=rewards,
            terms={self.name: rewards},
            failures={self.name: len(failures)} if failures else {},
        )


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


def build(cls: Callable[..., Reward], settings: Mapping[str, Any]) -> Reward:
    """A reward with its settings and with those of the protocol.

    Args:
        cls: the reward's class.
        settings: its keyword arguments, and for every reward ``deadline_s``, see `Reward`, and ``failed_samples``, a
            folder that samples without a score are written to.

    Raises:
        UnknownNameError: a setting that the reward does not have; the message holds the nearest one.
        ConfigError: a setting that cannot work or is missing.
    """
    own = {name: value for name, value in settings.items() if name not in PROTOCOL_SETTINGS}
    known = _setting_names(cls)
    if known is not None:
        check_names(f"setting of {getattr(cls, 'name', 'the reward')}", own, [*known, *PROTOCOL_SETTINGS])
    deadline_s = checked_deadline(settings.get("deadline_s"))
    try:
        inspect.signature(cls).bind(**own)
    except TypeError as error:
        raise ConfigError(f"{getattr(cls, 'name', cls)}: {error}") from None
    reward = cls(**own)
    if deadline_s is not None:
        reward.deadline_s = deadline_s
    if settings.get("failed_samples") is not None:
        reward.keep_failed(FailedSamples(settings["failed_samples"]))
    return reward


def _setting_names(cls: Callable[..., Reward]) -> list[str] | None:
    """The keyword arguments of a reward; None where it takes any and checks them itself."""
    parameters = inspect.signature(cls).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


def registered() -> dict[str, type[Reward]]:
    """The classes registered so far, by `name_key`; `rewards.names` also knows those not imported yet."""
    return dict(_CLASSES)


def name_key(name: Any) -> str:
    """What ``"clip_score"`` and ``"CLIPScore"`` have in common."""
    return str(name).replace("_", "").lower()
