"""Verdicts about a pair without categories: a winner and the dimensions that explain it.

UnifiedReward-Think (arXiv 2505.03318) writes replies of this form. Only the winner affects rewards. Unlike the
sub-dimensions of an `Assessment`, the two scores of a dimension are independent and need not sum to 10.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexgym.judge.assessment import Category, Label

TOP_SCORE = 10.0
"""Highest score of a dimension. The lowest is 0."""

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class VerdictDimension:
    """One dimension with the scores of both candidates.

    Attributes:
        name: name of the dimension, such as ``"Semantic consistency"``, or one that the judge chose for the prompt.
        score_1: score of the first candidate, 0 to 10.
        score_2: score of the second candidate, 0 to 10.
        reason_1: the judge's comment on the first candidate.
        reason_2: the judge's comment on the second candidate.
    """

    name: str
    score_1: float
    score_2: float
    reason_1: str = ""
    reason_2: str = ""

    @property
    def share(self) -> float:
        """Return the first candidate's share of the points of both, 0 to 1; one half if both have none."""
        total = self.score_1 + self.score_2
        return self.score_1 / total if total else 0.5


@dataclass(frozen=True)
class Verdict:
    """Answer of a judge without categories about one pair.

    Attributes:
        winner: label of the winner, as returned by `flexgym.judge.assessment.normalise_label`.
        dims: the dimensions that could be parsed; may be empty, since they do not affect the outcome.
        left_out: number of dimensions whose scores could not be parsed.
    """

    winner: Label
    dims: tuple[VerdictDimension, ...] = ()
    left_out: int = 0

    @property
    def side(self) -> int:
        """Return the winner: 0 for the first candidate, 1 for the second."""
        return 0 if self.winner.endswith("1") else 1

    @property
    def anchors(self) -> tuple[Category, ...]:
        """Return an empty tuple, since a verdict has none of the mandatory categories of an `Assessment`."""
        return ()

    @property
    def score_margin(self) -> float:
        """Return the first candidate's points minus the second's, summed over the dimensions."""
        return sum(dim.score_1 - dim.score_2 for dim in self.dims)

    @property
    def score_side(self) -> int | None:
        """Return the winner by summed scores: 0, 1, or None for a tie."""
        margin = self.score_margin
        if abs(margin) <= _TOLERANCE:
            return None
        return 0 if margin > 0 else 1

    @property
    def consistent(self) -> bool:
        """Return True if the summed scores do not contradict the winner; a tie contradicts neither."""
        return self.score_side in (None, self.side)
