"""Noise levels (sigmas) of the denoising steps, exactly as the scheduler of a diffusers pipeline sets them."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flexgym.core.errors import ConfigError, GeneratorError, unknown_name

Spacing = Literal["auto", "linear", "linear32", "scheduler"]
_SPACINGS = ("auto", "linear", "linear32", "scheduler")


def sigma_grid(
    scheduler: Any,
    num_steps: int,
    *,
    image_seq_len: int | None = None,
    mu: float | None = None,
    spacing: Spacing = "auto",
) -> Tensor:
    """Compute the noise levels of ``num_steps`` denoising steps.

    A copy of the scheduler computes them, so its state does not change. Pipelines call it in different ways: FLUX,
    Qwen-Image, LTX and Lumina pass ``linspace(1, 1/n, n)``, which is ``"linear"`` (``"linear32"`` if it is computed in
    float32, as in Z-Image; the last bit differs); SD3, Wan and Sana pass the number of steps alone, which is
    ``"scheduler"``. The last step then differs much: with shift 3 and 10 steps it starts at sigma 0.25 or at 0.009.
    ``"auto"`` is linear with dynamic shifting and the spacing of the scheduler otherwise.

    Args:
        scheduler: a diffusers flow-matching scheduler (Euler, or UniPC with flow sigmas).
        num_steps: number of denoising steps, T.
        image_seq_len: number of image tokens, which determines ``mu`` under dynamic shifting.
        mu: exponent of the shift, for families with a rule of their own (FLUX.2); overrides ``image_seq_len``.
        spacing: spacing of the levels before shifting.

    Returns:
        float32 ``[T + 1]``, strictly decreasing within [0, 1].

    Raises:
        ConfigError: ``num_steps`` is below 1, or neither ``image_seq_len`` nor ``mu`` is given for dynamic shifting.
        GeneratorError: the scheduler does not follow the convention of flow matching.
        UnknownNameError: the spacing is unknown.
    """
    if num_steps < 1:
        raise ConfigError(f"num_steps must be at least 1, got {num_steps}")
    if spacing not in _SPACINGS:
        raise unknown_name("spacing", spacing, _SPACINGS)
    own = copy.deepcopy(scheduler)
    arguments: dict[str, Any] = {}
    dynamic = bool(own.config.get("use_dynamic_shifting", False))
    if dynamic:
        arguments["mu"] = _dynamic_mu(own.config, image_seq_len) if mu is None else mu
    if spacing == "linear" or (spacing == "auto" and dynamic and not own.config.get("use_flow_sigmas", False)):
        arguments["sigmas"] = linear_sigmas(num_steps)
    elif spacing == "linear32":
        arguments["sigmas"] = torch.linspace(1.0, 1.0 / num_steps, num_steps).tolist()
    else:
        arguments["num_inference_steps"] = num_steps
    own.set_timesteps(**arguments)
    return _checked(own, num_steps)


def linear_sigmas(num_steps: int) -> np.ndarray:
    """Return evenly spaced noise levels before shifting, ``1, ..., 1/n``, without the final 0.

    Args:
        num_steps: number of denoising steps, T.

    Returns:
        float64 ``[T]``.
    """
    return np.linspace(1.0, 1.0 / num_steps, num_steps)


def dynamic_shift_mu(
    image_seq_len: int,
    base_seq_len: int = 256,
    max_seq_len: int = 4096,
    *,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:
    """Compute the exponent of resolution-dependent shifting on a line through two (tokens, shift) points, as in FLUX.

    Args:
        image_seq_len: number of image tokens.
        base_seq_len: number of tokens at the first point.
        max_seq_len: number of tokens at the second point.
        base_shift: value at the first point.
        max_shift: value at the second point.

    Returns:
        ``mu``; the shift itself is ``exp(mu)``.
    """
    # The order of operations of the pipelines, so that the grids agree to the bit.
    slope = (max_shift - base_shift) / (max_seq_len - base_seq_len)
    return image_seq_len * slope + (base_shift - slope * base_seq_len)


def _dynamic_mu(config: Any, image_seq_len: int | None) -> float:
    if image_seq_len is None:
        raise ConfigError(
            "this scheduler shifts its noise levels with the resolution (use_dynamic_shifting): "
            "pass image_seq_len, the number of image tokens, or mu"
        )
    return dynamic_shift_mu(
        image_seq_len,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        base_shift=config.get("base_shift", 0.5),
        max_shift=config.get("max_shift", 1.15),
    )


def _checked(scheduler: Any, num_steps: int) -> Tensor:
    """Return the noise levels of a scheduler after checking that they follow the convention of flow matching."""
    kind = type(scheduler).__name__
    levels = getattr(scheduler, "sigmas", None)
    if levels is None:
        raise GeneratorError(f"{kind} has no sigmas; expected a flow-matching scheduler such as Euler or UniPC")
    sigmas = torch.as_tensor(levels).detach().to(device="cpu", dtype=torch.float32)
    if sigmas.shape != (num_steps + 1,):
        raise GeneratorError(f"{kind} gave {len(sigmas)} noise levels for {num_steps} steps, expected {num_steps + 1}")
    decreasing = bool((sigmas.diff() < 0).all())
    if not (decreasing and sigmas[-1] >= 0.0 and sigmas[0] <= 1.0):
        raise GeneratorError(
            f"{kind} goes from sigma {sigmas[0]:.4g} to {sigmas[-1]:.4g}; "
            "expected strictly decreasing levels within [0, 1], from noise to sample"
        )
    return sigmas
