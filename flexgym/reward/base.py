"""The contract of rewards: groups of samples in, scores of each group out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexgym.core.arguments import recorded, recorded_arguments
from flexgym.judge import Judge, Tournament, judge_groups, make_tournament
from flexgym.reward.gradient import no_gradient_scores
from flexgym.reward.guard import FailedSamples, OneAtATime, guarded_scores, sample_scores
from flexgym.reward.known import KnownPair
from flexgym.reward.process import ScoringProcess
from flexgym.types import GroupScores, Prompt, SampleGroup

if TYPE_CHECKING:
    from torch import Tensor

_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_KEPT = ("deadline_s", "own_process", "failed")
"""Attributes that are not among the arguments of a constructor."""
_THREADS = ("_worker", "_in_time", "_process")
"""Attributes that are made anew when they are needed."""


class Reward(ABC):
    """Scores groups of finished samples.

    Attributes:
        name: name of the reward in its scores, metrics and failure counts; by default the class name in lower case
            with underscores.
        deadline_s: seconds that one call of `score` may take; None for no limit.
        own_process: True for rewards in pure Python, whose thread would hold the interpreter lock and slow the policy:
            `submit` calls `score` of a copy in a process of its own. The copy is made once, so ``score`` must not
            change the reward. Subclasses are asked again.
        pickled_as_settings: True for rewards that hold a model or connections: pickle and copy save their settings and
            build them again. The attributes of other rewards are saved, without their threads.
    """

    name: ClassVar[str] = "reward"
    deadline_s: float | None = None
    own_process: bool = False
    pickled_as_settings: ClassVar[bool] = False
    _worker: ThreadPoolExecutor | None = None
    _process: ScoringProcess | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = _WORD_STARTS.sub("_", cls.__name__).lower()
        if "own_process" not in vars(cls):
            cls.own_process = False  # it may keep what its base class does not
        if "__init__" in vars(cls):
            cls.__init__ = recorded(cls.__init__)  # type: ignore[method-assign]

    def __reduce_ex__(self, protocol: Any) -> Any:
        settings = recorded_arguments(self) if self.pickled_as_settings else None
        if settings is None:
            return super().__reduce_ex__(protocol)
        kept = {name: value for name, value in vars(self).items() if name in _KEPT}
        return _rebuilt, (type(self), settings), kept

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _THREADS}

    @abstractmethod
    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group.

        Args:
            groups: finished samples; group sizes may differ.

        Returns:
            One `GroupScores` per group. What could not be scored is NaN there and counted, not raised.
        """

    @classmethod
    def has_gradient_scores(cls) -> bool:
        """Return True for a reward that defines `gradient_scores`; nothing is built or loaded to find out."""
        return cls.gradient_scores is not Reward.gradient_scores

    def gradient_scores(self, pixels: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Score samples of real numbers, with gradients to their pixels; only some rewards can.

        On the pixels of finished samples the values are those of `score`, up to what `score` rounds on the way. The
        score of a row depends on that row alone.

        Args:
            pixels: ``[B, 3, H, W]`` or ``[B, 3, F, H, W]``, from 0 to 1. Values beyond are clamped and get no gradient.
            prompts: B of them.

        Returns:
            float32 ``[B]``, higher is better. No parameter of the reward gets a gradient.

        Raises:
            ConfigError: this reward has no gradients, see `has_gradient_scores`, or it cannot score such pixels.
        """
        raise no_gradient_scores(self.name)

    def guarded(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Call `score` and turn whatever goes wrong into failed samples; wrappers and agents call this.

        A reward that raises, answers in another form than agreed, with NaN or infinity, or not within ``deadline_s``
        has failed on these samples: they are NaN, counted under its name and kept in `failed`.

        Args:
            groups: as for `score`.

        Returns:
            One `GroupScores` per group, whatever the reward does.

        Raises:
            FlexGymError: raised by the reward on purpose, for example because no judge server is left.
        """
        return self._guarded(self.score, groups)

    def _guarded(
        self, score: Callable[[Sequence[SampleGroup]], list[GroupScores]], groups: Sequence[SampleGroup]
    ) -> list[GroupScores]:
        def scored() -> list[GroupScores]:
            if self.deadline_s is None:
                return score(groups)
            return self._in_time.call(lambda: score(groups), self.deadline_s)

        return guarded_scores(self.name, groups, scored, failed=self.failed)

    def _score_apart(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score in the process of this reward if it has one."""
        answer = self._process.answer(groups) if self._process else None
        return self.score(groups) if answer is None else answer.unpacked(self.failed)

    @cached_property
    def failed(self) -> FailedSamples:
        """The latest samples without a score; `keep_failed` changes where they are kept."""
        return FailedSamples()

    def keep_failed(self, failed: FailedSamples) -> None:
        """Keep samples without a score in ``failed`` from now on."""
        self.failed = failed

    @cached_property
    def _in_time(self) -> OneAtATime:
        return OneAtATime()

    def start(self) -> None:
        """Start the thread and the process of `submit`, without waiting for them; `submit` does if nobody has."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"reward-{self.name}")
            self._process = ScoringProcess.of(self) if self.own_process else None

    def submit(self, groups: Sequence[SampleGroup]) -> Future[list[GroupScores]]:
        """Score in the background, so that judging overlaps with the next rollout.

        A single thread works through the submissions in order, so a reward needs no locks as long as nobody calls
        `score` at the same time. With `own_process` it passes them to a process.

        Args:
            groups: as for `score`; do not write to the arrays before the future is done.

        Returns:
            The future of what `guarded` returns.
        """
        self.start()
        assert self._worker is not None
        return self._worker.submit(self._guarded, self._score_apart, groups)

    @classmethod  # noqa: B027 (nothing more to check by default)
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Reject settings that cannot work, without building or loading anything; accepts all by default.

        Names, and types where the constructor is annotated, are checked before. Override this to check more, such as
        the fields of a nested mapping.

        Args:
            settings: keyword arguments of the constructor.

        Raises:
            ConfigError: if a value cannot work.
        """

    @classmethod
    def processes(cls, settings: Mapping[str, Any]) -> int:
        """Return the number of processes that a reward with such settings starts, see `own_process`."""
        chosen = settings.get("own_process")
        return int(cls.own_process if chosen is None else chosen)

    def known_pairs(self) -> list[KnownPair] | None:
        """Return samples that a correctly set up reward must rank as given, for ``rewards.validate``.

        Returns:
            The pairs; None, the default, for images of shapes with captions that fit one of them.
        """
        return None

    def metrics(self) -> dict[str, float]:
        """Return metrics of the reward's own work, such as tokens and latency; logged under ``judge/``."""
        return {}

    def close(self) -> None:
        """Wait for submitted work and end thread and process; a later `submit` starts new ones."""
        if self._worker is not None:
            self._worker.shutdown(wait=True)
            self._worker = None
        if self._process is not None:
            self._process.close()
            self._process = None


def _rebuilt(cls: type[Reward], settings: Mapping[str, Any]) -> Reward:
    return cls(**settings)


class PointwiseReward(Reward):
    """A reward that scores one sample at a time; only `score_samples` has to be written."""

    @abstractmethod
    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> ArrayLike:
        """Score the samples of one prompt.

        Args:
            prompt: the prompt that the samples were generated for.
            samples: uint8 ``[n, H, W, 3]`` or ``[n, F, H, W, 3]``.

        Returns:
            Numbers ``[n]``, higher is better; NaN for a sample that cannot be scored. An exception fails all n.
        """

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group; samples that fail are NaN and counted under the reward's name."""
        return [self.score_group(group, partial(self.score_samples, group.prompt, group.samples)) for group in groups]

    def score_group(self, group: SampleGroup, scorer: Callable[[], ArrayLike]) -> GroupScores:
        """Score one group with a scorer that may fail, for rewards that prepare many groups together.

        Args:
            group: the group.
            scorer: returns what `score_samples` returns. If it raises, all samples of the group are NaN and counted.
        """
        rewards, failures = sample_scores(scorer, len(group))
        self.failed.keep(self.name, group, failures)
        return GroupScores(
            rewards=rewards,
            terms={self.name: rewards},
            failures={self.name: len(failures)} if failures else {},
        )


class JudgeReward(Reward):
    """A reward from pairwise judgments: every group holds a tournament.

    Args:
        judge: compares the pairs.
        tournament: the schedule and how verdicts become rewards, or the fields of a `Tournament` by name; the settings
            of the paper if None.
    """

    def __init__(self, judge: Judge, tournament: Tournament | Mapping[str, Any] | None = None) -> None:
        self.judge = judge
        self.tournament = make_tournament(tournament)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Check the fields of the tournament."""
        make_tournament(settings.get("tournament"))

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Judge the pairs of all groups together; `flexgym.judge.tournament_scores` explains the terms."""
        return judge_groups(self.judge, groups, tournament=self.tournament)
