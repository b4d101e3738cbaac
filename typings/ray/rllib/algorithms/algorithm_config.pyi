from collections.abc import Mapping, Sequence
from typing import Any, Self

from gymnasium import Space
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

NotProvided: Any

class AlgorithmConfig:
    action_space: Space[Any] | None
    algo_class: type | None
    env: Any
    env_config: dict[str, Any]
    grad_clip: float | None
    grad_clip_by: str
    lr: float | Sequence[Sequence[float]]
    num_env_runners: int
    num_gpus_per_env_runner: float
    num_gpus_per_learner: float
    num_learners: int
    observation_space: Space[Any] | None
    seed: int | None
    _is_online: bool
    def __init__(self, algo_class: type | None = None) -> None: ...
    def build_algo(self) -> Any: ...
    def copy(self, copy_frozen: bool | None = None) -> Self: ...
    def freeze(self) -> None: ...
    def validate(self) -> None: ...
    def get_default_learner_class(self) -> type: ...
    def get_default_rl_module_spec(self) -> RLModuleSpec: ...
    def get_rl_module_spec(
        self, env: Any = None, spaces: Mapping[str, Any] | None = None, inference_only: bool | None = None
    ) -> RLModuleSpec: ...
    def training(
        self,
        *,
        lr: float | Sequence[Sequence[float]] = ...,
        grad_clip: float | None = ...,
        grad_clip_by: str = ...,
        train_batch_size: int = ...,
    ) -> Self: ...
    def environment(
        self,
        env: Any = ...,
        *,
        env_config: Mapping[str, Any] = ...,
        observation_space: Space[Any] | None = ...,
        action_space: Space[Any] | None = ...,
        disable_env_checking: bool = ...,
    ) -> Self: ...
    def api_stack(
        self, *, enable_rl_module_and_learner: bool = ..., enable_env_runner_and_connector_v2: bool = ...
    ) -> Self: ...
    def env_runners(
        self,
        *,
        env_runner_cls: type | None = ...,
        num_env_runners: int = ...,
        num_cpus_per_env_runner: float = ...,
        num_gpus_per_env_runner: float = ...,
        create_local_env_runner: bool = ...,
        sample_timeout_s: float | None = ...,
        custom_resources_per_env_runner: Mapping[str, float] = ...,
    ) -> Self: ...
    def learners(
        self,
        *,
        num_learners: int = ...,
        num_cpus_per_learner: float | str = ...,
        num_gpus_per_learner: float = ...,
        local_gpu_idx: int = ...,
        custom_resources_per_learner: Mapping[str, float] = ...,
        learner_class: type | None = ...,
    ) -> Self: ...
    def framework(self, framework: str = ..., *, torch_ddp_kwargs: Mapping[str, Any] = ...) -> Self: ...
    def debugging(self, *, seed: int | None = ..., log_level: str = ...) -> Self: ...
    def fault_tolerance(
        self,
        *,
        restart_failed_env_runners: bool = ...,
        ignore_env_runner_failures: bool = ...,
        max_num_env_runner_restarts: int = ...,
        env_runner_health_probe_timeout_s: float = ...,
        env_runner_restore_timeout_s: float = ...,
    ) -> Self: ...
