"""What judgements of labelled pairs come to: shares with intervals, overall and by category.

Pairs are what is counted: the two orders of one pair are no two independent observations. Nothing about failed
judgements or ties is hidden: accuracy is told with failures as wrong and with failures dropped, and tied labels are
counted apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flexgym.rm.data.problems import DataError
from flexgym.rm.data.schema import Side

TieRule = Literal["left_out", "scored", "refused"]
"""What becomes of pairs whose label is a tie: not judged, judged and scored against three classes, or bad rows."""

CONFIDENCE = 0.95
"""Of all intervals."""

_RESAMPLES = 2000
_CELLS = 2**22  # of a bootstrap that are in memory at a time
_SEED = 0


@dataclass(frozen=True)
class Vote:
    """One judgement of a pair.

    Attributes:
        swapped: whether the pair's second candidate was shown first.
        position: the winner by place, 0 for the candidate shown first; None where the judgement failed.
        failure: kind of the failure.
        margin: points of the candidate shown first minus those of the other, summed over all criteria.
    """

    swapped: bool
    position: int | None
    failure: str | None = None
    margin: float = 0.0

    @property
    def side(self) -> int | None:
        """The winner as the pair counts its candidates, 0 or 1; None where the judgement failed."""
        return None if self.position is None else self.position ^ self.swapped


@dataclass(frozen=True)
class PairResult:
    """What a judge made of one pair, without its pictures and its words.

    Attributes:
        id: of the pair in its source.
        category: by which results are broken down.
        label: the winner by the label; None for a tie.
        votes: one per order; none where the pair was not judged.
    """

    id: str | None
    category: str | None
    label: Side
    votes: tuple[Vote, ...] = ()

    @property
    def verdict(self) -> int | None:
        """The winner that all orders agree on; None where they differ, which is a tie, or where one failed."""
        sides = {vote.side for vote in self.votes}
        return sides.pop() if len(sides) == 1 else None

    @property
    def num_valid(self) -> int:
        """Judgements that did not fail."""
        return sum(vote.position is not None for vote in self.votes)

    @property
    def lead(self) -> float:
        """Points by which the first candidate is ahead, mean over the orders that did not fail; 0 without any."""
        leads = [-vote.margin if vote.swapped else vote.margin for vote in self.votes if vote.position is not None]
        return sum(leads) / len(leads) if leads else 0.0

    def to_row(self) -> dict[str, Any]:
        """As plain values: the winner of each order, or why there is none, and the lead of the first candidate."""
        said = ["failed: " + vote.failure if vote.failure else vote.side for vote in self.votes]
        return {"id": self.id, "category": self.category, "label": self.label, "said": said, "lead": self.lead}


@dataclass(frozen=True)
class Share:
    """A share with its interval.

    Attributes:
        value: 0 to 1; NaN where there is nothing to count.
        low: lower end of the interval at `CONFIDENCE`.
        high: upper end.
        pairs: how many it comes from.
    """

    value: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Figures:
    """How a judge does on some pairs.

    Attributes:
        pairs: all of them.
        ties: those with a tied label.
        judgements: in all orders.
        accuracy: share of the judgements that name the label's winner, of pairs that have one; failures are wrong.
        accuracy_dropped: the same without the failed judgements.
        accuracy_with_ties: share of the pairs, tied labels among them, for which the judge says what the label says,
            where two orders that differ say tie; a failure is wrong. None where ties are not scored, or one order was
            asked.
        accuracy_with_leads: the same where the points say tie if neither candidate leads by more than a threshold, at
            the threshold that is best for these very pairs (ties calibrated as in arXiv 2305.14324), so it flatters a
            little. None where ties are not scored, or the judge gave no points.
        order_consistency: share of the pairs valid in both orders with the same winner in both.
        first_position_rate: share of the valid judgements that name the candidate shown first; one half without
            position bias.
        failure_share: share of the judgements that failed.
        failures: part of each kind in it.
    """

    pairs: int
    ties: int
    judgements: int
    accuracy: Share
    accuracy_dropped: Share
    accuracy_with_ties: Share | None
    accuracy_with_leads: float | None
    order_consistency: Share
    first_position_rate: Share
    failure_share: Share
    failures: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """The figures of an evaluation.

    Attributes:
        overall: of all pairs.
        categories: by category, in alphabetical order; pairs without one are only in ``overall``.
    """

    overall: Figures
    categories: dict[str, Figures]


def summarise(results: Iterable[PairResult], *, ties: TieRule = "left_out") -> Summary:
    """The figures of judged pairs.

    Args:
        results: of `Evaluation.results`.
        ties: the rule under which they were judged.

    Raises:
        DataError: there is no result.
    """
    known = list(results)
    if not known:
        raise DataError("expected at least one pair to evaluate on, found none")
    names = sorted({result.category for result in known if result.category is not None})
    by_name = {name: [result for result in known if result.category == name] for name in names}
    return Summary(figures(known, ties=ties), {name: figures(members, ties=ties) for name, members in by_name.items()})


def figures(results: Sequence[PairResult], *, ties: TieRule = "left_out") -> Figures:
    """The figures of some judged pairs; see `summarise`."""
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
        accuracy_with_ties=share([_meets(result) for result in scored], [1] * len(scored)) if in_both else None,
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


def _meets(result: PairResult) -> bool:
    """Whether the judge says what the label says, ties included."""
    return result.num_valid == len(result.votes) and result.verdict == result.label


def calibrated_accuracy(results: Sequence[PairResult]) -> float:
    """The share of pairs whose label follows from the lead, at the best threshold of a tie.

    Args:
        results: at least one; a pair with a failed judgement is wrong.
    """
    valid = [result for result in results if result.num_valid == len(result.votes)]
    leads = np.array([result.lead for result in valid])
    labels = np.array([0 if result.label is None else 1 - 2 * result.label for result in valid])
    order = np.argsort(np.abs(leads), kind="stable")
    sizes, labels, signs = np.abs(leads)[order], labels[order], np.sign(leads)[order]
    ties = np.concatenate([[0], np.cumsum(labels == 0)])
    wins = np.concatenate([[0], np.cumsum((labels == signs) & (labels != 0))])
    # The smallest k leads are ties: only where the next one is larger is there a threshold between them.
    possible = np.concatenate([[True], sizes[1:] > sizes[:-1], [True]]) if len(sizes) else np.array([True])
    return float(np.max((ties + wins[-1] - wins)[possible]) / len(results))


def share(parts: Sequence[int], wholes: Sequence[int]) -> Share:
    """``sum(parts) / sum(wholes)`` over pairs, with an interval.

    Where every pair counts as a whole or not at all, or all pairs are alike, the interval is Wilson's over pairs, which
    stays honest at 0 and 1; otherwise pairs are drawn anew (percentile bootstrap).

    Args:
        parts: of each pair, such as its right judgements.
        wholes: of each pair, such as its judgements; pairs with none are left out.
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


def wilson(value: float, count: int) -> tuple[float, float]:
    """The score interval of a share at `CONFIDENCE` (E. B. Wilson, 1927).

    Args:
        value: the share, 0 to 1.
        count: of what was counted, at least 1.
    """
    square = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) ** 2
    centre = (value + square / (2 * count)) / (1 + square / count)
    half = math.sqrt(square * (value * (1 - value) / count + square / (4 * count**2))) / (1 + square / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


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
