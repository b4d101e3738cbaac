"""Rewards of groups into advantages.

A sample that could not be scored (NaN) takes no part: its advantage is 0, and it enters no mean and no deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexgym.core.errors import ConfigError, RewardError, check_names, unknown_name

Spread = Literal["group", "global", "none"]
_SPREADS = ("group", "global", "none")
_OPTIONS = ("std", "ddof", "eps", "clip", "batch_norm")

ADVANTAGES: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "authors_code": {"ddof": 1, "eps": 1e-8, "batch_norm": True},
}
"""Options of `blended_advantages` by name: the defaults, and what the code of Pref-GRPO's authors does instead."""


def advantage_options(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """The options of `blended_advantages` that a setting names.

    Args:
        value: a name in `ADVANTAGES`, or the options themselves.

    Raises:
        ConfigError: neither a name nor options by name.
        UnknownNameError: no such name or option.
    """
    if isinstance(value, str):
        check_names("advantage", [value], ADVANTAGES)
        return dict(ADVANTAGES[value])
    if not isinstance(value, Mapping):
        raise ConfigError(f"advantage: expected one of {', '.join(ADVANTAGES)} or options by name, got {value!r}")
    check_names("option of the advantage", value, _OPTIONS)
    return dict(value)


def group_advantages(
    rewards_PG: ArrayLike, *, std: Spread = "group", ddof: int = 0, eps: float = 1e-4, clip: float | None = 5.0
) -> NDArray[np.float32]:
    """How much better each sample is than its group, ``(r - mean_group) / (std + eps)`` (Flow-GRPO, arXiv 2505.05470).

    Args:
        rewards_PG: rewards ``[P, G]``, NaN where unscored.
        std: ``"group"`` divides by the standard deviation of the group, ``"global"`` by that of all valid rewards,
            which keeps groups with hardly any difference from shouting. ``"none"`` does not divide (Dr. GRPO, arXiv
            2503.20783): each group counts by its differences, and no group has to wait for the others.
        ddof: 0 for population standard deviations, 1 for those of a sample.
        eps: added to the standard deviation, where there is one; 0 is allowed.
        clip: largest absolute advantage; None leaves them as they are.

    Returns:
        float32 ``[P, G]``: 0 where unscored, and 0 in groups whose valid rewards are all equal or fewer than two.

    Raises:
        ConfigError: not two-dimensional, a negative eps, a ddof besides 0 and 1, or a clip that is not positive.
        RewardError: an infinite reward.
        UnknownNameError: no such std.
    """
    _check_options(std, eps=eps, ddof=ddof, clip=clip)
    return _clipped(_normalised(_rewards("rewards_PG", rewards_PG), std, eps=eps, ddof=ddof), clip)


def blended_advantages(
    terms: Mapping[str, ArrayLike],
    weights: Mapping[str, float],
    *,
    std: Spread = "group",
    ddof: int = 0,
    eps: float = 1e-4,
    clip: float | None = 5.0,
    batch_norm: bool = False,
) -> NDArray[np.float32]:
    """Every term normalised on its own, then added: ``sum_k w_k * z(term_k)``.

    With the weights ``{"dim": alpha, "overall": 1 - alpha}`` it is the blend of UnifiedReward-Flex (arXiv 2602.02380).
    Unlike in a weighted sum of raw rewards, no term drowns another by its scale (GDPO, arXiv 2601.05242). A sample
    unscored in one term keeps what the others say of it.

    Args:
        terms: rewards by name, each ``[P, G]``, NaN where unscored.
        weights: weight of each term, same names.
        std: as in `group_advantages`, for each term.
        ddof: as in `group_advantages`, for each term and for ``batch_norm``.
        eps: as in `group_advantages`.
        clip: as in `group_advantages`, on the sum.
        batch_norm: normalise the sum once more over all samples scored in any term (GDPO). It then matters which
            groups come together, so all groups of an iteration must.

    Returns:
        float32 ``[P, G]``.

    Raises:
        ConfigError: no terms, terms of unequal shape, a term without weight, weights that are not finite or all 0.
        RewardError: an infinite reward.
        UnknownNameError: a weight for a term that is not there, or no such std.
    """
    _check_options(std, eps=eps, ddof=ddof, clip=clip)
    _check_weights(terms, weights)
    arrays = {name: _rewards(f"term {name!r}", term) for name, term in terms.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ConfigError(f"all terms must have the same shape [P, G], got {shapes}")
    total = np.sum(
        [weights[name] * _normalised(array, std, eps=eps, ddof=ddof) for name, array in arrays.items()], axis=0
    )
    if batch_norm:
        scored = ~np.all([np.isnan(array) for array in arrays.values()], axis=0)
        flat = np.where(scored, total, np.nan).reshape(1, -1)
        total = _normalised(flat, "global", eps=eps, ddof=ddof).reshape(total.shape)
    return _clipped(total, clip)


def _normalised(rewards_PG: NDArray[np.float64], std: Spread, *, eps: float, ddof: int) -> NDArray[np.float64]:
    """Centred by group and, unless ``std`` is "none", divided by a standard deviation; 0 where NaN."""
    valid = ~np.isnan(rewards_PG)
    count = np.maximum(valid.sum(axis=1, keepdims=True), 1)
    mean = np.where(valid, rewards_PG, 0.0).sum(axis=1, keepdims=True) / count
    # Exactly 0 in a group without differences, where subtracting the mean would leave rounding errors.
    lowest = np.where(valid, rewards_PG, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    highest = np.where(valid, rewards_PG, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    centred = np.where(valid & (lowest < highest), rewards_PG - mean, 0.0)
    if std == "none":
        return centred
    if std == "group":
        spread = np.sqrt(np.square(centred).sum(axis=1, keepdims=True) / np.maximum(count - ddof, 1))
    else:
        spread = np.full_like(mean, rewards_PG[valid].std(ddof=ddof) if valid.sum() > ddof else 0.0)
    denominator = np.broadcast_to(spread + eps, centred.shape)
    scores = np.zeros_like(centred)
    np.divide(centred, denominator, out=scores, where=denominator > 0)
    return scores


def _clipped(advantages_PG: NDArray[np.float64], clip: float | None) -> NDArray[np.float32]:
    bounded = advantages_PG if clip is None else np.clip(advantages_PG, -clip, clip)
    return bounded.astype(np.float32)


def _rewards(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ConfigError(f"{name} must be [P, G], one row per prompt, got shape {array.shape}")
    if np.isinf(array).any():
        raise RewardError(f"{name} holds {int(np.isinf(array).sum())} infinite rewards; mark unscored samples as NaN")
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


def _check_weights(terms: Mapping[str, ArrayLike], weights: Mapping[str, float]) -> None:
    if not terms:
        raise ConfigError("blended_advantages needs at least one term, got none")
    check_names("reward term", weights, terms)
    missing = sorted(set(terms) - set(weights))
    if missing:
        raise ConfigError(f"terms {missing} have no weight; got weights for {sorted(weights)}")
    if not np.isfinite(list(weights.values())).all() or not any(weights.values()):
        raise ConfigError(f"weights must be finite and not all 0, got {dict(weights)}")
