"""Trackers: where the metrics, images, videos and tables of a run are shown besides its own folder."""

from flexgym.runs.trackers.background import PATIENCE_S, BackgroundTracker
from flexgym.runs.trackers.base import Cell, Table, TrackedRun, Tracker
from flexgym.runs.trackers.registry import Trackers, check_trackers

__all__ = ["PATIENCE_S", "BackgroundTracker", "Cell", "Table", "TrackedRun", "Tracker", "Trackers", "check_trackers"]
