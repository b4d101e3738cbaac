"""Noise levels (sigmas) of the denoising steps, exactly as the scheduler of a diffusers pipeline sets them."""

from __future__ import annotations

import copy
import inspect
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flexgym.core.errors import ConfigError, GeneratorError, unknown_name

Spacing = Literal["auto", "linear", "linear32", "linear unless flow sigmas", "scheduler"]
_GRID_SETTINGS = (
    *("invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    *("final_sigmas_type", "use_dynamic_shifting", "time_shift_type", "shift_terminal", "shift", "flow_shift"),
)
_SPACINGS = ("auto", "linear", "linear32", "linear unless flow sigmas", "scheduler")


def sigma_grid(
    scheduler: Any,
    num_steps: int,
    *,
    image_seq_len: int | None = None,
    mu: float | None = None,
    spacing: Spacing = "auto",
) -> Tensor:
    """Compute the noise levels of ``num_steps`` denoising steps.

    A copy of the scheduler computes them, so its state does not change. Pipelines call it in different ways: Lumina,
    LTX and Qwen-Image pass ``linspace(1, 1/n, n)``, which is ``"linear"`` (``"linear32"`` if it is computed in float32,
    as in Z-Image; the last bit differs); SD3, Wan and Sana pass the number of steps alone, which is ``"scheduler"``.
    FLUX does the latter for schedulers with ``use_flow_sigmas`` and the former for others. The last step then differs
    much: with shift 3 and 10 steps it starts at sigma 0.25 or at 0.009. ``"auto"`` is linear with dynamic shifting and
    the spacing of the scheduler otherwise.

    Args:
        scheduler: a diffusers flow-matching scheduler (Euler, or UniPC or DPM-Solver++ with flow sigmas).
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
    return _checked(
        timed_scheduler(scheduler, num_steps, image_seq_len=image_seq_len, mu=mu, spacing=spacing), num_steps
    )


def timed_scheduler(
    scheduler: Any,
    num_steps: int,
    *,
    image_seq_len: int | None = None,
    mu: float | None = None,
    spacing: Spacing = "auto",
    device: torch.device | None = None,
) -> Any:
    """Copy a scheduler and set the time steps of a run as a pipeline does.

    Args:
        scheduler: as for `sigma_grid`, which also explains the other arguments and errors.
        num_steps: number of denoising steps, T.
        image_seq_len: number of image tokens.
        mu: exponent of the shift.
        spacing: spacing of the levels before shifting.
        device: of the time steps; the CPU by default.

    Returns:
        The copy, ready for its first step.
    """
    if num_steps < 1:
        raise ConfigError(f"num_steps must be at least 1, got {num_steps}")
    if spacing not in _SPACINGS:
        raise unknown_name("spacing", spacing, _SPACINGS)
    own = copy.deepcopy(scheduler)
    arguments: dict[str, Any] = {}
    dynamic = bool(own.config.get("use_dynamic_shifting", False))
    flow_sigmas = bool(own.config.get("use_flow_sigmas", False))
    if dynamic:
        arguments["mu"] = _dynamic_mu(own.config, image_seq_len) if mu is None else mu
    chosen = {"auto": dynamic and not flow_sigmas, "linear unless flow sigmas": not flow_sigmas}
    if spacing == "linear" or chosen.get(spacing):
        arguments["sigmas"] = linear_sigmas(num_steps)
    elif spacing == "linear32":
        arguments["sigmas"] = torch.linspace(1.0, 1.0 / num_steps, num_steps).tolist()
    else:
        arguments["num_inference_steps"] = num_steps
    missing = arguments.keys() - inspect.signature(own.set_timesteps).parameters.keys()
    if missing:
        raise GeneratorError(
            f"the pipeline passes {sorted(missing)} to set_timesteps, which {type(own).__name__} does not take: give"
            " the pipeline a FlowMatchEulerDiscreteScheduler"
        )
    try:
        own.set_timesteps(**arguments, device=device)
    except (AssertionError, TypeError, ValueError) as error:
        raise GeneratorError(
            f"{type(own).__name__} sets no time steps from {sorted(arguments)}, which the pipeline passes"
            f" ({type(error).__name__}: {error}){_grid_settings(own)}"
        ) from error
    return own


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
            f"expected strictly decreasing levels within [0, 1], from noise to sample{_grid_settings(scheduler)}"
        )
    return sigmas


def _grid_settings(scheduler: Any) -> str:
    """Name the settings that may be at fault for a grid."""
    chosen = {name: scheduler.config.get(name) for name in _GRID_SETTINGS}
    named = ", ".join(f"{name}={value!r}" for name, value in chosen.items() if value)
    return f"; its config has {named}" if named else ""
