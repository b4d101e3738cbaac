"""Compare the figures of two benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flexgym.bench.result import BenchResult, PhaseFigures


@dataclass(frozen=True)
class Ratio:
    """One phase of two benchmarks.

    Attributes:
        phase: name of the phase.
        first: samples per second of the first.
        second: samples per second of the second.
        overlap: True where the slowest round of one is as quick as the quickest of the other, so that the difference
            may be chance.
        memory: peak memory of the second over that of the first; None where either was not measured.
    """

    phase: str
    first: float
    second: float
    overlap: bool
    memory: float | None

    @property
    def speed(self) -> float:
        """Return the samples per second of the second over those of the first."""
        return self.second / self.first


def ratios(first: BenchResult, second: BenchResult) -> list[Ratio]:
    """Return the phases that both benchmarks measured."""
    pairs = ((phase, second.phase(phase.name)) for phase in first.phases)
    return [_ratio(one, other) for one, other in pairs if other is not None]


def _ratio(first: PhaseFigures, second: PhaseFigures) -> Ratio:
    (low, high), (other_low, other_high) = first.spread, second.spread
    measured = first.peak_gib and second.peak_gib
    return Ratio(
        first.name,
        first.samples_per_second,
        second.samples_per_second,
        overlap=low <= other_high and other_low <= high,
        memory=second.peak_gib / first.peak_gib if measured and first.peak_gib and second.peak_gib else None,
    )


def differences(first: BenchResult, second: BenchResult) -> list[str]:
    """Return what besides the figures is not the same, one line each: then a ratio does not say what it seems to."""
    found = list(_differing("setting", first.settings, second.settings))
    found += _differing("device", first.device.model_dump(exclude={"matrix_tflops"}), _about(second))
    found += _differing("version of", first.versions, second.versions)
    names = [{phase.name for phase in result.phases} for result in (first, second)]
    found += [f"phase {name}: measured in one of the two" for name in sorted(names[0] ^ names[1])]
    return found


def _about(result: BenchResult) -> dict[str, Any]:
    return result.device.model_dump(exclude={"matrix_tflops"})


def _differing(kind: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*first, *second]):
        one, other = (values.get(name, "not given") for values in (first, second))
        if one != other:
            yield f"{kind} {name}: {one} and {other}"
