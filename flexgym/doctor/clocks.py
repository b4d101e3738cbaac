"""Check whether clocks are right."""

from __future__ import annotations

import ctypes
import sys

from flexgym.doctor.findings import Finding, ok, warning

_SKEW_S = 5.0
_TIME_ERROR = 5  # of adjtimex: the clock is not synchronized
_TIMEX_BYTES = 1024  # more than struct timex has on any machine


def check_clock() -> list[Finding]:
    """Ask the kernel whether a time service keeps the clock right."""
    if not sys.platform.startswith("linux"):
        return []
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state == _TIME_ERROR:
        advice = "start chrony or systemd-timesyncd; clocks that differ confuse tokens, certificates and shared folders"
        return [warning("clock", "no time service keeps the clock of this machine right", advice)]
    return [ok("clock", "a time service keeps the clock right")] if state >= 0 else []


def check_skew(clock: str, skew: float, *, machines: str = "both") -> list[Finding]:
    """Check that another clock shows nearly the same time as that of this machine.

    Args:
        clock: the other one, such as ``"head: its clock"``.
        skew: seconds by which it is ahead.
        machines: those whose clocks should be set.
    """
    if abs(skew) <= _SKEW_S:
        return []
    advice = f"let a time service such as chrony set the clocks of {machines}"
    return [warning("clock", f"{clock} differs by {skew:+.0f} s from this machine's", advice)]
