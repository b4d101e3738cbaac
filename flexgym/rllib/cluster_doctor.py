"""Checks of ``flexgym doctor`` on every machine of a Ray cluster."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flexgym.core.text import one_line
from flexgym.doctor import Finding
from flexgym.doctor.clocks import check_skew
from flexgym.doctor.examination import Wishes, examine
from flexgym.doctor.findings import ok, problem
from flexgym.rllib.address import check_reachable

_PATIENCE_S = 120.0
_COMPARED = ("flexgym", "torch", "ray", "numpy", "transformers", "diffusers")


class _Examiner:
    """Runs on one machine of the cluster."""

    def examine(self, wishes: Wishes) -> list[Finding]:
        return examine(wishes)

    def now(self) -> float:
        return time.time()

    def versions(self) -> dict[str, str]:
        found = {"python": platform.python_version()}
        for name in _COMPARED:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = "missing"
        return found


def examine_cluster(wishes: Wishes) -> list[Finding]:
    """Check all machines of the running cluster, and compare their versions and clocks.

    Args:
        wishes: what the training will use, checked on every machine.

    Raises:
        ConfigError: nothing answers at the address of the cluster, or its token is missing or wrong.
    """
    check_reachable()
    started = not ray.is_initialized()
    try:
        if started:
            ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
        return _examine(wishes)
    except ConnectionError:
        advice = "start one with `ray start --head`, or set RAY_ADDRESS to the address of its head"
        return [problem("cluster", "no Ray cluster runs on this machine", advice)]
    finally:
        if started:
            ray.shutdown()


def _examine(wishes: Wishes) -> list[Finding]:
    examiners = {
        str(node["NodeManagerAddress"]) + (" (head)" if "node:__internal_head__" in node["Resources"] else ""): (
            ray.remote(_Examiner)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote()
        )
        for node in ray.nodes()
        if node["Alive"]
    }
    found: list[Finding] = []
    versions: dict[str, dict[str, str]] = {}
    for name, examiner in examiners.items():
        try:
            found += _of_machine(name, ray.get(examiner.examine.remote(wishes), timeout=_PATIENCE_S))
            versions[name] = ray.get(examiner.versions.remote(), timeout=_PATIENCE_S)
            found += _check_clock(name, examiner)
        except (RayError, ImportError) as error:
            advice = f"see that FlexGym is installed there, and Ray's log on {name}"
            found.append(problem("cluster", f"{name} cannot be examined: {one_line(str(error))}", advice))
    return [*found, *compare_versions(versions)]


def _of_machine(name: str, findings: Sequence[Finding]) -> list[Finding]:
    bad = [replace(finding, what=f"{name}: {finding.what}") for finding in findings if finding.level != "ok"]
    return [ok("cluster", f"{name}: {len(findings) - len(bad)} checks passed"), *bad]


def _check_clock(name: str, examiner: Any) -> list[Finding]:
    before = time.time()
    there = ray.get(examiner.now.remote(), timeout=_PATIENCE_S)
    return check_skew(f"{name}: its clock", there - (before + time.time()) / 2, machines="all machines")


def compare_versions(versions: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Compare the versions of packages between machines.

    Args:
        versions: of each machine by its name, by name of the package.
    """
    found = []
    for package in dict.fromkeys(name for each in versions.values() for name in each):
        there = {machine: each.get(package, "missing") for machine, each in versions.items()}
        if len(set(there.values())) > 1:
            listed = ", ".join(f"{version} on {machine}" for machine, version in there.items())
            advice = "install the same version everywhere, such as from one image or one lock file"
            found.append(problem("cluster", f"{package} differs: {listed}", advice))
    return found or [ok("cluster", f"the versions on {len(versions)} machines agree")]
