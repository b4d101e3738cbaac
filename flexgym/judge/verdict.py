"""The verdict about a pair without categories: a winner, and the dimensions that explain it.

It is what UnifiedReward-Think writes (arXiv 2505.03318). The winner alone decides; unlike the sub-dimensions of an
`Assessment`, the two scores of a dimension are given on their own and need not share ten points.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexgym.judge.assessment import Category, Label

TOP_SCORE = 10.0
"""Highest score of a dimension; the lowest is 0."""

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class VerdictDimension:
    """One dimension with the scores of both candidates.

    Attributes:
        name: such as ``"Semantic consistency"``, or one that the judge chose for the prompt.
        score_1: of the first candidate, 0 to 10.
        score_2: of the second candidate, 0 to 10.
        reason_1: what was said about the first candidate.
        reason_2: what was said about the second candidate.
    """

    name: str
    score_1: float
    score_2: float
    reason_1: str = ""
    reason_2: str = ""

    @property
    def share(self) -> float:
        """The first candidate's share of the points of both, 0 to 1; one half where both have none."""
        total = self.score_1 + self.score_2
        return self.score_1 / total if total else 0.5


@dataclass(frozen=True)
class Verdict:
    """All that a judge without categories says about one pair.

    Attributes:
        winner: label of the winner, as `flexgym.judge.assessment.normalise_label` gives it.
        dims: the dimensions that could be read; they explain and decide nothing, so there may be none.
        left_out: number of dimensions whose scores could not be read.
    """

    winner: Label
    dims: tuple[VerdictDimension, ...] = ()
    left_out: int = 0

    @property
    def side(self) -> int:
        """The winner: 0 for the first candidate, 1 for the second."""
        return 0 if self.winner.endswith("1") else 1

    @property
    def anchors(self) -> tuple[Category, ...]:
        """The mandatory categories of an `Assessment`; a verdict has none."""
        return ()

    @property
    def score_margin(self) -> float:
        """Points of the first candidate minus those of the second, summed over the dimensions."""
        return sum(dim.score_1 - dim.score_2 for dim in self.dims)

    @property
    def score_side(self) -> int | None:
        """Winner by summed scores: 0, 1, or None when the points are even."""
        margin = self.score_margin
        if abs(margin) <= _TOLERANCE:
            return None
        return 0 if margin > 0 else 1

    @property
    def consistent(self) -> bool:
        """Whether the summed scores do not contradict the winner; even sums contradict nobody."""
        return self.score_side in (None, self.side)
