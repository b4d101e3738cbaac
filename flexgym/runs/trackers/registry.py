"""The trackers that settings name, and all trackers of a run as one."""

from __future__ import annotations

import contextlib
import importlib
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from flexgym.config.sections import TrackerName, TrackerSettings
from flexgym.core.arguments import fitted_arguments, setting_parameters
from flexgym.core.errors import ConfigError
from flexgym.core.images import Pixels
from flexgym.runs.trackers.background import PATIENCE_S, BackgroundTracker
from flexgym.runs.trackers.base import Table, TrackedRun, Tracker

_CLASSES: Mapping[TrackerName, str] = {
    "tensorboard": "TensorBoard",
    "wandb": "WeightsAndBiases",
    "mlflow": "MLflow",
    "swanlab": "SwanLab",
    "trackio": "Trackio",
}
_CONNECTING_S = 40.0


def check_trackers(chosen: Sequence[TrackerSettings]) -> None:
    """Check packages and settings of trackers before a run begins.

    Raises:
        ConfigError: a package is not installed, or a setting does not fit.
        UnknownNameError: there is no such setting; the message names the nearest one.
    """
    for each in chosen:
        if not is_installed(each.tracker):
            raise ConfigError(
                f"run.trackers: {each.tracker}: expected the package {each.tracker!r}, which is not installed: pip"
                f" install 'flexgym[{each.tracker}]'"
            )
        _settings(each)


def is_installed(package: str) -> bool:
    """Return True if a package is installed; a folder of its name, as trackers leave them behind, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None


class Trackers(Tracker):
    """All trackers of a run, each on a thread of its own.

    Args:
        chosen: names and settings of the trackers.
        run: what they track.
    """

    def __init__(self, chosen: Sequence[TrackerSettings] = (), run: TrackedRun | None = None) -> None:
        self._each: list[BackgroundTracker] = []
        if run is None:
            return
        until = time.monotonic() + _CONNECTING_S
        with _without_output():
            for one in chosen:
                kind: Any = _class_of(one.tracker)  # subclasses take the run and their settings
                connect = partial(kind, run, **_settings(one))
                self._each.append(BackgroundTracker(one.tracker, connect))
            for tracker in self._each:
                tracker.wait_connected(max(0.0, until - time.monotonic()))

    def news(self) -> list[str]:
        """Return what a person should know about the trackers and has not been returned before."""
        return [line for tracker in self._each for line in tracker.news()]

    def metrics(self, row: Mapping[str, Any], iteration: int) -> None:
        """Add a row everywhere."""
        for tracker in self._each:
            tracker.metrics(row, iteration)

    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Add an image everywhere."""
        for tracker in self._each:
            tracker.image(name, image, iteration)

    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Add a video everywhere."""
        for tracker in self._each:
            tracker.video(name, frames, iteration, fps=fps)

    def table(self, name: str, table: Table, iteration: int) -> None:
        """Add a table everywhere."""
        for tracker in self._each:
            tracker.table(name, table, iteration)

    def rewind(self, last: int) -> None:
        """Prepare all trackers for iterations that are trained again."""
        for tracker in self._each:
            tracker.rewind(last)

    def close(self, *, patience: float = PATIENCE_S) -> None:
        """Close all trackers.

        Args:
            patience: seconds to wait for what all of them have not taken yet.
        """
        until = time.monotonic() + patience
        with _without_output():
            for tracker in self._each:
                tracker.end()
            for tracker in self._each:
                tracker.close(patience=max(0.0, until - time.monotonic()))


def _class_of(name: TrackerName) -> type[Tracker]:
    """Import the class of a tracker, and with it its package."""
    module = importlib.import_module(f"flexgym.runs.trackers.{name}")
    found: type[Tracker] = getattr(module, _CLASSES[name])
    return found


def _settings(chosen: TrackerSettings) -> dict[str, Any]:
    """Return the keyword arguments of a tracker, checked and converted."""
    named = [each for each in setting_parameters(_class_of(chosen.tracker)) if each.name != "run"]
    return fitted_arguments(f"tracker {chosen.tracker}", named, chosen.settings)


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Drop what libraries print while this thread waits for them."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
