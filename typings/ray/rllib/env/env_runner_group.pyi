from collections.abc import Callable, Sequence
from typing import Any

class EnvRunnerGroup:
    def healthy_env_runner_ids(self) -> list[int]: ...
    def foreach_env_runner(
        self,
        func: Callable[..., Any] | Sequence[Callable[..., Any]],
        *,
        local_env_runner: bool = True,
        remote_worker_ids: Sequence[int] | None = None,
    ) -> list[Any]: ...
    def sync_weights(
        self, *, from_worker_or_learner_group: Any = None, inference_only: bool = False, **kwargs: Any
    ) -> None: ...
