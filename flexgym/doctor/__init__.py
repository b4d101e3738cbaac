"""Checks of a machine before a training: each finding says what to do about it."""

from flexgym.doctor.findings import Finding, Level

__all__ = ["Finding", "Level"]
