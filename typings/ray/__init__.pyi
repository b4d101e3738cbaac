from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

class ObjectRef(Generic[_T]): ...

def init(
    *,
    address: str | None = None,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    include_dashboard: bool | None = None,
    log_to_driver: bool = True,
    logging_level: int = ...,
    ignore_reinit_error: bool = False,
    runtime_env: dict[str, Any] | None = None,
) -> Any: ...
def is_initialized() -> bool: ...
def shutdown() -> None: ...
def put(value: _T) -> ObjectRef[_T]: ...
def get(object_refs: ObjectRef[_T]) -> _T: ...
