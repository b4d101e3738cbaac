"""Run folders: metrics, checkpoints, drawn samples, and the progress display of training."""

from __future__ import annotations

from flexgym.runs.checkpoints import CheckpointStore, latest_checkpoint, resolve_checkpoint, verify_checkpoint
from flexgym.runs.folder import RunFolder
from flexgym.runs.metrics import MetricsLog, read_metrics

__all__ = [
    "CheckpointStore",
    "MetricsLog",
    "RunFolder",
    "latest_checkpoint",
    "read_metrics",
    "resolve_checkpoint",
    "verify_checkpoint",
]
