"""Convert rewards of groups to advantages.

A sample that could not be scored (NaN) has advantage 0 and enters no mean and no standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexgym.core.errors import ConfigError, RewardError, check_names, unknown_name

Spread = Literal["group", "global", "none"]
_SPREADS = ("group", "global", "none")
Center = Literal["group", "global", "none"]


def group_advantages(
    rewards_PG: ArrayLike, *, std: Spread = "group", ddof: int = 0, eps: float = 1e-4, clip: float | None = 5.0
) -> NDArray[np.float32]:
    """Compare each sample with its group, ``(r - mean_group) / (std + eps)`` (Flow-GRPO, arXiv 2505.05470).

    Args:
        rewards_PG: rewards ``[P, G]``, NaN where unscored.
        std: ``"group"`` divides by the standard deviation of the group, ``"global"`` by that of all valid rewards,
            which does not amplify tiny differences within a group. ``"none"`` does not divide (Dr. GRPO, arXiv
            2503.20783): each group counts by its differences, independently of the other groups.
        ddof: 0 for population standard deviations, 1 for sample standard deviations.
        eps: added to the standard deviation; 0 is allowed.
        clip: maximum absolute advantage; None for no clipping.

    Returns:
        float32 ``[P, G]``; 0 where unscored, and in groups whose valid rewards are all equal or fewer than two.

    Raises:
        ConfigError: the rewards are not two-dimensional, eps is negative, ddof is not 0 or 1, or clip is not positive.
        RewardError: a reward is infinite.
        UnknownNameError: the name of std is unknown.
    """
    _check_options(std, eps=eps, ddof=ddof, clip=clip)
    return _clipped(_normalized(_rewards("rewards_PG", rewards_PG), std, eps=eps, ddof=ddof), clip)


def blended_advantages(
    terms: Mapping[str, ArrayLike],
    weights: Mapping[str, ArrayLike],
    *,
    center: Center = "group",
    std: Spread = "group",
    ddof: int = 0,
    eps: float = 1e-4,
    clip: float | None = 5.0,
    batch_norm: bool = False,
) -> NDArray[np.float32]:
    """Normalize each term on its own and add them: ``sum_k w_k * z(term_k)``.

    With the weights ``{"dim": alpha, "overall": 1 - alpha}`` this is the blend of UnifiedReward-Flex (arXiv
    2602.02380). Unlike in a weighted sum of raw rewards, no term dominates by its scale (GDPO, arXiv 2601.05242). A
    sample that is unscored in one term keeps the contributions of the others.

    Args:
        terms: rewards by name, each ``[P, G]``, NaN where unscored.
        weights: weight of each term, with the same names: one number, or one for each group, ``[P]``.
        center: ``"group"`` subtracts the mean of the group from each term, ``"global"`` that of all valid rewards, and
            ``"none"`` nothing, for losses that weight samples by their reward.
        std: see `group_advantages`; applies to each term.
        ddof: see `group_advantages`; applies to each term and to ``batch_norm``.
        eps: see `group_advantages`.
        clip: see `group_advantages`; applies to the sum.
        batch_norm: normalize the sum again over all samples scored in any term (GDPO). The result then depends on all
            groups of the call, so all groups of an iteration must be passed together.

    Returns:
        float32 ``[P, G]``.

    Raises:
        ConfigError: there are no terms, their shapes differ, a term has no weight, or weights are not finite or all 0.
        RewardError: a reward is infinite.
        UnknownNameError: a weight has no term, or the name of std or center is unknown.
    """
    _check_options(std, eps=eps, ddof=ddof, clip=clip)
    if center not in _SPREADS:
        raise unknown_name("center of advantages", center, _SPREADS)
    _check_weights(terms, weights)
    arrays = {name: _rewards(f"term {name!r}", term) for name, term in terms.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ConfigError(f"all terms must have the same shape [P, G], got {shapes}")
    parts = []
    for name, array in arrays.items():
        weight = np.asarray(weights[name], np.float64).reshape(-1, 1)
        parts.append(weight * _normalized(array, std, eps=eps, ddof=ddof, center=center))
    total = np.sum(parts, axis=0)
    if batch_norm:
        scored = ~np.all([np.isnan(array) for array in arrays.values()], axis=0)
        flat = np.where(scored, total, np.nan).reshape(1, -1)
        total = _normalized(flat, "global", eps=eps, ddof=ddof).reshape(total.shape)
    return _clipped(total, clip)


def standardized(
    rewards_PG: ArrayLike, *, std: Spread = "group", ddof: int = 0, eps: float = 1e-4
) -> NDArray[np.float64]:
    """Return the advantages of `group_advantages` in float64 and without a clip, to be combined further.

    Args:
        rewards_PG: see `group_advantages`.
        std: see `group_advantages`. To normalize a sum over all samples (GDPO), pass it as one group, ``[1, P * G]``.
        ddof: see `group_advantages`.
        eps: see `group_advantages`.

    Returns:
        float64 ``[P, G]``.

    Raises:
        ConfigError: see `group_advantages`.
        RewardError: a reward is infinite.
        UnknownNameError: the name of std is unknown.
    """
    _check_options(std, eps=eps, ddof=ddof, clip=None)
    return _normalized(_rewards("rewards_PG", rewards_PG), std, eps=eps, ddof=ddof)


def preference_scores(
    overall_PG: ArrayLike,
    dim_PG: ArrayLike,
    *,
    alpha: float = 0.7,
    scored_PG: ArrayLike | None = None,
    ddof: int = 1,
    eps: float = 1e-8,
) -> NDArray[np.float64]:
    """Blend the two rewards of UnifiedReward-Flex as the authors of Pref-GRPO do, where some samples lack one.

    The blend is ``alpha * z(dim) + (1 - alpha) * z(overall)`` with z from `standardized`, and ``z(overall)`` alone for
    a sample without scores of its dimensions (arXiv 2602.02380). With GDPO, standardize the result again over all
    samples.

    Args:
        overall_PG: overall win rates, ``[P, G]``.
        dim_PG: mean win rates over the dimensions, ``[P, G]``.
        alpha: weight of the dimensions, from 0 to 1.
        scored_PG: true where the dimensions are scored; None where ``dim_PG`` is a number. As in the authors' code, the
            mean and the standard deviation include every sample whose ``dim_PG`` is a number.
        ddof: see `group_advantages`; the authors take 1.
        eps: see `group_advantages`; the authors take 1e-8.

    Returns:
        float64 ``[P, G]``.

    Raises:
        ConfigError: the shapes differ, or alpha is out of range.
        RewardError: a reward is infinite.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha must be between 0 (overall only) and 1 (dimensions only), got {alpha}")
    overall, dim = _rewards("overall_PG", overall_PG), _rewards("dim_PG", dim_PG)
    scored = ~np.isnan(dim) if scored_PG is None else np.asarray(scored_PG).astype(bool) & ~np.isnan(dim)
    if not overall.shape == dim.shape == scored.shape:
        shapes = [overall.shape, dim.shape, scored.shape]
        raise ConfigError(f"overall_PG, dim_PG and scored_PG must have the same shape [P, G], got {shapes}")
    general, special = (standardized(rewards, ddof=ddof, eps=eps) for rewards in (overall, dim))
    return np.where(scored, alpha * special + (1.0 - alpha) * general, general)


def keep_extremes(advantages: ArrayLike, *, best: int, worst: int) -> NDArray[np.float64]:
    """Set all advantages but the highest and the lowest of each group to 0 (best-of-N selection of DanceGRPO).

    See arXiv 2505.07818, which generates 24 samples and trains on the 4 best and the 4 worst. Rows with advantage 0
    need no update.

    Args:
        advantages: ``[..., G]``.
        best: number of highest advantages to keep.
        worst: number of lowest advantages to keep; a sample may be among both.

    Returns:
        float64 ``[..., G]``; of equal advantages, the first are kept.

    Raises:
        ConfigError: a number is negative, or both are 0.
    """
    if min(best, worst) < 0 or best + worst == 0:
        raise ConfigError(f"best and worst must be at least 0 and not both 0, got best={best}, worst={worst}")
    values = np.asarray(advantages, dtype=np.float64)
    falling, rising = (np.argsort(np.argsort(side, axis=-1, kind="stable"), axis=-1) for side in (-values, values))
    return np.where((falling < best) | (rising < worst), values, 0.0)


def informative_groups(rewards_PG: ArrayLike, *, min_std: float = 0.05, max_mean: float = 0.9) -> NDArray[np.bool_]:
    """Return which groups are worth training on: they differ enough and are not solved yet (Edit-R1, UniWorld-V2).

    Args:
        rewards_PG: rewards ``[P, G]``, NaN where unscored.
        min_std: population standard deviation that must be exceeded; 0 drops only groups without differences.
        max_mean: the mean must stay below this.

    Returns:
        bool ``[P]``.

    Raises:
        ConfigError: the rewards are not two-dimensional.
        RewardError: a reward is infinite.
    """
    rewards = _rewards("rewards_PG", rewards_PG)
    valid = ~np.isnan(rewards)
    count = np.maximum(valid.sum(axis=1), 1)
    mean = np.where(valid, rewards, 0.0).sum(axis=1) / count
    spread = np.sqrt(np.square(np.where(valid, rewards - mean[:, None], 0.0)).sum(axis=1) / count)
    differs = _normalized(rewards, "none", eps=0.0, ddof=0).any(axis=1)
    return differs & (spread > min_std) & (mean < max_mean)


def _normalized(
    rewards_PG: NDArray[np.float64], std: Spread, *, eps: float, ddof: int, center: Center = "group"
) -> NDArray[np.float64]:
    """Center and, unless ``std`` is "none", divide by a standard deviation; 0 where NaN."""
    valid = ~np.isnan(rewards_PG)
    count = np.maximum(valid.sum(axis=1, keepdims=True), 1)
    mean = np.where(valid, rewards_PG, 0.0).sum(axis=1, keepdims=True) / count
    # Exactly 0 in a group without differences, where subtracting the mean would leave rounding errors.
    lowest = np.where(valid, rewards_PG, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    highest = np.where(valid, rewards_PG, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    within = np.where(valid & (lowest < highest), rewards_PG - mean, 0.0)
    middle = rewards_PG[valid].mean() if center == "global" and valid.any() else 0.0
    centered = within if center == "group" else np.where(valid, rewards_PG - middle, 0.0)
    if std == "none":
        return centered
    if std == "group":
        spread = np.sqrt(np.square(within).sum(axis=1, keepdims=True) / np.maximum(count - ddof, 1))
    else:
        spread = np.full_like(mean, rewards_PG[valid].std(ddof=ddof) if valid.sum() > ddof else 0.0)
    denominator = np.broadcast_to(spread + eps, centered.shape)
    scores = np.zeros_like(centered)
    np.divide(centered, denominator, out=scores, where=denominator > 0)
    return scores


def _clipped(advantages_PG: NDArray[np.float64], clip: float | None) -> NDArray[np.float32]:
    bounded = advantages_PG if clip is None else np.clip(advantages_PG, -clip, clip)
    return bounded.astype(np.float32)


def _rewards(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ConfigError(f"{name} must be [P, G], one row per prompt, got shape {array.shape}")
    if np.isinf(array).any():
        raise RewardError(f"{name} has {int(np.isinf(array).sum())} infinite rewards; mark unscored samples as NaN")
    return array


def _check_options(std: str, *, eps: float, ddof: int, clip: float | None) -> None:
    if std not in _SPREADS:
        raise unknown_name("std of advantages", std, _SPREADS)
    if not eps >= 0:
        raise ConfigError(f"eps must be at least 0, got {eps}")
    if ddof not in (0, 1):
        raise ConfigError(f"ddof must be 0 (population) or 1 (sample), got {ddof}")
    if clip is not None and not clip > 0:
        raise ConfigError(f"clip must be positive, or None for no clipping, got {clip}")


def _check_weights(terms: Mapping[str, ArrayLike], weights: Mapping[str, ArrayLike]) -> None:
    if not terms:
        raise ConfigError("blended_advantages needs at least one term, got none")
    check_names("reward term", weights, terms)
    missing = sorted(set(terms) - set(weights))
    if missing:
        raise ConfigError(f"terms {missing} have no weight; got weights for {sorted(weights)}")
    values = [np.asarray(weight, np.float64) for weight in weights.values()]
    if not all(np.isfinite(value).all() for value in values) or not any(value.any() for value in values):
        raise ConfigError(f"weights must be finite and not all 0, got {dict(weights)}")
