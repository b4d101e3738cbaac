"""Find out from an error whether a process or machine of the cluster was lost."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import ray
from ray import exceptions

from flexgym.core.errors import FlexGymError, ProcessLostError

F = TypeVar("F", bound=Callable[..., Any])
_LOST = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.ObjectLostError,
    exceptions.OutOfMemoryError,
    exceptions.RpcError,
)
_CAUSES = {
    "low on memory": "Ray killed it since its machine ran low on memory",
    "owner has died": "the part of Ray on this machine was lost",
    "node has died": "its machine was lost",
    "node was terminated": "its machine was lost",
    "is unavailable": "it does not answer any more",
    "worker process has died": "it was killed or crashed, often for lack of memory",
}
"""Causes by a part of Ray's error."""
_PATIENCE_S = 5.0


def reports_losses(method: F) -> F:
    """Let a method of `flexgym.rllib.trainable.RLlibTrainable` raise `ProcessLostError` where a process was lost.

    RLlib and Ray report a loss as any of several errors, and the other processes as whatever failed in them for it.
    """

    @functools.wraps(method)
    def reporting(trainable: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(trainable, *args, **kwargs)
        except KeyboardInterrupt:
            trainable.failure = "interrupted"
            raise
        except ProcessLostError:
            trainable.failure = "lost"
            raise
        except Exception as error:
            loss = describe_loss(error, trainable.workers())
            if loss is None:
                raise
            trainable.failure = "lost"
            raise ProcessLostError(loss) from error

    return cast(F, reporting)


def describe_loss(error: BaseException, workers: dict[str, Any]) -> str | None:
    """Say in a sentence which process was lost; None where the error has another reason.

    Args:
        error: what a call of Ray or RLlib raised.
        workers: handles of the actors that take part, by name, such as ``"learner 0"``.
    """
    if isinstance(error, FlexGymError):
        return None
    names = {worker._actor_id.hex(): name for name, worker in workers.items()}
    for each in _chain(error):
        if isinstance(each, exceptions.RayActorError) and each.actor_init_failed:
            return None  # an error of the program, raised while the actor was made
        if isinstance(each, exceptions.RayActorError):
            return f"{names.get(each.actor_id or '', 'a process of Ray')}{_reason(str(each))}"
        if isinstance(each, _LOST):
            return f"a process of Ray: {_first_line(each)}"
    if not isinstance(error, exceptions.RayError | RuntimeError | AssertionError | IndexError | ConnectionError):
        return None
    lost = lost_workers(workers)
    return f"{', '.join(lost)}, after which the others failed: {_first_line(error)}" if lost else None


def lost_workers(workers: dict[str, Any]) -> list[str]:
    """Return the names of the actors that are dead; one that is busy counts as alive."""
    try:
        calls = {worker.__ray_ready__.remote(): name for name, worker in workers.items()}
        ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_PATIENCE_S) if calls else ([], [])
    except exceptions.RayError:  # the connection to Ray is what was lost
        return list(workers)
    return [calls[call] for call in ready if _is_dead(call)]


def _is_dead(call: Any) -> bool:
    try:
        ray.get(call)
    except exceptions.RayError:
        return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those behind it."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [getattr(each, "cause", None), each.__cause__, each.__context__]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1 if isinstance(error, exceptions.RayTaskError) else 0] if lines else type(error).__name__


def _reason(text: str) -> str:
    """Return process, machine and cause of death from the lines of Ray's error."""
    facts = dict(re.findall(r"^\s*(pid|ip): (\S+)$", text, flags=re.MULTILINE))
    place = f" (process {facts['pid']} on {facts['ip']})" if facts.keys() >= {"pid", "ip"} else ""
    cause = next((words for part, words in _CAUSES.items() if part in text), "")
    last = [line.strip() for line in text.splitlines() if line.strip()][-1]
    return f"{place}: {cause or re.split(r'(?<=[.]) ', last)[0].rstrip('.')}"
