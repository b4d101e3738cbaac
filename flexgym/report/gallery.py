"""Samples and assessments of runs as plain values for the script of a page, within bounds on number and bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flexgym.judge.assessment import anchor_places
from flexgym.report.lines import number, spread, text
from flexgym.report.reading import Group, JudgeEvaluation, Run, Sample

MAX_ASSESSMENTS = 2000
"""Number of assessments on a page."""
MAX_STEPS = 12
"""Number of iterations whose samples are on a page, for each run."""
SAMPLES_BYTES = 10_500_000
"""Bytes for the samples of all runs."""
ASSESSMENTS_BYTES = 7_500_000
"""Bytes for all assessments and their samples."""
_FEWEST_STEPS, _FEWEST_PROMPTS = 4, 8
_MAX_CATEGORIES, _MAX_DIMENSIONS = 12, 12


@dataclass(frozen=True)
class Judged:
    """A group that a judge compared.

    Attributes:
        source: name of the run or evaluation.
        iteration: of the run; None for an evaluation.
        group: samples and assessments.
    """

    source: str
    iteration: int | None
    group: Group


@dataclass
class Payload:
    """Plain values for the script of a page.

    Attributes:
        values: JSON values.
        omitted: what was left out, a sentence each.
    """

    values: dict[str, Any]
    omitted: list[str] = field(default_factory=list)


# --- samples ---------------------------------------------------------------------------------------------------------


def samples_payload(runs: Sequence[Run], *, max_bytes: int = SAMPLES_BYTES) -> Payload:
    """Return the samples of held-out prompts by run and iteration.

    Of a run that exceeds its share of the bytes, iterations between the first and the last one are left out first, then
    prompts.

    Args:
        runs: those with samples count.
        max_bytes: of all samples.
    """
    payload = Payload({"runs": []})
    sizes = {run: _size_of(run) for run in runs if run.held_out}
    room, fitting = max_bytes, {}
    # The smallest first: what they leave is for the others.
    for place, run in enumerate(sorted(sizes, key=lambda run: sizes[run])):
        fitting[run] = found = _fitting(run, room=room // (len(sizes) - place))
        room -= found.size
    for run in sizes:
        found = fitting[run]
        _note_omitted(payload, run, found)
        if found.prompts:
            payload.values["runs"].append(_sampled(run, found))
    return payload


@dataclass(frozen=True)
class _Shown:
    """Samples of a run that fit on the page.

    Attributes:
        steps: their iterations.
        prompts: indices of their prompts.
        size: in bytes.
    """

    steps: Sequence[int]
    prompts: Sequence[int]
    size: int


def _size_of(run: Run) -> int:
    return sum(len(sample.media or "") for samples in run.held_out.values() for sample in samples)


def _fitting(run: Run, *, room: int) -> _Shown:
    """Return the samples of a run that fit into a number of bytes."""
    steps = spread(list(run.held_out), MAX_STEPS)
    kept = list(range(max(len(run.held_out[step]) for step in steps)))
    sizes = {step: [len(sample.media or "") for sample in run.held_out[step]] for step in steps}

    def total() -> int:
        return sum(sizes[step][index] for step in steps for index in kept if index < len(sizes[step]))

    while kept and total() > room:
        if len(steps) > (_FEWEST_STEPS if len(kept) > _FEWEST_PROMPTS else 2):
            steps = spread(steps, len(steps) - 1)
        else:
            kept = spread(kept, len(kept) * 3 // 4)
    return _Shown(steps, kept, total())


def _note_omitted(payload: Payload, run: Run, found: _Shown) -> None:
    available = max(map(len, run.held_out.values()))
    if not found.prompts:
        payload.omitted.append(f"Samples of {run.name}: none fits on the page.")
        return
    if len(found.steps) < len(run.held_out):
        payload.omitted.append(
            f"Samples of {run.name}: {len(found.steps)} of {len(run.held_out)} kept iterations are shown."
        )
    if len(found.prompts) < available:
        payload.omitted.append(f"Samples of {run.name}: {len(found.prompts)} of {available} kept prompts are shown.")


def _sampled(run: Run, found: _Shown) -> dict[str, Any]:
    first = run.held_out[found.steps[0]]
    kept = [index for index in found.prompts if index < len(first)]
    return {
        "name": run.name,
        "steps": list(found.steps),
        "prompts": [[first[index].prompt, first[index].category] for index in kept],
        "media": [[_of(run.held_out[step], index, "media") for index in kept] for step in found.steps],
        "scores": [[_of(run.held_out[step], index, "score") for index in kept] for step in found.steps],
    }


def _of(samples: Sequence[Sample], index: int, name: str) -> Any:
    return getattr(samples[index], name) if index < len(samples) else None


# --- assessments -----------------------------------------------------------------------------------------------------


def judged_groups(runs: Sequence[Run], evaluations: Sequence[JudgeEvaluation]) -> list[Judged]:
    """Return the groups of all runs that a judge compared, the newest of each run first, and those of evaluations."""
    found = [
        Judged(run.name, iteration, group)
        for run in runs
        for iteration in reversed(list(run.judged))
        for group in run.judged[iteration]
    ]
    return found + [Judged(each.name, None, group) for each in evaluations for group in each.examples]


def assessments_payload(
    groups: Sequence[Judged], *, max_count: int = MAX_ASSESSMENTS, max_bytes: int = ASSESSMENTS_BYTES
) -> Payload:
    """Return the judge's assessments with the samples that they compare.

    Of more than ``max_count`` assessments, and of more than ``max_bytes``, groups evenly spaced over the training are
    shown.

    Args:
        groups: see `judged_groups`.
        max_count: number of assessments.
        max_bytes: of assessments and samples.
    """
    total = sum(len(judged.group.pairs) for judged in groups)
    count = len(groups) if total <= max_count else max(1, len(groups) * max_count // total)
    payload = Payload(_assessed(spread(groups, count), max_count))
    while payload.values["items"] and (size := len(json.dumps(payload.values))) > max_bytes:
        count = min(count - 1, int(count * 0.9 * max_bytes / size))
        payload.values = _assessed(spread(groups, count) if count > 0 else (), max_count)
    shown = len(payload.values["items"])
    if shown < total:
        payload.omitted.append(f"{shown:,} of {total:,} kept assessments are shown.")
    return payload


def _assessed(groups: Iterable[Judged], max_count: int) -> dict[str, Any]:
    media: list[str | None] = []
    items: list[dict[str, Any]] = []
    for judged in groups:
        group, start = judged.group, len(media)
        media += group.media
        for pair in _valid_pairs(group):
            sides = (pair["first"], pair["second"])
            about = {"run": judged.source, "iteration": judged.iteration, "prompt": group.prompt}
            shown = [start + side if side < len(group.media) else -1 for side in sides]
            items.append({**about, "category": group.category, "media": shown, **_judged(group, pair)})
    return {"media": media, "items": items[:max_count]}


def _valid_pairs(group: Group) -> Iterator[Mapping[str, Any]]:
    for pair in group.pairs:
        sides = [pair.get("first"), pair.get("second")]
        if all(isinstance(side, int) and 0 <= side < 10**6 for side in sides):
            yield pair


def _judged(group: Group, pair: Mapping[str, Any]) -> dict[str, Any]:
    """Return names, rewards, winner and reasons of a pair."""
    sides = [pair["first"], pair["second"]]
    rewards = [group.rewards[side] if side < len(group.rewards) else None for side in sides]
    size = len(group.rewards)
    names = [f"sample {side}" if side < size else f"reference {side - size}" for side in sides]
    common: dict[str, Any] = {"names": names, "rewards": rewards}
    if group.label is not None:
        common |= {"names": [f"candidate {side + 1}" for side in sides], "label": int(sides[0] != group.label)}
    if "failure" in pair:
        return common | {"winner": None, "failure": text(pair["failure"], 80), "reason": text(pair.get("detail"))}
    winner = _side(pair.get("winner"))
    return common | {
        "winner": winner,
        "failure": "" if winner is not None else "unreadable",
        "upset": is_upset(winner, rewards),
        "reason": text(pair.get("reason")),
        "categories": _categories(pair),
    }


def is_upset(winner: int | None, rewards: Sequence[float | None]) -> bool:
    """Return True if the winner of a pair has a lower reward in its group than the loser."""
    if winner is None or None in rewards:
        return False
    won, lost = rewards[winner], rewards[1 - winner]
    return won is not None and lost is not None and won < lost


def _side(label: Any) -> int | None:
    return {"1": 0, "2": 1}.get(label[-1:]) if isinstance(label, str) else None


def _categories(pair: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return categories with their criteria; criteria without categories are one without a name."""
    found = pair.get("categories")
    if not isinstance(found, list):
        dims = pair.get("dims")
        return [_category({"dims": dims}, own=False)] if isinstance(dims, list) else []
    parts = [part for part in found if isinstance(part, dict)][:_MAX_CATEGORIES]
    anchors = anchor_places([text(part.get("name")) for part in parts]) if len(parts) > 2 else range(len(parts))
    return [_category(part, own=place not in anchors) for place, part in enumerate(parts)]


def _category(part: Mapping[str, Any], *, own: bool) -> dict[str, Any]:
    dims = part.get("dims")
    members = [each for each in dims if isinstance(each, dict)] if isinstance(dims, list) else []
    return {
        "name": text(part.get("name"), 200),
        "own": own,
        "winner": _side(part.get("cat_winner")),
        "reason": text(part.get("cat_reason")),
        "dims": [
            [
                text(dim.get("name"), 200),
                number(dim.get("score_1")),
                number(dim.get("score_2")),
                text(dim.get("reason_1")),
                text(dim.get("reason_2")),
            ]
            for dim in members[:_MAX_DIMENSIONS]
        ],
    }
