"""Meaning of each setting of a pipeline's scheduler for rollouts, which take Euler steps on its noise levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexgym.core.errors import GeneratorError

EULER = "FlowMatchEulerDiscreteScheduler"
_BETAS = frozenset({"beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"})
_SHIFT = frozenset({"num_train_timesteps", "flow_shift", "use_dynamic_shifting"})
_THRESHOLD = frozenset({"thresholding", "dynamic_thresholding_ratio", "sample_max_value"})
_DPM_SOLVER = {"solver_order", "algorithm_type", "solver_type", "lower_order_final", "variance_type"}
_DPM_LEVELS = {"use_karras_sigmas": False, "time_shift_type": "exponential"}
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_FLOW_LEVELS = {"use_exponential_sigmas": False, "use_beta_sigmas": False, "final_sigmas_type": "zero"}


@dataclass(frozen=True)
class SchedulerSettings:
    """Meaning of each setting of one class of schedulers.

    Attributes:
        grid: settings that decide noise levels and time steps. Rollouts follow them.
        solver: settings of the steps between the levels. Only the pipeline's own solver follows them; rollouts take
            Euler steps.
        fixed: settings with the one value that rollouts support.
        unused: settings without effect on flow matching, for the pipeline itself as well.
    """

    grid: frozenset[str]
    solver: frozenset[str]
    fixed: Mapping[str, Any]
    unused: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Return all settings of the class."""
        return self.grid | self.solver | frozenset(self.fixed) | self.unused


SCHEDULERS: Mapping[str, SchedulerSettings] = {
    EULER: SchedulerSettings(
        grid=frozenset({
            *("num_train_timesteps", "shift", "use_dynamic_shifting", "base_shift", "max_shift"),
            *("base_image_seq_len", "max_image_seq_len", "shift_terminal", "time_shift_type"),
            *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
        }),
        solver=frozenset({"stochastic_sampling"}),
        fixed={"invert_sigmas": False},
    ),
    "UniPCMultistepScheduler": SchedulerSettings(
        grid=_SHIFT | _BETAS | {"time_shift_type", "shift_terminal", "use_karras_sigmas", "sigma_min", "sigma_max"},
        solver=_THRESHOLD
        | {"solver_order", "predict_x0", "solver_type", "lower_order_final", "disable_corrector", "solver_p"},
        fixed={**_FLOW, **_FLOW_LEVELS},
        unused=frozenset({"timestep_spacing", "steps_offset"}),
    ),
    "DPMSolverMultistepScheduler": SchedulerSettings(
        grid=_SHIFT,
        solver=_THRESHOLD | _DPM_SOLVER | {"euler_at_final"},
        fixed={**_FLOW, **_FLOW_LEVELS, **_DPM_LEVELS, "use_lu_lambdas": False},
        unused=_BETAS | {"timestep_spacing", "steps_offset", "lambda_min_clipped"},
    ),
    "DPMSolverSinglestepScheduler": SchedulerSettings(
        grid=_SHIFT,
        solver=_THRESHOLD | _DPM_SOLVER,
        fixed={**_FLOW, **_FLOW_LEVELS, **_DPM_LEVELS},
        unused=(_BETAS - {"rescale_betas_zero_snr"}) | {"lambda_min_clipped"},
    ),
}  # fmt: skip
"""Schedulers that a pipeline may have. Rollouts walk the noise levels of each; only the first one steps as they do."""


def check_scheduler(name: str, config: Mapping[str, Any]) -> None:
    """Reject a scheduler whose noise levels rollouts cannot follow, or one with such a setting.

    Settings that the class does not have, as `from_config` of another scheduler leaves them behind, are accepted: they
    have no effect on the pipeline either.

    Args:
        name: its class.
        config: its settings.

    Raises:
        GeneratorError: naming what was expected and what came.
    """
    known = SCHEDULERS.get(name)
    if known is None:
        raise GeneratorError(
            f"expected a flow-matching scheduler ({EULER}, or one of {', '.join([*SCHEDULERS][1:])} with"
            f" use_flow_sigmas and prediction_type 'flow_prediction'), got {name}: a diffusion model has no velocity"
            " to train, and the noise levels of other flow-matching schedulers have another meaning"
        )
    for setting, expected in known.fixed.items():
        # a file may leave out a setting that is off by default, or say null
        found = config.get(setting, expected if name == EULER or setting not in _FLOW else None)
        if found != expected and not (expected is False and not found):
            raise GeneratorError(f"expected {setting}={expected!r} in the config of {name}, got {found!r}")
    steps = config.get("num_train_timesteps", 1000)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise GeneratorError(f"expected num_train_timesteps of {name} to be a whole number above 0, got {steps!r}")


def own_solver(scheduler: Any) -> str:
    """Describe the solver of a pipeline, where its steps are not the Euler steps of rollouts.

    Args:
        scheduler: that of the pipeline.

    Returns:
        Class and the settings that only this solver follows; empty where its steps are plain Euler steps.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if name == EULER and not config.get("stochastic_sampling"):
        return ""
    used = SCHEDULERS[name].solver if name in SCHEDULERS else ()
    return f"{name} ({', '.join(f'{setting}={config[setting]}' for setting in sorted(used) if setting in config)})"
