"""Losses on the forward process: how well a policy recovers finished samples from fresh noise on them.

With ``x = (1 - s) x0 + s e`` and the prediction ``x0hat = x - s v``, the error of the velocity and that of the clean
latents are the same up to the noise level: ``x0hat - x0 = -s (v - (e - x0))``.

A shape ``[*N, ...]`` has any number of leading dimensions that index samples, such as ``[P, G]`` or ``[L, P, G]``. They
are those of the argument with one value per sample, ``[*N]``, or are counted by ``lead``. Reductions are per sample.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.flow.loss import Surrogate, clipped_surrogate, sequence_log_ratio

MatchingWeight = Literal["uniform", "t", "t2", "huber", "ghuber", "adaptive"]
MATCHING_WEIGHTS = ("uniform", "t", "t2", "huber", "ghuber", "adaptive")
"""Names of the weights that `matching_log_prob` knows."""
_FLOOR = 1e-5  # of the mean absolute error that divides, as in DiffusionNFT
_SMALL = 1e-10  # within roots, as in AWM


def velocity_residual(predicted: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """Compute the error of the velocity from predicted clean latents, ``v - (noise - x0) = (x0 - x0hat) / sigma``.

    Args:
        predicted: clean latents that the policy predicts, ``[*N, ...]``.
        clean: clean latents of the samples, ``[*N, ...]``.
        sigma: noise levels, ``[*N]``, above 0.

    Returns:
        ``[*N, ...]``.
    """
    levels = sigma.detach().reshape(*sigma.shape, *(1,) * (predicted.ndim - sigma.ndim))
    return (clean - predicted) / levels


def matching_error(residual: Tensor, *, lead: int = 1) -> Tensor:
    """Compute the flow-matching loss of each sample, ``q = mean((v - (noise - x0))^2)``.

    Args:
        residual: error of the velocity, ``[*N, ...]``.
        lead: number of leading dimensions N.

    Returns:
        ``[*N]``.
    """
    return residual.square().flatten(lead).mean(-1)


def adaptive_error(predicted: Tensor, clean: Tensor, *, lead: int = 1) -> Tensor:
    """Compute the error of a prediction, divided by its own size: ``mean(d^2) / sg max(mean|d|, 1e-5)``.

    The weight is constant to gradients and computed in float64. DiffusionNFT (arXiv 2509.16117), V-GRPO (arXiv
    2604.23380) and CRD (arXiv 2603.14128) use it; it lets every noise level count about equally.

    Args:
        predicted: what the policy predicts, clean latents or velocity, ``[*N, ...]``.
        clean: what it should predict, ``[*N, ...]``.
        lead: number of leading dimensions N.

    Returns:
        ``[*N]``.
    """
    return _adaptive((predicted - clean).flatten(lead))


def matching_log_prob(residual: Tensor, sigma: Tensor, *, weight: MatchingWeight, power: float = 0.25) -> Tensor:
    """Compute the log density of a finished sample, up to a constant, from the error of the velocity.

    With ``q = mean(residual^2)`` and t the noise level, Advantage Weighted Matching (arXiv 2509.25050) has ``-q``
    (``"uniform"``), ``-q t``, ``-q t^2``, ``-(sqrt(q + 1e-10) - 1e-5) t`` (``"huber"``) and ``-((q + 1e-10)^power -
    1e-10^power) t / power`` (``"ghuber"``, the authors' choice). The last two grow slower than q, so samples that are
    recovered badly count less. ``"adaptive"`` is `adaptive_error` of the clean latents with reversed sign.

    Differences of ``"uniform"`` are those of `flexgym.flow.clean_gaussian` with ``eta^2 = 1/2``.

    Args:
        residual: error of the velocity, ``v - (noise - x0)``, ``[*N, ...]``; see `velocity_residual`.
        sigma: noise levels t, ``[*N]``.
        weight: one of `MATCHING_WEIGHTS`.
        power: exponent of ``"ghuber"``, in (0, 1].

    Returns:
        ``[*N]``.

    Raises:
        ConfigError: the power is out of range.
        UnknownNameError: the weight is unknown.
    """
    if weight not in MATCHING_WEIGHTS:
        raise unknown_name("matching weight", weight, MATCHING_WEIGHTS)
    if not 0 < power <= 1:
        raise ConfigError(f"power of the weight 'ghuber' must be in (0, 1], got {power}")
    level = sigma.detach()
    if weight == "adaptive":
        scale = level.reshape(*level.shape, *(1,) * (residual.ndim - level.ndim))
        return -_adaptive((scale * residual).flatten(level.ndim))
    error = matching_error(residual, lead=level.ndim)
    if weight == "huber":
        return -((error + _SMALL).sqrt() - math.sqrt(_SMALL)) * level
    if weight == "ghuber":
        return -((error + _SMALL).pow(power) - _SMALL**power) * level / power
    if weight == "uniform":
        return -error
    return -error * (level if weight == "t" else level.square())


def vgrpo_surrogate(
    predicted: Tensor,
    old_predicted: Tensor,
    clean: Tensor,
    *,
    advantage: Tensor,
    clip_range: float | tuple[float, float] | None = 0.03,
    kl_coeff: float = 0.0,
) -> Surrogate:
    """Compute the loss of V-GRPO (arXiv 2604.23380, eq. 14) on M pairs of noise and noise level.

    The ratio is ``exp(mean over pairs of (l_old - l))`` with `adaptive_error` l, the mean inside one exponential. The
    paper clips it at 0.03, or does not clip and adds ``kl_coeff * mean((x0hat - x0hat_old)^2)`` with 0.3. All samples
    of a group should share their pairs, so that chance does not decide which of them is recovered better.

    Args:
        predicted: clean latents that the policy predicts, ``[M, *N, ...]``.
        old_predicted: those that the policy of the rollout predicted, of the same shape; no gradient flows into them.
        clean: clean latents of the samples, ``[*N, ...]``.
        advantage: ``[*N]``; no gradient flows into it.
        clip_range: see `flexgym.flow.clipped_surrogate`; None for no clip.
        kl_coeff: weight of the squared distance to the old prediction.

    Returns:
        Loss, ratio and clip mask, each ``[*N]``.

    Raises:
        ConfigError: the shapes differ, the clip range is invalid, or kl_coeff is negative.
    """
    if not predicted.shape == old_predicted.shape == (len(predicted), *clean.shape):
        shapes = [list(tensor.shape) for tensor in (predicted, old_predicted, clean)]
        raise ConfigError(f"expected predictions [M, *N, ...] and clean latents [*N, ...], got {shapes}")
    if not kl_coeff >= 0:
        raise ConfigError(f"kl_coeff must be at least 0, got {kl_coeff}")
    lead, old = advantage.ndim + 1, old_predicted.detach()
    log_ratio = adaptive_error(old, clean, lead=lead) - adaptive_error(predicted, clean, lead=lead)
    limits = (1.0, math.inf) if clip_range is None else clip_range
    surrogate = clipped_surrogate(sequence_log_ratio(log_ratio), advantage, clip_range=limits)
    if not kl_coeff:
        return surrogate
    distance = (predicted - old).square().flatten(lead).mean(-1).mean(0)
    return Surrogate(surrogate.loss + kl_coeff * distance, surrogate.ratio, surrogate.clipped)


def solace_score(residual: Tensor, *, lead: int = 1) -> Tensor:
    """Compute a reward without a model: how well the generator recovers its own sample from K probes (SOLACE).

    It is ``-log(mean over probes of mean((v + x0 - noise)^2) + 1e-6)`` at one noise level, with pairs of probes whose
    noise is opposite. The authors normalize the scores of each level over the batch, weight them by ``t (1 - t)`` and
    add the levels.

    Args:
        residual: error of the velocity at each probe, ``[*N, K, ...]``.
        lead: number of leading dimensions N.

    Returns:
        ``[*N]``; higher for samples that are recovered better.
    """
    return -(matching_error(residual, lead=lead + 1).mean(-1) + 1e-6).log()


def _adaptive(error: Tensor) -> Tensor:
    """Divide the mean square over the last dimension by the mean absolute value."""
    weight = error.detach().double().abs().mean(-1).clamp(min=_FLOOR)
    return error.square().mean(-1) / weight.to(error.dtype)
