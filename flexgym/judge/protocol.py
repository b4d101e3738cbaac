"""What a judge is: pairs in, one assessment, verdict or typed failure per pair out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flexgym.judge.assessment import Assessment
from flexgym.judge.verdict import Verdict
from flexgym.types import Prompt, SampleGroup

FailureKind = Literal[
    "unparsable",
    "truncated",
    "echoed_template",
    "contradictory",
    "invalid",
    "refused",
    "timed_out",
    "server_error",
    "raised",
]


@dataclass(frozen=True)
class JudgeFailure:
    """A judgement that cannot be trusted; it is counted by kind and takes part in no win rate.

    Attributes:
        kind: ``unparsable`` empty, longer than any honest reply, or without the JSON object, answer tag or score that
            was asked for; ``truncated`` cut off before it was whole; ``echoed_template`` the template's ``Image 1/2``
            in place of a choice, or its ``X`` in place of a score; ``contradictory`` both named as the winner, more
            than one overall verdict, or two scores for one axis; ``invalid`` any other departure from the format, such
            as no winner, a score out of range, or scores that do not share ten points; ``refused`` the judge declined,
            or cannot know the prompt; ``timed_out`` no reply in time; ``server_error`` no reply at all; ``raised``
            the scorer's own code raised an error.
        detail: one line for the log, with the place in the reply.
    """

    kind: FailureKind
    detail: str


Outcome = Assessment | Verdict | JudgeFailure
"""What becomes of one judgement: a `Verdict` from judges that know no categories."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two samples of a group in the order in which the judge sees them.

    Attributes:
        group: where both come from; shared by all pairs of the group, so a judge may prepare each sample once.
        first: index of the sample shown as number 1.
        second: index of the sample shown as number 2.
    """

    group: SampleGroup
    first: int
    second: int

    @property
    def prompt(self) -> Prompt:
        """What both samples were generated for."""
        return self.group.prompt

    @property
    def samples(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Both samples, uint8 ``[H, W, 3]`` or ``[F, H, W, 3]`` each."""
        return self.group.samples[self.first], self.group.samples[self.second]


class Judge(Protocol):
    """Anything that can compare two samples of one prompt."""

    def assess(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Judge every pair.

        Args:
            pairs: what to compare, of any number of groups.

        Returns:
            One outcome per pair, in order. A reply that cannot be trusted is a `JudgeFailure`, not an exception.
        """
        ...
