"""The device of a benchmark: its name, its memory and the rate of its own matrix products."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from flexgym.core.units import GIB
from flexgym.planning.devices import Device

_PACKAGES = ("flexgym", "torch", "diffusers", "transformers", "peft", "ray")
_SIDES = {"cuda": 8192, "cpu": 1024}
_ROUNDS = 5
_ROUND_S = 0.2
_CPU_NAMES = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """Return the model of a GPU or CPU, as the driver or the kernel calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = _CPU_NAMES.read_text(encoding="utf-8", errors="replace").splitlines() if _CPU_NAMES.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.machine()


def device_gib(device: torch.device) -> float:
    """Return the memory of a GPU, or of the machine for a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    return psutil.virtual_memory().total / GIB


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure large matrix products, the best of several rounds: what 100 % means.

    Args:
        device: device that computes.
        dtype: precision of the products.

    Returns:
        Operations per second, two for a multiply-add.
    """
    side = _SIDES.get(device.type, _SIDES["cpu"])
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    once = _seconds(left, right, 1)  # chooses kernels as well
    repeats = max(1, round(_ROUND_S / max(_seconds(left, right, 1), 1e-6)))
    best = min(once, *(_seconds(left, right, repeats) / repeats for _ in range(_ROUNDS)))
    return 2.0 * side**3 / best


def _seconds(left: torch.Tensor, right: torch.Tensor, repeats: int) -> float:
    cuda = left.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(left.device)
    started = time.perf_counter()
    for _ in range(repeats):
        left @ right
    if cuda:
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - started


def planned_device(device: torch.device, dtype: torch.dtype, rate: float) -> Device:
    """Return the device as `flexgym plan` sees it: its memory, its measured rate, and the share that a plan assumes.

    Args:
        device: device of the benchmark.
        dtype: precision of the weights.
        rate: result of `matrix_rate`.
    """
    return Device(device_name(device), device_gib(device), {dtype: rate / 1e12})


def versions() -> dict[str, str]:
    """Return the versions of what the figures depend on."""
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda or "none")}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
