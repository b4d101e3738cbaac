"""Check GPUs, memory and NCCL variables of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil

from flexgym.core.units import GIB
from flexgym.doctor.findings import Finding, ok, problem, warning

_MEMORY_GIB = 8
_SHARED_GIB = 1
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_SLOWER = {"NCCL_P2P_DISABLE": "between the GPUs of a machine", "NCCL_IB_DISABLE": "between machines"}
_RENAMED = {
    "NCCL_ASYNC_ERROR_HANDLING": "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "NCCL_BLOCKING_WAIT": "TORCH_NCCL_BLOCKING_WAIT",
    "NCCL_DESYNC_DEBUG": "TORCH_NCCL_DESYNC_DEBUG",
}


def check_gpus() -> list[Finding]:
    """List the GPUs with their free memory, and say why PyTorch sees none where the machine has some."""
    import torch

    if torch.cuda.is_available():
        return [_check_gpu(index) for index in range(torch.cuda.device_count())]
    has_some = shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
    if not has_some:
        return [warning("gpus", "no GPU: everything runs on the CPU", "enough for the small world, not for SD3 or Wan")]
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return [problem("gpus", "CUDA_VISIBLE_DEVICES is empty, which hides all GPUs", "unset CUDA_VISIBLE_DEVICES")]
    if torch.version.cuda is None:
        what = f"the machine has a GPU, and torch {torch.__version__} is a build for CPUs"
        return [problem("gpus", what, "pip install --force-reinstall torch, from https://pytorch.org for your driver")]
    what = f"torch {torch.__version__} for CUDA {torch.version.cuda} cannot use the GPU of this machine"
    return [problem("gpus", what, "run `nvidia-smi`: the driver must be as new as this CUDA; restart it or update it")]


def _check_gpu(index: int) -> Finding:
    import torch

    about = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    capability = f"sm_{about.major}{about.minor}"
    what = f"GPU {index}, {about.name}: {free / GIB:.1f} of {total / GIB:.1f} GiB are free"
    known = torch.cuda.get_arch_list()
    if known and not any(name.split("_")[1].startswith(str(about.major)) for name in known):
        text = f"{what}, and this torch has no code for {capability}"
        return problem("gpus", text, f"install a torch for {capability}; this one has {', '.join(known)}")
    if free < 0.9 * total:
        return warning("gpus", what, "see with `nvidia-smi` which process uses the rest, and end it")
    return ok("gpus", what)


def check_memory() -> list[Finding]:
    """Compare free memory, the limit of the container and shared memory with what a training needs at least."""
    about = psutil.virtual_memory()
    free, where = about.available, ""
    limit = _memory_limit()
    if limit is not None and limit < about.total:
        free, where = min(free, limit), f" (this container may use {limit / GIB:.1f} GiB)"
    what = f"{free / GIB:.1f} of {about.total / GIB:.1f} GiB of memory are free{where}"
    found = [ok("memory", what)]
    if free < _MEMORY_GIB * GIB:
        found = [warning("memory", what, "end other processes, or raise the memory limit of container or job")]
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).free) < _SHARED_GIB * GIB:
        advice = "start the container with --shm-size=8g; in Kubernetes mount an emptyDir of medium Memory at /dev/shm"
        found.append(problem("memory", f"/dev/shm has {size / GIB:.2f} GiB free; Ray and NCCL need more", advice))
    return found


def _memory_limit() -> int | None:
    for path in _LIMITS:
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            return int(text)
    return None


def check_nccl(variables: Mapping[str, str]) -> list[Finding]:
    """Look for variables of NCCL and Gloo that name interfaces which are not there, are renamed, or slow things down.

    Args:
        variables: the environment.
    """
    found = [
        warning("nccl", f"{name}={variables[name]} makes transfers {where} slow", f"unset {name} unless they hang")
        for name, where in _SLOWER.items()
        if variables.get(name) not in (None, "0")
    ]
    found += [
        warning("nccl", f"{old} is the old name of {new}", f"set {new} in its place")
        for old, new in _RENAMED.items()
        if old in variables
    ]
    interfaces = sorted(psutil.net_if_addrs())
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        value = variables.get(name, "")
        if value and not _names_interface(value, interfaces):
            advice = f"set it to one of {', '.join(interfaces)}, or unset it"
            found.append(problem("nccl", f"{name}={value} names no network interface of this machine", advice))
    used = sorted(name for name in variables if name.startswith(("NCCL_", "TORCH_NCCL_", "GLOO_")))
    return found or [ok("nccl", f"variables: {', '.join(used) or 'none'}")]


def _names_interface(value: str, interfaces: list[str]) -> bool:
    """Return whether a value of NCCL selects an interface: prefixes, exact names after ``=``, others after ``^``."""
    excludes, exact = value.startswith("^"), value.lstrip("^").startswith("=")
    names = value.lstrip("^").lstrip("=").split(",")
    chosen = [each for each in interfaces if (each in names if exact else each.startswith(tuple(names)))]
    return len(chosen) < len(interfaces) if excludes else bool(chosen)
