"""Devices to plan for: their memory and the rate of their matrix units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.units import GIB


@dataclass(frozen=True)
class Device:
    """An accelerator, such as a GPU.

    Attributes:
        name: name of the model.
        gib: memory that PyTorch can use, in GiB.
        tflops: dense matrix operations in 10^12 per second, by precision, from the maker's data sheet.
        efficiency: share of that rate that a phase is assumed to reach; a round figure, not measured.
        reserve: share of the memory that stays free for the context of the driver, workspaces of libraries, and gaps
            between the blocks of the allocator; not measured either.
    """

    name: str
    gib: float
    tflops: Mapping[torch.dtype, float]
    efficiency: float = 0.4
    reserve: float = 0.05

    def __post_init__(self) -> None:
        if not self.gib > 0 or not all(rate > 0 for rate in self.tflops.values()):
            raise ConfigError(
                f"expected memory and rates above 0 for a device, got {self.gib} GiB, {dict(self.tflops)}"
            )
        if not 0 < self.efficiency <= 1 or not 0 <= self.reserve < 1:
            raise ConfigError(
                "expected an efficiency in (0, 1] and a reserve in [0, 1), shares of the device's rate and memory; got"
                f" {self.efficiency} and {self.reserve}"
            )

    @property
    def usable(self) -> int:
        """Bytes that a training may use."""
        return int(self.gib * GIB * (1.0 - self.reserve))

    def seconds(self, flops: float, dtype: torch.dtype) -> float:
        """Return the seconds that operations take in a precision."""
        return flops / (self.tflops[dtype] * 1e12 * self.efficiency)


def _device(name: str, gib: float, half: float, *, single: float) -> Device:
    return Device(name, gib, {torch.bfloat16: half, torch.float16: half, torch.float32: single})


# Makers' data sheets, SXM modules where there are several; without TF32, which PyTorch leaves off for float32.
DEVICES = {
    "a100": _device("a100", 79.1, 312.0, single=19.5),
    "a100-40": _device("a100-40", 39.4, 312.0, single=19.5),
    "b200": _device("b200", 178.0, 2250.0, single=75.0),
    "h100": _device("h100", 79.1, 989.0, single=67.0),
    "h200": _device("h200", 139.8, 989.0, single=67.0),
    "l40s": _device("l40s", 44.4, 362.0, single=91.6),
    "rtx4090": _device("rtx4090", 23.5, 165.0, single=82.6),
}


DEFAULT = "h100"


def choose_device(name: str | None = None, *, gib: float | None = None, tflops: float | None = None) -> Device:
    """Return a device by name, with the memory or the rate that the user knows better.

    Args:
        name: one of `DEVICES`; without it, ``gib`` and ``tflops`` describe the device, or it is an H100 when neither is
            given.
        gib: memory in GiB.
        tflops: measured or expected rate in 10^12 operations per second, for every precision; `Device.efficiency` does
            not reduce it.

    Raises:
        UnknownNameError: there is no such device.
        ConfigError: a figure is not positive, or only one of the two is given and no device is named.
    """
    if name is None and (gib is None) != (tflops is None):
        raise ConfigError(
            "expected a device by name (--device), or both its --gib and its --tflops; got one of the two"
        )
    chosen = name or DEFAULT
    if chosen not in DEVICES:
        raise unknown_name("device", chosen, DEVICES)
    device = DEVICES[chosen]
    if name is None and gib is not None:
        device = replace(device, name="a device of your own")
    if tflops is not None:
        device = replace(device, tflops=dict.fromkeys(device.tflops, tflops), efficiency=1.0)
    return device if gib is None else replace(device, gib=gib)
