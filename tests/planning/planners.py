"""Planners that share their traces over all tests of one process."""

from __future__ import annotations

from flexgym.planning.devices import Device, choose_device
from flexgym.planning.plan import Planner

_SHARED = Planner(choose_device())


def planner_for(device: Device | None = None) -> Planner:
    """Return a planner for a device, an H100 by default, with all traces that tests have made so far."""
    made = Planner(device or choose_device())
    made._rehearsals, made._decoded = _SHARED._rehearsals, _SHARED._decoded
    return made
