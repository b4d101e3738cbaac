"""Compute figures from judgments of labeled pairs: shares with confidence intervals, overall and by category.

The unit of observation is the pair, since the two orders of one pair are not independent. Failed judgments and ties
are always visible: accuracy is reported with failures counted as wrong and with failures dropped, and tied labels are
counted separately.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flexgym.core.intervals import CONFIDENCE, wilson
from flexgym.data.problems import DataError
from flexgym.data.schema import Side

TieRule = Literal["left_out", "scored", "refused"]
"""Handling of pairs with a tied label: not judged, judged and scored with three classes, or counted as bad rows."""

_RESAMPLES = 2000
_CELLS = 2**22  # maximum number of bootstrap values in memory at a time
_SEED = 0


@dataclass(frozen=True)
class Vote:
    """One judgment of a pair.

    Attributes:
        swapped: True if the pair's second candidate was shown first.
        position: position of the winner: 0 if shown first, 1 if shown second; None if the judgment failed.
        failure: kind of the failure; ``"tie"`` if the judge found both equally good.
        margin: points of the candidate shown first minus those of the other, summed over all criteria.
    """

    swapped: bool
    position: int | None
    failure: str | None = None
    margin: float = 0.0

    @property
    def side(self) -> int | None:
        """Return the winner in the pair's own order of candidates, 0 or 1; None if the judgment failed."""
        return None if self.position is None else self.position ^ self.swapped


@dataclass(frozen=True)
class PairResult:
    """A judge's results for one pair, without images and replies.

    Attributes:
        id: id of the pair in its source.
        category: category used to break down results.
        label: labeled winner; None for a tie.
        votes: one vote per order; empty if the pair was not judged.
    """

    id: str | None
    category: str | None
    label: Side
    votes: tuple[Vote, ...] = ()

    @property
    def verdict(self) -> int | None:
        """Return the winner on which all orders agree; None if they differ, which is a tie, or if one failed."""
        sides = {vote.side for vote in self.votes}
        return sides.pop() if len(sides) == 1 else None

    @property
    def num_valid(self) -> int:
        """Return the number of judgments that did not fail."""
        return sum(vote.position is not None for vote in self.votes)

    @property
    def lead(self) -> float:
        """Return the points by which the first candidate leads, mean over valid orders; 0 if there are none."""
        leads = [-vote.margin if vote.swapped else vote.margin for vote in self.votes if vote.position is not None]
        return sum(leads) / len(leads) if leads else 0.0

    def to_row(self) -> dict[str, Any]:
        """Return plain values: the winner in each order, or why there is none, and the lead of the first candidate."""
        winners = ["failed: " + vote.failure if vote.failure else vote.side for vote in self.votes]
        return {"id": self.id, "category": self.category, "label": self.label, "said": winners, "lead": self.lead}


@dataclass(frozen=True)
class Share:
    """A share with its confidence interval.

    Attributes:
        value: the share, 0 to 1; NaN if there are no observations.
        low: lower end of the interval at level `CONFIDENCE`.
        high: upper end of the interval.
        pairs: number of pairs that it is computed from.
    """

    value: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Figures:
    """Figures of a judge on a set of pairs.

    Attributes:
        pairs: number of pairs.
        ties: number of pairs with a tied label.
        judgements: number of judgments, over all orders.
        accuracy: share of judgments that name the labeled winner, among pairs that have one; failures count as wrong.
        accuracy_dropped: accuracy without the failed judgments.
        strict: share of pairs for which all orders name the labeled winner, among pairs that have one; undecided pairs
            count as wrong, as in MJ-Bench-Video (arXiv 2502.01719).
        tie_aware: the same, but a pair counts half if the judge finds both equal or its orders name different winners.
            Failures count as wrong.
        accuracy_with_ties: share of pairs, including ties, for which the judge agrees with the label, where two orders
            with different winners count as a tie and a failure as wrong. None if ties are not scored, or only one
            order was judged.
        accuracy_with_leads: accuracy with ties, where a pair counts as a tie if neither candidate leads by more points
            than a threshold. The threshold is the best one for these pairs (tie calibration, arXiv 2305.14324), so this
            is slightly optimistic. None if ties are not scored, or the judge gives no points.
        order_consistency: share of pairs with the same winner in both orders, among pairs valid in both.
        first_position_rate: share of valid judgments that name the candidate shown first; 0.5 without position bias.
        failure_share: share of judgments that failed.
        failures: share of judgments that failed, by kind.
    """

    pairs: int
    ties: int
    judgements: int
    accuracy: Share
    accuracy_dropped: Share
    strict: Share
    tie_aware: Share
    accuracy_with_ties: Share | None
    accuracy_with_leads: float | None
    order_consistency: Share
    first_position_rate: Share
    failure_share: Share
    failures: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """Figures of an evaluation.

    Attributes:
        overall: figures of all pairs.
        categories: figures by category, in alphabetical order; pairs without a category only count in ``overall``.
    """

    overall: Figures
    categories: dict[str, Figures]


def summarize(results: Iterable[PairResult], *, ties: TieRule = "left_out") -> Summary:
    """Compute the figures of judged pairs, overall and by category.

    Args:
        results: results of `Evaluation.results`.
        ties: how tied labels were handled.

    Raises:
        DataError: if there are no results.
    """
    known = list(results)
    if not known:
        raise DataError("expected at least one pair to evaluate on, got none")
    names = sorted({result.category for result in known if result.category is not None})
    by_name = {name: [result for result in known if result.category == name] for name in names}
    return Summary(figures(known, ties=ties), {name: figures(members, ties=ties) for name, members in by_name.items()})


def figures(results: Sequence[PairResult], *, ties: TieRule = "left_out") -> Figures:
    """Compute the figures of a set of judged pairs; see `summarize`."""
    judged = [result for result in results if result.votes]
    decided = [result for result in judged if result.label is not None]
    votes = [vote for result in judged for vote in result.votes]
    kinds = Counter(vote.failure for vote in votes if vote.failure is not None)
    right = [sum(vote.side == result.label for vote in result.votes) for result in decided]
    met = [result for result in judged if len(result.votes) == result.num_valid == 2]
    scored = judged if ties == "scored" else []
    in_both = any(len(result.votes) == 2 for result in scored)
    return Figures(
        pairs=len(results),
        ties=sum(result.label is None for result in results),
        judgements=len(votes),
        accuracy=share(right, [len(result.votes) for result in decided]),
        accuracy_dropped=share(right, [result.num_valid for result in decided]),
        strict=share([_halves(result) // 2 for result in decided], [1] * len(decided)),
        tie_aware=share([_halves(result) for result in decided], [2] * len(decided)),
        accuracy_with_ties=share([_agrees(result) for result in scored], [1] * len(scored)) if in_both else None,
        accuracy_with_leads=calibrated_accuracy(scored) if any(result.lead for result in scored) else None,
        order_consistency=share([result.verdict is not None for result in met], [1] * len(met)),
        first_position_rate=share(
            [sum(vote.position == 0 for vote in result.votes) for result in judged],
            [result.num_valid for result in judged],
        ),
        failure_share=share(
            [len(result.votes) - result.num_valid for result in judged], [len(result.votes) for result in judged]
        ),
        failures={kind: count / len(votes) for kind, count in sorted(kinds.items())},
    )


def _agrees(result: PairResult) -> bool:
    """Return True if the judge agrees with the label, including ties."""
    return _is_answered(result) and result.verdict == result.label


def _halves(result: PairResult) -> int:
    """Return 2 if the judge names the labeled winner, 1 if it is undecided, and 0 if it is wrong or failed."""
    if not _is_answered(result):
        return 0
    if result.verdict is None:
        return 1
    return 2 if result.verdict == result.label else 0


def _is_answered(result: PairResult) -> bool:
    return all(vote.position is not None or vote.failure == "tie" for vote in result.votes)


def calibrated_accuracy(results: Sequence[PairResult]) -> float:
    """Compute the share of pairs whose label follows from the lead, at the best threshold for ties.

    Args:
        results: at least one result; pairs with a failed judgment count as wrong.
    """
    valid = [result for result in results if result.num_valid == len(result.votes)]
    leads = np.array([result.lead for result in valid])
    labels = np.array([0 if result.label is None else 1 - 2 * result.label for result in valid])
    order = np.argsort(np.abs(leads), kind="stable")
    sizes, labels, signs = np.abs(leads)[order], labels[order], np.sign(leads)[order]
    ties = np.concatenate([[0], np.cumsum(labels == 0)])
    wins = np.concatenate([[0], np.cumsum((labels == signs) & (labels != 0))])
    # The k smallest leads are ties. A threshold after k exists only if the next lead is larger.
    possible = np.concatenate([[True], sizes[1:] > sizes[:-1], [True]]) if len(sizes) else np.array([True])
    return float(np.max((ties + wins[-1] - wins)[possible]) / len(results))


def share(parts: Sequence[int], wholes: Sequence[int]) -> Share:
    """Compute ``sum(parts) / sum(wholes)`` over pairs, with a confidence interval.

    If every pair counts either fully or not at all, or all pairs are equal, the interval is Wilson's over pairs, which
    remains valid at 0 and 1; otherwise it is a percentile bootstrap over pairs.

    Args:
        parts: numerator of each pair, such as its right judgments.
        wholes: denominator of each pair, such as its judgments; pairs with 0 are excluded.
    """
    kept = [(part, whole) for part, whole in zip(parts, wholes, strict=True) if whole]
    if not kept:
        return Share(float("nan"), float("nan"), float("nan"), 0)
    part, whole = np.array(kept, dtype=np.float64).T
    value = float(part.sum() / whole.sum())
    all_or_nothing = np.ptp(whole) == 0 and np.isin(part, (0.0, whole[0])).all()
    alike = np.ptp(part / whole) == 0
    low, high = wilson(value, len(part)) if all_or_nothing or alike else _bootstrap(part, whole)
    return Share(value, low, high, len(part))


def _bootstrap(part: NDArray[np.float64], whole: NDArray[np.float64]) -> tuple[float, float]:
    def ratio(parts: Any, wholes: Any, axis: int) -> Any:
        return parts.sum(axis=axis) / wholes.sum(axis=axis)

    drawn = stats.bootstrap(
        (part, whole),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=max(1, _CELLS // len(part)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    )
    interval = drawn.confidence_interval
    return float(interval.low), float(interval.high)
