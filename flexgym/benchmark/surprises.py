"""Finds what a reader of a benchmark would not expect, by rules over its results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from flexgym.benchmark.folder import SAMPLES, WALL
from flexgym.benchmark.results import Result

_AUDIT_GAP = 0.1
_SEED_RANGE = 0.15
_DIVERSITY_LOSS = 0.4
_PLACES = 4


def surprises(results: Sequence[Result]) -> list[str]:
    """Return a sentence for each surprise, none where there are none.

    Reported are: accuracy that rises by more than the audit does, runs of one algorithm that end far apart, a loss of
    diversity, a policy that ends worse than the base, ranks that differ between the budgets, and early or failed ends.

    Args:
        results: reported ones of all tasks.
    """
    found = []
    for task in dict.fromkeys(result.task for result in results):
        mine = [result for result in results if result.task == task]
        at_end = _by_algorithm([result for result in mine if result.budget == WALL])
        for algorithm, runs in at_end.items():
            found += [f"{task}, {algorithm}: {words}" for words in _about(runs)]
        found += [f"{task}, {words}" for words in _moved(at_end, _by_algorithm(_at(mine, SAMPLES)))]
    return found


def _at(results: Sequence[Result], budget: str) -> list[Result]:
    return [result for result in results if result.budget == budget]


def _by_algorithm(results: Sequence[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.algorithm, []).append(result)
    return found


def _about(runs: Sequence[Result]) -> Iterator[str]:
    """Yield the surprises of one algorithm on a task."""
    accuracy = _values(runs, "accuracy")
    gain, audited = _change(runs, "accuracy"), _change(runs, "audit")
    if gain is not None and audited is not None and gain - audited > _AUDIT_GAP:
        yield f"accuracy changes by {gain:+.3f} and the audit by {audited:+.3f}: the verifier may be overoptimized"
    if gain is not None and gain < 0.0:
        yield f"accuracy falls by {-gain:.3f} below the base"
    if len(accuracy) > 1 and max(accuracy) - min(accuracy) > _SEED_RANGE:
        yield f"seeds end between {min(accuracy):.3f} and {max(accuracy):.3f}"
    before, after = _values(runs, "diversity_before"), _values(runs, "diversity")
    if before and after and np.mean(after) < (1.0 - _DIVERSITY_LOSS) * np.mean(before):
        yield f"diversity falls from {np.mean(before):.3f} to {np.mean(after):.3f}"
    for status, words in (("early", "ended by the alarm of the run"), ("failed", "failed")):
        count = sum(run.status == status for run in runs)
        if count:
            yield f"{count} of {len(runs)} runs {words}"


def _moved(at_end: Mapping[str, Sequence[Result]], at_samples: Mapping[str, Sequence[Result]]) -> Iterator[str]:
    """Yield algorithms whose place at equal wall time is far from that at equal samples."""
    shared = [
        name for name in at_end if _values(at_end[name], "accuracy") and _values(at_samples.get(name, ()), "accuracy")
    ]
    places = []
    for results in (at_end, at_samples):
        means = {name: np.mean(_values(results[name], "accuracy")) for name in shared}
        order = sorted(shared, key=lambda name: (-means[name], name))
        places.append({name: order.index(name) + 1 for name in shared})
    wall, samples = places
    for name in shared:
        if abs(wall[name] - samples[name]) >= _PLACES:
            yield f"{name}: place {wall[name]} at equal wall time, {samples[name]} at equal samples"


def _values(runs: Sequence[Result], name: str) -> list[float]:
    return [value for run in runs if (value := getattr(run, name)) is not None]


def _change(runs: Sequence[Result], name: str) -> float | None:
    before, after = _values(runs, f"{name}_before"), _values(runs, name)
    return float(np.mean(after) - np.mean(before)) if before and after else None
