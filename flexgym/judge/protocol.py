"""The judge protocol: pairs in, one assessment, verdict or typed failure per pair out."""

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
    "tie",
    "refused",
    "timed_out",
    "server_error",
    "raised",
]


@dataclass(frozen=True)
class JudgeFailure:
    """A judgment without a winner that can be trusted. It is counted by kind and, unless a tie, kept out of win rates.

    Attributes:
        kind: what went wrong. ``unparsable``: empty, longer than any normal reply, or without the requested JSON
            object, answer tag or score; ``truncated``: cut off before it was complete; ``echoed_template``: repeats the
            template's ``Image 1/2`` instead of a choice, or its ``X`` instead of a score; ``contradictory``: names both
            candidates as the winner, gives more than one overall verdict, or two scores for one axis; ``invalid``:
            breaks the format in another way, such as no winner, or a score out of range; ``tie``: the judge finds both
            equally good, which counts half a win for each and not towards the allowed share of failures; ``refused``:
            the judge declined, or does not support the prompt; ``timed_out``: no reply in time; ``server_error``: no
            reply at all; ``raised``: the scorer's own code raised an error.
        detail: one line for the log, including the location in the reply.
    """

    kind: FailureKind
    detail: str


Outcome = Assessment | Verdict | JudgeFailure
"""Result of one judgment: an `Assessment`, a `Verdict` for judges without categories, or a `JudgeFailure`."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two samples of a group in the order in which the judge sees them.

    Attributes:
        group: the group of both samples. All pairs of a group share it, so a judge can encode each sample once.
        first: index of the sample shown first.
        second: index of the sample shown second.
    """

    group: SampleGroup
    first: int
    second: int

    @property
    def prompt(self) -> Prompt:
        """Return the prompt that both samples were generated for."""
        return self.group.prompt

    @property
    def samples(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return both samples, uint8 ``[H, W, 3]`` (image) or ``[F, H, W, 3]`` (video) each."""
        return self.group.samples[self.first], self.group.samples[self.second]


class Judge(Protocol):
    """Interface of anything that can compare two samples of one prompt."""

    def assess(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Judge every pair.

        Args:
            pairs: pairs to compare, from any number of groups.

        Returns:
            One outcome per pair, in order. A reply that cannot be trusted is a `JudgeFailure`, not an exception.
        """
        ...
