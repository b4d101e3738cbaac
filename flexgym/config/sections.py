"""The sections that recipes of agents, judge training and Stable-Baselines3 share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from flexgym.core.annotations import Spelled
from flexgym.core.seeds import Seed
from flexgym.core.settings import AsTuple, Settings

EXTRA_SAMPLES = 3
"""Further samples of the held-out prompts that diversity is measured on."""

_CLASS_PATH = re.compile(r"[\w.]+:\w+")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _or_name(field: str, name: Any, settings: Any) -> BeforeValidator:
    """Return a validator that accepts a name in place of settings whose only required field is that name.

    Args:
        field: the field.
        name: type of the name.
        settings: class of the settings.
    """
    return BeforeValidator(
        lambda value: {field: value} if isinstance(value, str) else value, json_schema_input_type=name | settings
    )


class AlarmSettings(Settings):
    """When a run says that its reward is being hacked, see `flexgym.runs.alarm.signs_of_hacking`."""

    patience: int = Field(default=3, ge=0, description="verifications in a row at which a metric is low; 0 for none")
    drop: float = Field(default=0.1, gt=0, lt=1, description="share by which it is below its best value")
    stop: bool = Field(default=False, description="end the run, as after its last iteration, instead of a warning")


class RecordSettings(Settings):
    """Samples and assessments that a run keeps at each verification, for reports; see `flexgym.runs.records`."""

    prompts: int = Field(
        default=64,
        ge=0,
        le=1000,
        description="held-out prompts whose samples are kept; of videos a quarter; 0 for none",
    )
    groups: int = Field(
        default=2, ge=0, le=100, description="groups that are kept with the assessments of the judge; 0 for none"
    )
    side: int = Field(default=256, ge=16, le=1024, description="longer side in pixels to which samples are reduced")


TrackerName = Literal["tensorboard", "wandb", "mlflow", "swanlab", "trackio"]


class TrackerSettings(Settings):
    """A tracker and its arguments."""

    tracker: TrackerName = Field(description="name of the tracker")
    settings: dict[str, Any] = Field(default={}, description="its keyword arguments, such as project")


Tracker = Annotated[
    TrackerSettings,
    _or_name("tracker", TrackerName, TrackerSettings),
    Spelled("a name or {tracker: name, settings: ...}"),
]
Trackers = Annotated[tuple[Tracker, ...], AsTuple]


class RunSettings(Settings):
    """Where a run writes, how long it takes, and its seed."""

    name: str = Field(default="run", description="name of the run folder")
    root: str = Field(default="runs", min_length=1, description="folder of the run folders, or a URL such as s3://")
    iterations: int = Field(default=100, ge=1, description="iterations in all")
    minutes: float | None = Field(
        default=None, gt=0, description="wall time after which the run ends; null for no limit"
    )
    checkpoint_interval: int = Field(default=20, ge=1, description="iterations between two checkpoints")
    keep: int = Field(default=3, ge=1, description="number of newest checkpoints to keep")
    seed: Seed = Field(default=0, description="seed of everything that training draws")
    max_restarts: int = Field(
        default=3, ge=0, description="restarts from the newest checkpoint after a lost learner or machine; 0 for none"
    )

    trackers: Trackers = Field(
        default=("tensorboard",),
        validate_default=True,
        description="where metrics, images and tables are shown besides the run folder: tensorboard, wandb, mlflow,"
        " swanlab or trackio, each by name or with settings",
    )
    alarm: AlarmSettings = AlarmSettings()
    records: RecordSettings = RecordSettings()

    @field_validator("trackers")
    @classmethod
    def _check_trackers(cls, trackers: tuple[TrackerSettings, ...]) -> tuple[TrackerSettings, ...]:
        names = [each.tracker for each in trackers]
        if len(set(names)) < len(names):
            raise ValueError(f"expected every tracker once, got {', '.join(names)}")
        return trackers

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _RUN_NAME.fullmatch(name):
            raise ValueError(
                "expected letters, digits, '.', '-' or '_', at most 100 and starting with a letter or digit"
            )
        return name


class WrapperSettings(Settings):
    """An environment wrapper and its arguments."""

    wrapper: str = Field(description="path of the class, 'package.module:Class'")
    settings: dict[str, Any] = Field(default={}, description="its keyword arguments")

    @field_validator("wrapper")
    @classmethod
    def _check_path(cls, wrapper: str) -> str:
        if not _CLASS_PATH.fullmatch(wrapper):
            raise ValueError("expected the path of a class, 'package.module:Class'")
        return wrapper


Wrapper = Annotated[
    WrapperSettings,
    _or_name("wrapper", str, WrapperSettings),
    Spelled("'package.module:Class' or {wrapper: 'package.module:Class', settings: ...}"),
]
Wrappers = Annotated[tuple[Wrapper, ...], AsTuple]


class EnvironmentSettings(Settings):
    """The environment that makes the samples."""

    env: str = Field(default="FlexT2I-v0", min_length=1, description="id of a registered environment")
    settings: dict[str, Any] = Field(default={}, description="further keyword arguments of the environment")
    wrappers: Wrappers = Field(
        default=(), description="wrappers around it, the innermost first: 'package.module:Class', or with settings"
    )


class WatchedReward(Settings):
    """A reward that is logged and never optimized."""

    reward: str = Field(min_length=1, description="name of the reward")
    name: str = Field(default="", description="name in the metrics; that of the reward by default")
    settings: dict[str, Any] = Field(default={}, description="its arguments")

    @property
    def title(self) -> str:
        """Return the name in the metrics."""
        return self.name or self.reward


Watched = Annotated[
    WatchedReward,
    BeforeValidator(
        lambda value: {"reward": value, "name": value} if isinstance(value, str) else value,
        json_schema_input_type=str | WatchedReward,
    ),
    Spelled("name or {reward: name, settings: ...}"),
]
WatchedRewards = Annotated[tuple[Watched, ...], AsTuple]


class RewardSettings(Settings):
    """The reward that is optimized, and those that are only logged."""

    name: str = Field(min_length=1, description="name of the reward, or 'package.module:Class'")
    settings: dict[str, Any] = Field(default={}, description="its arguments")
    monitors: WatchedRewards = Field(
        default=(),
        description="rewards whose mean over each rollout is logged as monitor/<name>: names, or with settings",
    )


Prompts = Annotated[
    str | Annotated[tuple[str | Mapping[str, Any], ...], AsTuple] | None, Spelled("file, list of prompts or null")
]


Split = Literal["training", "validation", "test"]
SPLIT: Split = Field(
    default="validation",
    description="captions of the small world that the built-in prompts are drawn from: validation for tuning, test for"
    " reporting",
)
AUDIT: bool = Field(
    default=True, description="check samples of the small world with the independent verifier as well, as eval/audit"
)


class VerificationSettings(Settings):
    """How progress is measured: on held-out prompts, by a verifier that is not optimized."""

    reward: str | None = Field(
        default=None,
        description="name of a pointwise reward that gives 1.0 to a sample without fault; null verifies nothing",
    )
    rewards: WatchedRewards = Field(
        default=(), description="rewards that score the same samples, logged as eval/<name>"
    )
    prompts: Prompts = Field(default=None, description="held-out prompts: a file or a list; null for the built-in ones")
    split: Split = SPLIT
    audit: bool = AUDIT
    num_prompts: int = Field(default=400, ge=1, description="number of held-out prompts")
    interval: int = Field(
        default=20, ge=0, description="iterations between two verifications; 0 for only before and after"
    )
    seed: Seed = Field(default=7, description="seed of the prompts drawn and of their first latents")
    rows_per_forward: int = Field(
        default=64,
        ge=1,
        description="held-out samples in one forward of a learner; kernels round differently for others",
    )
    sampler: Literal["rollout", "pipeline"] = Field(
        default="rollout",
        description="steps of the samples: the Euler steps of rollouts, or the pipeline's own solver (UniPC, ...);"
        " exports hold the same one",
    )
    trained_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the steps, from the noisiest on, that the trained weights take; the reference takes the"
        " others, against reward hacking",
    )
    groups: int | None = Field(
        default=None, ge=0, description="prompts with three more samples each, to measure diversity; null for one in 25"
    )

    def diverse_prompts(self, prompts: int) -> list[int]:
        """Return the indices, evenly spaced, of the held-out prompts that are sampled more than once.

        Args:
            prompts: number of held-out prompts.
        """
        wanted = -(-prompts // 25) if self.groups is None else self.groups
        count = min(wanted, prompts)
        return [number * prompts // count for number in range(count)]


class LearnerResources(Settings):
    """The processes that train, and their devices."""

    num_learners: int = Field(
        default=0, ge=0, description="learner processes; 0 trains in the process that starts the run"
    )
    num_gpus_per_learner: float = Field(default=0, ge=0, description="GPUs of each learner")
    num_cpus_per_learner: float | Literal["auto"] = Field(
        default="auto", description="CPUs of each learner; auto is 1 without a GPU, else 0"
    )
    wait_s: float = Field(
        default=900.0,
        ge=0,
        description="seconds to wait for devices of a busy or growing cluster, before the run fails",
    )
    autoscaling: bool = Field(
        default=False, description="the cluster starts machines on demand: wait also for devices that it lacks now"
    )


class ResourceSettings(LearnerResources):
    """The processes that train and sample, and their devices."""

    num_env_runners: int = Field(default=0, ge=0, description="processes that only sample; 0 lets the learners sample")
    num_gpus_per_env_runner: float = Field(default=0, ge=0, description="GPUs of each env runner")
    num_cpus_per_env_runner: float = Field(default=1, ge=0, description="CPUs of each env runner")


class LearnerOptions(Settings):
    """The options of RLlib's learners that have an effect here; all others follow from the other sections."""

    grad_clip_by: Literal["global_norm", "norm", "value"] = Field(
        default="global_norm", description="clip gradients by their joint norm, each by its own norm, or each value"
    )
    torch_ddp_kwargs: dict[str, Any] = Field(
        default={}, description="arguments of torch's DistributedDataParallel, such as bucket_cap_mb"
    )
    custom_resources_per_learner: dict[str, float] = Field(
        default={}, description="further Ray resources of each learner"
    )


class RLlibSettings(LearnerOptions):
    """The options of RLlib that have an effect here; all others follow from the other sections."""

    custom_resources_per_env_runner: dict[str, float] = Field(
        default={}, description="further Ray resources of each env runner"
    )
    restart_failed_env_runners: bool = Field(
        default=True, description="start an env runner again when its process is lost"
    )
    max_num_env_runner_restarts: int = Field(default=1000, ge=0, description="restarts of all env runners together")
    env_runner_health_probe_timeout_s: float = Field(
        default=30.0, gt=0, description="seconds to wait for a sign of life"
    )
    env_runner_restore_timeout_s: float = Field(
        default=1800.0, gt=0, description="seconds to wait for a restarted env runner"
    )
