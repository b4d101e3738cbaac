"""Mathematics of flow-matching RL as pure functions in float32: steps, noise levels, windows, advantages, losses."""

from flexgym.flow.advantage import blended_advantages, group_advantages
from flexgym.flow.loss import Surrogate, clipped_surrogate, guarded_log_ratio, kl_penalty
from flexgym.flow.sigmas import dynamic_shift_mu, linear_sigmas, sigma_grid, timed_scheduler
from flexgym.flow.transition import (
    CPS,
    ODE,
    DanceSDE,
    FlowSDE,
    Gaussian,
    NoiseScale,
    clean_gaussian,
    noise_scale,
    per_row,
    predicted_clean,
    transition,
)
from flexgym.flow.window import Window, WindowSchedule, deterministic_steps, noise_after, require_stochastic

__all__ = [
    "CPS",
    "ODE",
    "DanceSDE",
    "FlowSDE",
    "Gaussian",
    "NoiseScale",
    "Surrogate",
    "Window",
    "WindowSchedule",
    "blended_advantages",
    "clean_gaussian",
    "clipped_surrogate",
    "deterministic_steps",
    "dynamic_shift_mu",
    "group_advantages",
    "guarded_log_ratio",
    "kl_penalty",
    "linear_sigmas",
    "noise_after",
    "noise_scale",
    "per_row",
    "predicted_clean",
    "require_stochastic",
    "sigma_grid",
    "timed_scheduler",
    "transition",
]
