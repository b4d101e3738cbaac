"""Compare what a run requests with what the cluster has, before RLlib waits for it silently."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from flexgym.config.sections import LearnerResources
from flexgym.core.errors import ConfigError, ProcessLostError
from flexgym.runs.display import say

Resources = Mapping[str, float]
"""Amounts by resource of Ray, such as ``{"CPU": 8, "GPU": 2}``."""

_ROUNDING = 1e-6


_REPORT_S = 30.0
_POLL_S = 1.0
_GRACE_S = 3.0


@dataclass(frozen=True)
class Request:
    """Processes of one kind that a run asks Ray for.

    Attributes:
        kind: what they are, such as ``"learner"``.
        setting: the setting of their number, such as ``"resources.num_learners"``.
        count: their number.
        each: resources of each, which must lie on one machine.
    """

    kind: str
    setting: str
    count: int
    each: Resources

    def fits(self, nodes: Sequence[Resources]) -> int:
        """Return how many of them fit on the machines, at most `count`."""
        return min(self.count, sum(_room(node, self.each, limit=self.count) for node in nodes))

    def __str__(self) -> str:
        plural = "s" if self.count > 1 else ""
        return f"{self.count} {self.kind}{plural} with {_shown(self.each)}{' each' if self.count > 1 else ''}"


def requests_of(config: Any) -> list[Request]:
    """Return what RLlib will ask Ray for.

    Args:
        config: an ``AlgorithmConfig``. A learner or env runner of the process that starts the run asks for nothing.
    """
    cpus = config.num_cpus_per_learner
    learner = {
        "CPU": (0 if config.num_gpus_per_learner else 1) if cpus == "auto" else cpus,
        "GPU": config.num_gpus_per_learner,
        **(config.custom_resources_per_learner or {}),
    }
    runner = {
        "CPU": config.num_cpus_per_env_runner,
        "GPU": config.num_gpus_per_env_runner,
        **(config.custom_resources_per_env_runner or {}),
    }
    found = [
        Request("learner", "resources.num_learners", config.num_learners, _positive(learner)),
        Request("env runner", "resources.num_env_runners", config.num_env_runners, _positive(runner)),
    ]
    return [request for request in found if request.count and request.each]


def wait_for_resources(requests: Sequence[Request], resources: LearnerResources, *, returning: bool = False) -> None:
    """Wait until the cluster has room for a run, and report every 30 s what is missing.

    Args:
        requests: what the run will ask for, see `requests_of`.
        resources: how long to wait, and if the cluster grows on demand.
        returning: lost machines may come back, as after the loss of a process.

    Raises:
        ConfigError: the cluster can never hold the requests; the message says what would fit. Or the time is up.
        ProcessLostError: the time is up, and a lost machine did not come back.
    """
    total = _nodes()
    compared = requested_and_existing(requests, total)
    if missing(requests, total) and not (returning or resources.autoscaling):
        raise ConfigError(
            f"this cluster can never run this recipe: {compared}. What fits: {what_fits(requests, total)}. If the"
            " cluster starts machines on demand, set resources.autoscaling=true"
        )
    began, reported = time.monotonic(), -math.inf
    while lacking := missing(requests, _free_nodes()):
        waited = time.monotonic() - began
        if waited >= resources.wait_s:
            problem = f"no room after {waited:.0f} s (resources.wait_s): {'; '.join(lacking)}; {compared}"
            raise ProcessLostError(problem) if returning else ConfigError(problem)
        if waited - reported >= _REPORT_S and waited >= min(_GRACE_S, resources.wait_s):
            reported = waited
            say(
                f"Waiting for {' and '.join(map(str, requests))}: now {'; '.join(lacking)} ({waited:.0f} s of at most"
                f" {resources.wait_s:g} s)."
            )
        time.sleep(min(_POLL_S, max(0.0, resources.wait_s - waited)))


def _nodes() -> list[Resources]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _free_nodes() -> list[Resources]:
    return list(ray._private.state.available_resources_per_node().values())


def missing(requests: Sequence[Request], nodes: Sequence[Resources]) -> list[str]:
    """Return sentences about what the machines cannot hold; empty if nothing speaks against it.

    Args:
        requests: what is asked for.
        nodes: resources of each machine.
    """
    found = [_too_many(request, nodes) for request in requests if request.fits(nodes) < request.count]
    if found:
        return found
    needed = _total([{name: amount * each.count for name, amount in each.each.items()} for each in requests])
    there = _total(nodes)
    return [
        f"together they need {needed[name]:g} {name} of {there.get(name, 0.0):g}"
        for name in needed
        if needed[name] > there.get(name, 0.0) + _ROUNDING
    ]


def requested_and_existing(requests: Sequence[Request], nodes: Sequence[Resources]) -> str:
    """Return a text that compares requests and machines."""
    machines = [f"one with {_shown(_devices(node))}" for node in nodes]
    return f"requested {' and '.join(map(str, requests))}; machines of the cluster: {', '.join(machines) or 'none'}"


def what_fits(requests: Sequence[Request], nodes: Sequence[Resources]) -> str:
    """Return the settings with which requests would fit on the machines."""
    free = [dict(node) for node in nodes]
    settings = []
    for request in requests:
        placed = 0
        for node in free:
            placed += _place(request, node, limit=request.count - placed)
        if placed < request.count:
            settings.append(f"{request.setting}={placed}{'' if placed else _per_process(request, nodes)}")
    return ", ".join(settings)


def _per_process(request: Request, nodes: Sequence[Resources]) -> str:
    """Name the resources of one process that no machine has enough of."""
    short = [name for name in request.each if not any(_has(node, name, request.each[name]) for node in nodes)]
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in short}
    return "".join(f", or at most {amount:g} {name} for each {request.kind}" for name, amount in most.items())


def _too_many(request: Request, nodes: Sequence[Resources]) -> str:
    fits = request.fits(nodes)
    return f"no machine has room for a {request.kind}" if not fits else f"{fits} of {request.count} {request.kind}s fit"


def _room(node: Resources, each: Resources, *, limit: int) -> int:
    return min([limit, *(math.floor((node.get(name, 0.0) + _ROUNDING) / amount) for name, amount in each.items())])


def _place(request: Request, node: dict[str, float], *, limit: int) -> int:
    """Take as many processes as fit, at most ``limit``, from what is free on a machine; return their number."""
    count = _room(node, request.each, limit=limit)
    for name, amount in request.each.items():
        node[name] = node.get(name, 0.0) - count * amount
    return count


def _has(node: Resources, name: str, amount: float) -> bool:
    return node.get(name, 0.0) + _ROUNDING >= amount


def _positive(resources: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(amount) for name, amount in resources.items() if amount}


def _total(parts: Sequence[Resources]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _devices(node: Resources) -> Resources:
    """Return CPUs, GPUs and custom resources of a machine, without what Ray adds of its own."""
    own = ("memory", "object_store_memory")
    return {name: amount for name, amount in node.items() if name not in own and ":" not in name}


def _shown(resources: Resources) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items()) or "no devices"
