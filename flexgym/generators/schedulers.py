"""Meaning of each setting of a pipeline's scheduler for rollouts, which take Euler steps on its noise levels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from flexgym.core.errors import CheckpointError, GeneratorError
from flexgym.core.json_text import parse_json
from flexgym.generators.folder import read_json
from flexgym.generators.sampling import Sampler

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

EULER = "FlowMatchEulerDiscreteScheduler"
GRID_FILE = "grid.json"
"""File beside the config of an exported scheduler that must be given its noise levels."""
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
    followed = SCHEDULERS[name].solver - (frozenset() if config.get("thresholding") else _THRESHOLD)
    return f"{name} ({', '.join(f'{setting}={config[setting]}' for setting in sorted(followed) if config[setting])})"


def solver_note(scheduler: Any, sampler: Sampler | None = None) -> str:
    """Return one line for the log of a run whose pipeline does not take Euler steps itself; empty for others.

    Args:
        scheduler: that of the pipeline.
        sampler: of verification; None where there is no choice.
    """
    solver = own_solver(scheduler)
    if not solver:
        return ""
    verified = {
        "rollout": "; verification and exports take these steps too (verification.sampler=pipeline for its own)",
        "pipeline": "; verification and exports keep its own solver",
    }
    follow = verified[sampler] if sampler else ""
    return f"Rollouts take Euler steps on the noise levels of the pipeline's {solver}{follow}."


@dataclass(frozen=True, eq=False)
class ExportedScheduler:
    """Scheduler for an exported generator, under which the pipeline samples as it was verified.

    Attributes:
        scheduler: of diffusers.
        grid: content of `GRID_FILE`: the noise levels of the steps, which `scheduler` must be given, and the config of
            the scheduler that computed them. None where `scheduler` computes them itself.
    """

    scheduler: Any
    grid: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, scheduler: Any, sigmas: Tensor, sampler: Sampler) -> ExportedScheduler:
        """Choose the scheduler.

        Args:
            scheduler: that of the pipeline.
            sigmas: noise levels of a run, ``[T + 1]``.
            sampler: that of verification; ``"pipeline"`` keeps the pipeline's own scheduler.
        """
        if sampler == "pipeline" or not own_solver(scheduler):
            return cls(scheduler)
        if type(scheduler).__name__ == EULER:
            return cls(type(scheduler).from_config(scheduler.config, stochastic_sampling=False))
        from diffusers import FlowMatchEulerDiscreteScheduler

        euler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=scheduler.config.num_train_timesteps)
        settings = parse_json(scheduler.to_json_string(), nan=True)
        return cls(euler, {"sigmas": sigmas[:-1].tolist(), "scheduler": settings})

    def write(self, folder: Path) -> None:
        """Write config and noise levels into the folder of the scheduler."""
        self.scheduler.save_pretrained(folder)
        if self.grid is not None:
            (folder / GRID_FILE).write_text(json.dumps(self.grid, indent=2) + "\n", encoding="utf-8")


def restore_grid_scheduler(pipe: DiffusionPipeline, folder: Path) -> None:
    """Give an exported pipeline back the scheduler that computes its noise levels, for any number of steps.

    Args:
        pipe: loaded from the folder.
        folder: of the checkpoint; nothing is done without `GRID_FILE` in it.

    Raises:
        CheckpointError: the file is no JSON object.
        GeneratorError: it names a scheduler that cannot be used, see `check_scheduler`.
    """
    path = folder / "scheduler" / GRID_FILE
    if not path.is_file():
        return
    import diffusers

    config = read_json(path).get("scheduler")
    if not isinstance(config, dict):
        raise CheckpointError(f"expected the config of a scheduler under 'scheduler' in {path}, got {config!r}")
    name = str(config.get("_class_name"))
    check_scheduler(name, config)
    pipe.register_modules(scheduler=getattr(diffusers, name).from_config(config))
