"""Calibrate a judge: measure how far to trust it on given groups, and which tournament makes the best use of its calls.

All pairs are judged once in both orders. Every cheaper tournament is then replayed from the recorded outcomes by the
same code that plays it in training, so measuring its fidelity costs no further calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.flow.advantage import blended_advantages
from flexgym.judge.aggregation import pair_wins
from flexgym.judge.agreement import agreement_summary
from flexgym.judge.protocol import Judge, Outcome, Pair
from flexgym.judge.tournament import Tournament, judge_groups
from flexgym.types import GroupScores, SampleGroup

FULL = Tournament(both_orders=True)
"""All pairs in both orders: the most information that a judge can give about a group."""
_ORDER = {"name": "bradley_terry", "order": True}
TOURNAMENTS = (
    FULL,
    Tournament(),
    Tournament(aggregation="margin"),
    Tournament(aggregation="bradley_terry"),
    Tournament("all_unbalanced"),
    Tournament("all_unbalanced", aggregation=_ORDER),
    Tournament("regular(8)"),
    Tournament("regular(4)", both_orders=True),
    Tournament("regular(6)"),
    Tournament("regular(6)", aggregation="margin"),
    Tournament("regular(6)", aggregation="bradley_terry"),
    Tournament("swiss(6)", aggregation="bradley_terry"),
    Tournament("regular(4)"),
    Tournament("regular(2)", both_orders=True),
    Tournament("swiss(4)", aggregation="bradley_terry"),
    Tournament("anchor(2)", aggregation="bradley_terry"),
    Tournament("regular(2)"),
    Tournament("anchor(1)", aggregation="bradley_terry"),
)
"""Tournaments compared by default."""


@dataclass(frozen=True)
class Fidelity:
    """Measures of how faithfully one tournament reproduces a judge's full information about the groups.

    Attributes:
        tournament: label of the tournament.
        calls: mean number of judged pairs per group.
        cosine: cosine similarity between its advantages and those of all pairs in both orders, mean over groups. Both
            come from the same outcomes and share their errors, so this overestimates the judge.
        true_cosine: cosine similarity between its advantages and the true quality of the samples; NaN if unknown.
        standard_error: standard error of ``true_cosine`` if it is known, otherwise of ``cosine``.
        kendall_tau: rank correlation, -1 to 1, of its rewards with the true quality if known, otherwise with the
            rewards of all pairs in both orders.
        unscored: share of samples without a reward.
    """

    tournament: str
    calls: float
    cosine: float
    true_cosine: float
    standard_error: float
    kendall_tau: float
    unscored: float

    @property
    def value(self) -> float:
        """Return ``true_cosine`` if it is known, otherwise ``cosine``."""
        return self.cosine if np.isnan(self.true_cosine) else self.true_cosine


@dataclass(frozen=True)
class CalibrationReport:
    """Measurements of a judge on given groups.

    Attributes:
        groups: number of groups.
        comparisons: total number of judgments: every pair in both orders.
        flip_rate: share of pairs whose winner changes with the order, among pairs valid in both orders.
        cyclic_triads: share of triads in which each sample beats one of the others, among triads without a flipped
            pair; 0 for a judge that follows a single scale, 0.25 for random guessing.
        agreement: `agreement_summary` of all judgments, including the first-position rate and the failure shares.
        rows: one row per tournament.
    """

    groups: int
    comparisons: int
    flip_rate: float
    cyclic_triads: float
    agreement: Mapping[str, float]
    rows: tuple[Fidelity, ...]

    @property
    def first_position_rate(self) -> float:
        """Return the share of valid judgments won by the sample shown first; 0.5 without position bias."""
        return self.agreement["first_position_rate"]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the tournaments as plain dictionaries, in the order in which they were given."""
        return [dataclasses.asdict(row) for row in self.rows]

    def to_figures(self) -> dict[str, float]:
        """Return all figures about the judge itself, by name."""
        names = ("groups", "comparisons", "flip_rate", "cyclic_triads")
        return {**{name: getattr(self, name) for name in names}, **self.agreement}

    def cheapest(self, *, within: float = 0.03, of: str = "all") -> Fidelity:
        """Return the tournament with the fewest calls that comes close to a given one.

        Args:
            within: largest allowed drop of the cosine.
            of: label of the tournament to compare with.

        Raises:
            UnknownNameError: if no row has this label.
        """
        by_label = {row.tournament: row for row in self.rows}
        if of not in by_label:
            raise unknown_name("tournament of the report", of, by_label)
        near = [row for row in self.rows if row.value >= by_label[of].value - within]
        return min(near, key=lambda row: row.calls)


class _Record:
    """Judge that replays recorded outcomes."""

    def __init__(self, groups: Sequence[SampleGroup], scores: Sequence[GroupScores]) -> None:
        self._outcomes: dict[tuple[int, int, int], Outcome] = {
            (id(group), int(first), int(second)): outcome
            for group, score in zip(groups, scores, strict=True)
            for (first, second), outcome in zip(_pairs(score), score.assessments, strict=True)
        }

    def assess(self, pairs: Sequence[Pair]) -> list[Outcome]:
        return [self._outcomes[id(pair.group), pair.first, pair.second] for pair in pairs]


def calibrate(
    judge: Judge,
    groups: Sequence[SampleGroup],
    *,
    tournaments: Sequence[Tournament] = TOURNAMENTS,
    truth: Sequence[ArrayLike] | None = None,
) -> CalibrationReport:
    """Judge all pairs of all groups in both orders, and measure how well cheaper tournaments would have done.

    Args:
        judge: the judge to calibrate.
        groups: finished samples; their references are ignored.
        tournaments: the tournaments to compare.
        truth: true quality of the samples on any scale, ``[G]`` per group, if known.

    Raises:
        ConfigError: if there are no groups, or ``truth`` does not hold one value per sample.
        JudgeFailureShareError: if more than half of the judgments fail.
    """
    groups = [dataclasses.replace(group, references=None) for group in groups]
    sizes = [len(group) for group in groups]
    if not groups:
        raise ConfigError("calibration needs at least one group, got none")
    if truth is not None and [np.shape(worth) for worth in truth] != [(size,) for size in sizes]:
        raise ConfigError(
            f"truth must hold one value for each sample: expected lengths {sizes}, got shapes"
            f" {[np.shape(worth) for worth in truth]}"
        )
    full = judge_groups(judge, groups, tournament=FULL)
    record = _Record(groups, full)
    rows = []
    for tournament in tournaments:
        # The failure share was already checked for all pairs.
        lenient = dataclasses.replace(tournament, max_failure_share=1.0)
        rows.append(_fidelity(tournament.label, judge_groups(record, groups, tournament=lenient), full, truth=truth))
    outcomes = [outcome for scores in full for outcome in scores.assessments]
    flips, met, cycles, triads = np.sum([_consistency(scores) for scores in full], axis=0)
    return CalibrationReport(
        groups=len(groups),
        comparisons=len(outcomes),
        flip_rate=_share(flips, met),
        cyclic_triads=_share(cycles, triads),
        agreement=agreement_summary(outcomes),
        rows=tuple(rows),
    )


def full_advantages(judge: Judge, groups: Sequence[SampleGroup]) -> list[NDArray[np.float64]]:
    """Return advantages from all pairs in both orders, float64 ``[G]`` per group; the truth if the judge is perfect."""
    groups = [dataclasses.replace(group, references=None) for group in groups]
    return [_advantages(scores) for scores in judge_groups(judge, groups, tournament=FULL)]


def _advantages(scores: GroupScores) -> NDArray[np.float64]:
    terms = {name: scores.terms[name][None] for name in scores.weights}
    return blended_advantages(terms, scores.weights, clip=None)[0].astype(np.float64)


def _pairs(scores: GroupScores) -> NDArray[np.intp]:
    assert scores.pairs is not None
    return scores.pairs


def _fidelity(
    label: str, played: Sequence[GroupScores], full: Sequence[GroupScores], *, truth: Sequence[ArrayLike] | None
) -> Fidelity:
    estimates = [_advantages(scores) for scores in played]
    worths = [np.full(len(scores.rewards), np.nan) for scores in full]
    if truth is not None:
        worths = [np.asarray(worth, dtype=np.float64) for worth in truth]
    cosines = [_cosine(estimate, _advantages(scores)) for estimate, scores in zip(estimates, full, strict=True)]
    true_cosines = [_cosine(estimate, worth) for estimate, worth in zip(estimates, worths, strict=True)]
    orders = worths if truth is not None else [scores.rewards for scores in full]
    taus = [_kendall_tau(scores.rewards, order) for scores, order in zip(played, orders, strict=True)]
    return Fidelity(
        tournament=label,
        calls=float(np.mean([len(_pairs(scores)) for scores in played])),
        cosine=_mean(cosines),
        true_cosine=_mean(true_cosines),
        standard_error=_standard_error(cosines if truth is None else true_cosines),
        kendall_tau=_mean(taus),
        unscored=float(np.mean(np.isnan(np.concatenate([scores.rewards for scores in played])))),
    )


def _cosine(estimate: NDArray[Any], target: NDArray[Any]) -> float:
    """Return the cosine of both vectors after centering: 0 if the estimate is constant, NaN if the target is."""
    estimate, target = estimate - estimate.mean(), target - target.mean()
    if not np.linalg.norm(target) > 0.0:
        return float("nan")
    length = float(np.linalg.norm(estimate))
    return float(estimate @ target / (length * np.linalg.norm(target))) if length else 0.0


def _kendall_tau(estimate: NDArray[Any], target: NDArray[Any]) -> float:
    valid = ~np.isnan(estimate) & ~np.isnan(target)
    return float(kendalltau(estimate[valid], target[valid]).statistic) if valid.sum() > 1 else float("nan")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _standard_error(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.std(known, ddof=1) / np.sqrt(len(known))) if len(known) > 1 else float("nan")


def _consistency(scores: GroupScores) -> tuple[float, float, float, float]:
    """Count flipped pairs, pairs valid in both orders, cyclic triads, and triads without flipped or failed pairs."""
    size, pairs = len(scores.rewards), _pairs(scores)
    first_wins = np.full((size, size), np.nan)
    first_wins[pairs[:, 0], pairs[:, 1]] = pair_wins(scores.assessments)[:, 0]
    met = ~np.isnan(first_wins + first_wins.T)
    beats = ((first_wins == 1.0) & (first_wins.T == 0.0)).astype(np.float64)
    decided = beats + beats.T
    # Closed walks of three steps: each cyclic triad has 3 along wins, and each triad has 6 if directions are ignored.
    cycles, triads = np.trace(beats @ beats @ beats) / 3, np.trace(decided @ decided @ decided) / 6
    return (met.sum() - decided.sum()) / 2, met.sum() / 2, cycles, triads


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def draw_calibration(report: CalibrationReport, path: str | Path) -> None:
    """Plot the fidelity of every tournament against its number of calls.

    Args:
        report: the result of `calibrate`.
        path: file to write; its extension selects the format, such as ``.png`` or ``.svg``.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib, which is not installed: pip install matplotlib") from error
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.subplots()
    for row in report.rows:
        axes.errorbar(row.calls, row.value, yerr=row.standard_error, fmt="o", color="tab:blue", capsize=2.0)
        axes.annotate(row.tournament, (row.calls, row.value), xytext=(5, -3), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("comparisons in a group")
    axes.set_ylabel(
        "cosine with the true advantage" if _knows_truth(report) else "cosine with all pairs in both orders"
    )
    axes.set_title(
        f"{report.groups} groups, flip rate {report.flip_rate:.0%}, first wins {report.first_position_rate:.0%}"
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _knows_truth(report: CalibrationReport) -> bool:
    return any(not np.isnan(row.true_cosine) for row in report.rows)
