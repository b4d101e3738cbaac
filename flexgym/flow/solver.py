"""Steps of second order along the ODE, for the steps of a sampler that are not trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

Solver = Literal["euler", "dpm++2m"]
"""How steps are taken that training does not depend on."""


def dpm_step(latents: Tensor, clean: Tensor, before: Tensor | None = None, *, levels: Sequence[float]) -> Tensor:
    """Take a step of DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2) in flow form.

    With ``lambda(s) = log((1 - s) / s)``, ``h = lambda(s') - lambda(s)`` and ``h0`` the same of the step before::

        D  = clean + h / (2 h0) (clean - before)
        x' = (s' / s) x + (1 - s' / s) D

    Without the step before, and to level 0, where h is infinite, ``D = clean``, which is an Euler step. These are the
    steps of diffusers' `DPMSolverMultistepScheduler` with ``use_flow_sigmas`` and the solver type midpoint.

    Args:
        latents: x, ``[B, ...]``.
        clean: clean latents that the model predicts from them, of the same shape.
        before: the prediction one step earlier; None for a step of first order.
        levels: noise levels of the step before, of the latents, and after the step; they fall.

    Returns:
        The latents after the step, ``[B, ...]``.
    """
    earlier, now, after = levels
    ratio = after / now
    if before is not None and after > 0.0:
        length, last = _log_snr(after) - _log_snr(now), _log_snr(now) - _log_snr(earlier)
        clean = clean + (0.5 * length / last) * (clean - before)
    return ratio * latents + (1.0 - ratio) * clean


def _log_snr(level: float) -> float:
    """Return ``log((1 - s) / s)`` of a level above 0; minus infinity for pure noise."""
    return math.log1p(-level) - math.log(level) if level < 1.0 else -math.inf
