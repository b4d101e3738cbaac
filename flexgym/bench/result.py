"""The figures of a benchmark, as they are kept in a JSON file that can be sent to others."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flexgym.core.errors import ConfigError
from flexgym.core.files import write_atomic
from flexgym.core.json_text import MAX_CONFIG_BYTES, JsonError, read_json_file
from flexgym.core.settings import AsTuple, Settings

FORMAT = "flexgym-bench-1"
Text = Annotated[str, Field(max_length=200)]
Positive = Annotated[float, Field(gt=0)]


class PhaseFigures(Settings):
    """Measurements of one phase; a phase of an iteration, or the iteration as a whole."""

    name: Text
    samples: int = Field(ge=1, description="samples of a round")
    seconds: Annotated[tuple[Positive, ...], AsTuple] = Field(
        min_length=1, max_length=10_000, description="time of each round"
    )
    tflop: float | None = Field(default=None, ge=0, description="10^12 operations of a round, as the plan counts them")
    peak_gib: float | None = Field(default=None, ge=0, description="most memory that was allocated, in GiB")
    planned_gib: float | None = Field(default=None, ge=0, description="memory that `flexgym plan` expects, in GiB")

    @property
    def median(self) -> float:
        """Return the median time of a round in seconds."""
        return statistics.median(self.seconds)

    @property
    def samples_per_second(self) -> float:
        """Return the samples of a round by its median time."""
        return self.samples / self.median

    @property
    def spread(self) -> tuple[float, float]:
        """Return the samples per second of the slowest and of the quickest round."""
        return self.samples / max(self.seconds), self.samples / min(self.seconds)

    @property
    def tflops(self) -> float | None:
        """Return 10^12 operations per second; None where they are not counted."""
        return self.tflop / self.median if self.tflop else None


class Operator(Settings):
    """An operator or kernel of the profile."""

    part: Literal["rollout", "update"]
    name: Text
    calls: int = Field(ge=1)
    seconds: float = Field(ge=0, description="time in itself, without the operators that it calls")
    share: float = Field(ge=0, le=1, description="of the time of all operators of the part")


class DeviceFigures(Settings):
    """The device of a benchmark."""

    name: Text
    kind: Text
    gib: Positive
    threads: int = Field(ge=1, description="threads of PyTorch on the CPU")
    dtype: Text
    matrix_tflops: Positive = Field(description="10^12 operations per second of large matrix products in this dtype")


class BenchResult(Settings):
    """All figures of a benchmark, with what they depend on; it holds no names of users, machines or files."""

    format: Literal["flexgym-bench-1"] = Field(default="flexgym-bench-1", description="form of the file")
    versions: dict[Text, Text]
    device: DeviceFigures
    settings: dict[Text, Text | int | float | bool | None]
    warm_up: int = Field(ge=0, description="iterations that came before and do not count")
    phases: Annotated[tuple[PhaseFigures, ...], AsTuple] = Field(min_length=1, max_length=100)
    operators: Annotated[tuple[Operator, ...], AsTuple] = Field(default=(), max_length=1000)

    def phase(self, name: str) -> PhaseFigures | None:
        """Return the figures of a phase by name; None without them."""
        return next((phase for phase in self.phases if phase.name == name), None)

    def share(self, phase: PhaseFigures) -> float | None:
        """Return the share of the device's matrix rate that a phase reaches; None where nothing is counted."""
        return None if phase.tflops is None else phase.tflops / self.device.matrix_tflops


def write_result(result: BenchResult, file: Path) -> None:
    """Write figures to a file, which is replaced if it exists.

    Raises:
        ConfigError: its folder does not exist, or it cannot be written.
    """
    text = json.dumps(result.model_dump(), indent=1)
    check_target(file)
    write_atomic(file, text.encode())


def check_target(file: Path) -> None:
    """Check that figures can be written to a file, before they are measured.

    Raises:
        ConfigError: it is a folder, or its folder does not exist.
    """
    if file.is_dir() or not file.resolve().parent.is_dir():
        what = "is a folder" if file.is_dir() else "lies in a folder that does not exist"
        raise ConfigError(f"--json {file}: expected a file to write in an existing folder, and this one {what}")


def read_result(file: Path) -> BenchResult:
    """Read the figures of a file.

    Raises:
        ConfigError: it cannot be read, or holds something else; the message names what is wrong.
    """
    try:
        values = read_json_file(file, max_bytes=MAX_CONFIG_BYTES)
    except (OSError, JsonError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{file}: expected the JSON file of `flexgym bench --json`, which cannot be read: {reason}"
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise ConfigError(
            f"{file}: expected the JSON file of `flexgym bench --json`, of format {FORMAT!r}, got {found!r}"
        )
    try:
        return BenchResult.parse(values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
