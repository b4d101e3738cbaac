"""Loss of DiffusionNFT: matching toward good samples and away from bad ones, without a likelihood ratio."""

from __future__ import annotations

from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.flow.matching import adaptive_error
from flexgym.flow.shaping import OptimalityMode, optimality


def nft_loss(
    mean: Tensor,
    old_mean: Tensor,
    clean: Tensor,
    *,
    advantage: Tensor,
    beta: float,
    clip: float = 5.0,
    mode: OptimalityMode = "all",
) -> Tensor:
    """Compute the loss of arXiv 2509.16117 per sample, ``clip * (r * l_plus + (1 - r) * l_minus) / beta``.

    The branches are the errors (`flexgym.flow.adaptive_error`) of the predictions ``old + beta (mean - old)`` and
    ``old - beta (mean - old)``, and r is the `flexgym.flow.optimality` of a sample. Where the old policy is the current
    one, the gradient does not depend on beta: it is that of advantage-weighted matching with an adaptive weight. Away
    from it the loss is convex for every advantage, with its minimum at ``A / (5 beta)`` of the residual.

    Args:
        mean: clean latents that the policy predicts, ``[*N, ...]`` with any leading dimensions N, such as ``[P, G]``.
        old_mean: those that the policy that sampled predicted, of the same shape; no gradient flows into them.
        clean: clean latents of the samples, of the same shape.
        advantage: of the samples, ``[*N]``.
        beta: distance of the branches from the old policy, above 0.
        clip: advantages within -clip and clip become probabilities r within 0 and 1.
        mode: which advantages count, see `flexgym.flow.optimality`.

    Returns:
        ``[*N]``.

    Raises:
        ConfigError: beta or the clip is not positive, or the shapes differ.
        UnknownNameError: the mode is unknown.
    """
    if not beta > 0:
        raise ConfigError(f"beta of DiffusionNFT must be positive, got {beta}")
    if not mean.shape == old_mean.shape == clean.shape:
        shapes = [list(tensor.shape) for tensor in (mean, old_mean, clean)]
        raise ConfigError(f"mean, old_mean and clean must have the same shape, got {shapes}")
    good, old = optimality(advantage, clip=clip, mode=mode), old_mean.detach()
    branches = (old + side * beta * (mean - old) for side in (1, -1))
    positive, negative = (adaptive_error(each, clean, lead=advantage.ndim) for each in branches)
    return clip * (good * positive + (1 - good) * negative) / beta
