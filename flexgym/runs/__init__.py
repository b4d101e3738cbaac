"""What a run leaves behind and what a person sees of it: folder, metrics, checkpoints, pictures, progress display."""

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
