"""Findings of ``flexgym doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]
"""How serious a finding is: a training fails, or may fail, with a problem, and may be slow or odd with a warning."""


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        check: name of the check, such as ``"disk"``.
        level: how serious it is.
        what: the state that was found.
        advice: next step, such as a command; empty where nothing is to be done.
    """

    check: str
    level: Level
    what: str
    advice: str = ""


def ok(check: str, what: str) -> Finding:
    """Return a finding with which nothing is wrong."""
    return Finding(check, "ok", what)


def warning(check: str, what: str, advice: str) -> Finding:
    """Return a finding with which a training may be slow or behave in an odd way."""
    return Finding(check, "warning", what, advice)


def problem(check: str, what: str, advice: str) -> Finding:
    """Return a finding with which a training fails or may fail."""
    return Finding(check, "problem", what, advice)
