"""Tournaments: compare the samples of a group by a schedule, and convert the verdicts to rewards.

The group reward of Pref-GRPO with UnifiedReward-Flex (arXiv 2602.02380, section 3.3.2, Eq. 9-11) is::

    R_d(i)       = share of the comparisons of i in which i wins category d
    R_dim(i)     = mean of R_d(i) over the three anchor categories
    R_overall(i) = share of the comparisons of i that i wins overall

The paper divides by G - 1. Here the shares are taken over the valid comparisons, which is the same if all pairs are
compared and none fails. As in the paper, personalized categories affect rewards only through the overall winner. If the
verdicts have no categories (UnifiedReward-Think), R_dim equals R_overall, so alpha has no effect.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError, RewardError, unknown_name
from flexgym.core.options import built_settings, describe
from flexgym.core.typed import check_fields
from flexgym.judge.aggregation import WinRate, make_aggregation, pair_wins, win_rates
from flexgym.judge.assessment import ANCHOR_KEYWORDS
from flexgym.judge.failures import check_failure_limit, check_failure_share, count_failures
from flexgym.judge.protocol import Judge, Outcome, Pair
from flexgym.judge.schedule import Schedule, check_group_size, make_schedule, reference_pairs
from flexgym.judge.verdict import Verdict
from flexgym.types import GroupScores, Prompt, SampleGroup


@dataclass(frozen=True)
class Variant:
    """Differences between the paper and its authors' code in how verdicts become rewards.

    Attributes:
        category_weights: weights of the anchors A, B and C in R_dim.
        failures_tie: count a failed judgment as half an overall win for both samples instead of as no comparison.
        decimals: number of decimals that R_dim and R_overall are rounded to; None does not round.
    """

    category_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    failures_tie: bool = False
    decimals: int | None = None


VARIANTS: Mapping[str, Variant] = {
    "paper": Variant(),
    "authors_code": Variant(category_weights=(1.0, 0.7, 0.7), failures_tie=True, decimals=3),
}
"""Variants by name. The authors' code (Pref-GRPO, fastvideo/rewards/unifiedreward_flex.py) identifies categories by the
names that the judge gives them and weights them in order of first appearance; here the weights apply to the recognized
anchors. The weights are those for images; for videos the authors use 1, 1, 1. To follow the authors' code fully, also
use the schedule ``"all_unbalanced"`` and the setting ``training.advantage=authors_code``."""


@dataclass(frozen=True)
class Tournament:
    """Settings of the comparisons within a group and of the rewards computed from them.

    Attributes:
        schedule: ``"all"``, ``"regular(k)"``, ``"swiss(rounds)"`` or ``"anchor(m)"``, see `flexgym.judge.schedule`.
        both_orders: also judge every pair in reverse order, which doubles the number of calls. For the same number of
            calls, more opponents with balanced positions give better advantages, so use this for evaluation and
            calibration only.
        aggregation: ``"win_rate"``, ``"bradley_terry"`` or ``"margin"``, see `flexgym.judge.aggregation`.
        variant: ``"paper"`` or ``"authors_code"``, see `VARIANTS`.
        alpha: weight of R_dim; R_overall has weight 1 - alpha. The paper uses 0.7.
        category_weights: weights of the anchors A, B and C in R_dim; None uses the variant's.
        min_comparisons: samples with fewer valid comparisons are left unscored (NaN). If the schedule gives a sample
            fewer comparisons than this, all of them must be valid.
        max_failure_share: share of failed judgments in a call above which `judge_groups` raises; 1.0 disables the
            check.
        seed: seed of random schedules. A group always gets the same pairs, wherever and however often it is judged.
        alpha_by_category: alpha for the prompts whose metadata names one of these categories as ``"category"``; all
            others get ``alpha``.
    """

    schedule: Schedule | str | Mapping[str, Any] = "all"
    both_orders: bool = False
    aggregation: WinRate | str | Mapping[str, Any] = "win_rate"
    variant: str = "paper"
    alpha: float = 0.7
    category_weights: Sequence[float] | None = None
    min_comparisons: int = 2
    max_failure_share: float = 0.5
    seed: int = 0
    alpha_by_category: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        make_schedule(self.schedule)
        make_aggregation(self.aggregation)
        if self.variant not in VARIANTS:
            raise unknown_name("variant of the tournament", self.variant, VARIANTS)
        for name, alpha in {"alpha": self.alpha, **self.alpha_by_category}.items():
            if not 0.0 <= alpha <= 1.0:
                of = "alpha" if name == "alpha" else f"alpha of the category {name!r}"
                raise ConfigError(f"{of} must be between 0 (overall winner only) and 1 (categories only), got {alpha}")
        if self.min_comparisons < 1:
            raise ConfigError(f"min_comparisons must be at least 1, got {self.min_comparisons}")
        check_failure_limit(self.max_failure_share)
        weights = self.anchor_weights
        if len(weights) != len(ANCHOR_KEYWORDS) or not (weights >= 0.0).all() or not 0.0 < weights.sum() < np.inf:
            raise ConfigError(
                "category_weights must be three non-negative numbers, not all 0, for the categories A, B and C; got"
                f" {self.category_weights}"
            )

    @property
    def label(self) -> str:
        """Return a short label of the non-default settings, schedule first, such as ``"regular(6), both orders"``."""
        parts = [describe(self.schedule)]
        parts += ["both orders"] if self.both_orders else []
        parts += [describe(self.aggregation)] if self.aggregation != "win_rate" else []
        parts += [self.variant] if self.variant != "paper" else []
        return ", ".join(parts)

    def for_prompt(self, prompt: Prompt) -> Tournament:
        """Return the settings for a group of one prompt, with the alpha of its category if there is one."""
        category = prompt.metadata.get("category")
        alpha = self.alpha_by_category.get(category) if isinstance(category, str) else None
        return self if alpha is None else replace(self, alpha=alpha)

    @property
    def anchor_weights(self) -> NDArray[np.float64]:
        """Return the weights of the anchor categories, as configured or from the variant, float64 ``[3]``."""
        weights = VARIANTS[self.variant].category_weights if self.category_weights is None else self.category_weights
        return np.asarray(weights, dtype=np.float64)


class TournamentSettings(TypedDict, total=False):
    """The fields of `Tournament` as keyword arguments."""

    schedule: Schedule | str | Mapping[str, Any]
    both_orders: bool
    aggregation: WinRate | str | Mapping[str, Any]
    variant: str
    alpha: float
    category_weights: Sequence[float] | None
    min_comparisons: int
    max_failure_share: float
    seed: int
    alpha_by_category: Mapping[str, float]


def make_tournament(settings: Tournament | Mapping[str, Any] | None) -> Tournament:
    """Build a tournament from a recipe.

    Args:
        settings: fields of `Tournament` by name; None for the settings of the paper.

    Raises:
        ConfigError: for a value that cannot work.
        UnknownNameError: for an unknown setting; the message names the nearest one.
    """
    if isinstance(settings, Tournament):
        return settings
    check_fields("the tournament", Tournament, settings)
    return built_settings("the tournament", Tournament, settings)


def tournament_scores(
    pairs: NDArray[np.intp], outcomes: Sequence[Outcome], group_size: int, *, tournament: Tournament | None = None
) -> GroupScores:
    """Compute the rewards of a group from the judgments of its pairs.

    Args:
        pairs: int ``[M, 2]``, indices of the samples shown first and second; indices from G on are references.
        outcomes: the M judgments, in the order of ``pairs``.
        group_size: number of samples G.
        tournament: the settings; None uses the paper's.

    Returns:
        Terms ``dim`` and ``overall`` (R_dim and R_overall) with weights alpha and 1 - alpha, their weighted sum as
        rewards, the failures by kind, and all outcomes as assessments. Samples with too few valid comparisons are NaN.
        Comparisons with references do not affect these values; they give the win rate against the reference. For a
        judge without categories, both terms are equal.

    Raises:
        RewardError: if there is not exactly one judgment per pair.
    """
    settings = tournament or Tournament()
    if len(outcomes) != len(pairs):
        raise RewardError(f"expected one judgment per pair ({len(pairs)}), got {len(outcomes)}")
    within: NDArray[np.bool_] = pairs.max(axis=1) < group_size
    own = [outcome for outcome, is_own in zip(outcomes, within, strict=True) if is_own]
    overall, dim = _group_terms(pairs[within], own, group_size, settings=settings)
    blend = settings.alpha * dim + (1.0 - settings.alpha) * overall
    return GroupScores(
        rewards=np.where(np.isnan(dim), overall, blend).astype(np.float32),
        terms={"dim": dim.astype(np.float32), "overall": overall.astype(np.float32)},
        weights={"dim": settings.alpha, "overall": 1.0 - settings.alpha},
        failures=count_failures(outcomes),
        assessments=tuple(outcomes),
        pairs=pairs,
        win_rate_vs_reference=None if within.all() else _reference_rates(pairs, outcomes, group_size),
    )


def _group_terms(
    pairs: NDArray[np.intp], outcomes: Sequence[Outcome], group_size: int, *, settings: Tournament
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute R_overall and R_dim, float64 ``[G]`` each."""
    aggregation, variant = make_aggregation(settings.aggregation), VARIANTS[settings.variant]
    verdicts = aggregation.verdicts(outcomes)
    if variant.failures_tie:
        verdicts[:, 0] = np.nan_to_num(verdicts[:, 0], nan=0.5)
    rates = aggregation.rates(pairs, verdicts, group_size)
    scheduled = np.bincount(pairs.ravel(), minlength=group_size)
    valid = np.bincount(pairs[~np.isnan(verdicts[:, 0])].ravel(), minlength=group_size)
    rates[valid < np.minimum(settings.min_comparisons, scheduled)] = np.nan
    weights = settings.anchor_weights
    overall, dim = rates[:, 0], rates[:, 1:] @ weights / weights.sum()
    # A term that is NaN throughout would drop its weight from the advantage instead of passing it to the other term.
    if any(isinstance(outcome, Verdict) for outcome in outcomes):
        dim = np.where(np.isnan(dim), overall, dim)
    if variant.decimals is None:
        return overall, dim
    return np.round(overall, variant.decimals), np.round(dim, variant.decimals)


def _reference_rates(pairs: NDArray[np.intp], outcomes: Sequence[Outcome], group_size: int) -> NDArray[np.float32]:
    """Compute each sample's win rate over the comparisons with its reference, float32 ``[G]``."""
    against = pairs.max(axis=1) >= group_size
    rates = win_rates(pairs[against], pair_wins(outcomes)[against, :1], 2 * group_size)
    return rates[:group_size, 0].astype(np.float32)


class _Bracket:
    """State of the tournament of one group while it is played."""

    def __init__(self, group: SampleGroup, tournament: Tournament) -> None:
        check_group_size(len(group))
        self.size, self.tournament = len(group), tournament
        self.group = group.joined()
        # Seed from the content rather than the index of the group, which depends on the number of learners.
        content = (group.prompt.text.encode(errors="surrogatepass"), group.samples[0].tobytes())
        self.rng = np.random.default_rng([tournament.seed, *map(zlib.crc32, content)])
        self.pairs = np.empty((0, 2), dtype=np.intp)
        self.outcomes: list[Outcome] = []

    def draw(self) -> list[Pair]:
        """Draw the pairs of the next round, sorted by their first sample so that a prefix cache can be reused."""
        own = self.pairs.max(axis=1) < self.size
        wins = pair_wins(self.outcomes)[:, 0]
        drawn = make_schedule(self.tournament.schedule).draw(
            self.size, self.rng, played=self.pairs[own], wins=wins[own]
        )
        if len(self.group) > self.size and not self.outcomes:
            drawn = np.concatenate([drawn, reference_pairs(self.size, self.rng)])
        if self.tournament.both_orders:
            drawn = np.concatenate([drawn, drawn[:, ::-1]])
        drawn = drawn[np.argsort(drawn[:, 0], kind="stable")]
        self.pairs = np.concatenate([self.pairs, drawn])
        return [Pair(self.group, int(first), int(second)) for first, second in drawn]


def judge_groups(
    judge: Judge, groups: Sequence[SampleGroup], *, tournament: Tournament | None = None
) -> list[GroupScores]:
    """Run a tournament in every group, with one call to the judge per round for all groups together.

    Args:
        judge: the judge to compare samples with.
        groups: finished samples, G >= 2 each; sizes may differ. If a group has references, each sample is also
            compared with its own reference.
        tournament: the settings; None uses the paper's.

    Returns:
        One `GroupScores` per group; its k-th assessment belongs to the k-th row of its ``pairs``.

    Raises:
        ConfigError: if a group has fewer than two samples.
        JudgeFailureShareError: if too many judgments fail, see `flexgym.judge.failures.check_failure_share`.
        RewardError: if the judge does not return one outcome per pair.
    """
    settings = tournament or Tournament()
    brackets = [_Bracket(group, settings) for group in groups]
    for _ in range(make_schedule(settings.schedule).num_rounds):
        drawn = [bracket.draw() for bracket in brackets]
        outcomes = _assess(judge, [pair for part in drawn for pair in part])
        for bracket, part in zip(brackets, drawn, strict=True):
            bracket.outcomes += itertools.islice(outcomes, len(part))
    check_failure_share([outcome for bracket in brackets for outcome in bracket.outcomes], settings.max_failure_share)
    return [
        tournament_scores(
            bracket.pairs, bracket.outcomes, bracket.size, tournament=settings.for_prompt(bracket.group.prompt)
        )
        for bracket in brackets
    ]


def _assess(judge: Judge, pairs: list[Pair]) -> Iterator[Outcome]:
    outcomes = judge.assess(pairs)
    if len(outcomes) != len(pairs):
        raise RewardError(f"the judge must return one outcome per pair: expected {len(pairs)}, got {len(outcomes)}")
    return iter(outcomes)
