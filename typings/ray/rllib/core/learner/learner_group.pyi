from collections.abc import Callable, Iterable
from typing import Any

class CallResult:
    actor_id: int | None
    ok: bool
    def get(self) -> Any: ...

class ActorManager:
    def set_actor_state(self, actor_id: int | None, healthy: bool) -> None: ...

class LearnerGroup:
    _learner: Any
    _workers: list[Any]
    @property
    def is_local(self) -> bool: ...
    _worker_manager: ActorManager
    def foreach_learner(self, func: Callable[..., Any]) -> Iterable[CallResult]: ...
