"""Rule-based judge for the small world that answers like UnifiedReward-Flex, with criteria chosen for the prompt.

It reads the pixels of each sample once, compares two readings criterion by criterion, and writes the hierarchical
assessment as JSON text. Like the reply of any judge, the text goes through the parser and the tournament.

There are two kinds of criteria. Those of the caption can change a score by 4 points. Finer measures such as clean
outlines change it by at most half a point: they separate samples that satisfy the caption equally well, so that there
is always a winner, and hardly ever outweigh a constraint.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.judge import JudgeFailure, Outcome, Pair, parse_assessment
from flexgym.shapes.captions import Noun, Spec, parse_caption, plural
from flexgym.shapes.reading import Reading, Seen, read_groups, read_sample
from flexgym.shapes.scenes import BACKGROUND, COLORS, SYMMETRY
from flexgym.shapes.verifier import check
from flexgym.types import SampleGroup

CONSTRAINT_POINTS = 4.0
"""Maximum change of a score from the neutral 5 by a criterion of the caption."""
MEASURE_POINTS = 0.5
"""Maximum change of a score from the neutral 5 by a finer measure."""

ANCHORS = {
    "image": ("A. Semantic Alignment & Accuracy", "B. Image Quality & Realism", "C. Aesthetics & Artistry"),
    "video": (
        "A. Semantic Alignment & Accuracy",
        "B. Video Quality & Dynamic Realism",
        "C. Narrative, Aesthetics & Cinematography",
    ),
}
"""Names of the three mandatory categories, by modality."""
PERSONALIZED = {
    "object": ("D. Size", "size"),
    "two_objects": ("D. Presence of Both Objects", "shape"),
    "counting": ("D. Counting Accuracy", "count"),
    "colours": ("D. Colour Fidelity", "colour"),
    "position": ("D. Spatial Relation", " of|above|below"),
    "attribution": ("D. Attribute Binding", "colour"),
    "order": ("D. Temporal Order", "motion"),
    **dict.fromkeys(("direction", "bouncing", "growing", "rotating", "passing"), ("D. Motion Fidelity", "motion")),
}
"""Name of the personalized category and a pattern of the verifier's constraints in it, by category of caption."""
_PALETTE = np.array([[BACKGROUND] * 3, *COLORS.values()], dtype=np.float32)
_WORST_DISTANCE = 64.0


@dataclass(frozen=True)
class Finding:
    """Result of one sample for one criterion: a value from 0 (missed) to 1 (met), and the evidence."""

    value: float
    evidence: str


@dataclass(frozen=True)
class Criterion:
    """One sub-dimension: the key of its finding, its name, and its maximum change of a score from the neutral 5."""

    key: str
    name: str
    points: float


@dataclass(frozen=True)
class Facts:
    """Everything that the judge knows about one sample.

    Attributes:
        spec: meaning of the caption.
        share: share of the caption's constraints that the sample satisfies, 0 to 1.
        findings: findings by key: constraints as named by the verifier, objects such as ``"thing 1"``, and finer
            measures.
    """

    spec: Spec
    share: float
    findings: Mapping[str, Finding]


def read_facts(caption: str, sample: NDArray[np.uint8], reading: Reading | None = None) -> Facts:
    """Evaluate a sample for all criteria of a caption.

    Args:
        caption: a caption of the small world.
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.
        reading: objects in the sample, if already known.

    Raises:
        ValueError: if the caption is not from the small world, or the sample has the wrong modality.
    """
    spec = parse_caption(caption)
    reading = read_sample(sample) if reading is None else reading
    verdict = check(spec, reading)
    constraints = dict(verdict.constraints)
    findings = {key: Finding(float(met), f"{key}: {'met' if met else 'missed'}") for key, met in constraints.items()}
    findings |= _count_finding(spec, constraints, reading)
    findings |= _thing_findings(spec, constraints)
    findings["caption"] = Finding(verdict.score, f"meets {sum(constraints.values())} of {len(constraints)} demands")
    measures = {**_form_measures(reading), "palette": _palette_purity(sample), "margin": _margin(spec, reading)}
    findings |= {key: Finding(value, f"measured at {value:.2f} of 1") for key, value in measures.items()}
    return Facts(spec, verdict.score, findings)


def write_assessment(caption: str, first: Facts, second: Facts) -> str:
    """Compare two samples of one caption and write the assessment.

    The sample that satisfies more of the caption wins; if both satisfy the same share, the points decide. If the
    samples are equal in every respect, the first one is named.

    Args:
        caption: caption that both samples were generated for.
        first: facts about the sample shown first.
        second: facts about the sample shown second.

    Returns:
        The assessment as JSON text, in the format of UnifiedReward-Flex.
    """
    media = first.spec.modality.capitalize()
    keys = tuple(key for key in first.findings if not key.startswith("thing"))
    judged = [(name, *_judge_category(plan, first, second)) for name, plan in criteria(first.spec, keys)]
    lead = first.share - second.share or sum(margin for _, _, margin in judged)
    categories = []
    for name, dims, margin in judged:
        # A category that cannot separate the samples follows the overall winner.
        ahead = f"{media} {1 if (margin or lead) >= 0 else 2}"
        reason = f"{ahead} is ahead by {abs(margin):.2f} points."
        categories.append({"name": name, "dims": dims, "cat_reason": reason, "cat_winner": ahead})
    winner = f"{media} {1 if lead >= 0 else 2}"
    shares = f"The first meets {first.share:.0%} of the caption and the second {second.share:.0%}."
    decided = "" if first.share != second.share else " The finer criteria decide."
    reply = {"prompt": caption, "categories": categories, "reason": shares + decided, "winner": winner}
    return json.dumps(reply)


class OracleJudge:
    """Judge pairs by rules; unknown captions and samples of the wrong modality give a ``refused`` failure."""

    def assess(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Judge every pair; each sample is read only once, and all samples are read in one batch."""
        groups = {id(pair.group): pair.group for pair in pairs}
        compared: dict[int, set[int]] = {key: set() for key in groups}
        for pair in pairs:
            compared[id(pair.group)] |= {pair.first, pair.second}
        readings = read_groups([groups[key].samples[list(indices)] for key, indices in compared.items()])
        known: dict[tuple[int, int], Facts | JudgeFailure] = {}
        for (key, indices), read in zip(compared.items(), readings, strict=True):
            # If the group cannot be read, reading each sample separately gives the error message.
            found: Sequence[Reading | None] = read or [None] * len(indices)
            for index, reading in zip(indices, found, strict=True):
                known[key, index] = self._facts(groups[key], index, reading)
        return [
            self._assess(pair, known[id(pair.group), pair.first], known[id(pair.group), pair.second]) for pair in pairs
        ]

    @staticmethod
    def _assess(pair: Pair, first: Facts | JudgeFailure, second: Facts | JudgeFailure) -> Outcome:
        if isinstance(first, JudgeFailure):
            return first
        if isinstance(second, JudgeFailure):
            return second
        return parse_assessment(write_assessment(pair.prompt.text, first, second))

    @staticmethod
    def _facts(group: SampleGroup, index: int, reading: Reading | None) -> Facts | JudgeFailure:
        try:
            return read_facts(group.prompt.text, group.samples[index], reading)
        except ValueError as error:
            return JudgeFailure("refused", str(error))


@lru_cache(maxsize=4096)
def criteria(spec: Spec, keys: tuple[str, ...]) -> tuple[tuple[str, tuple[Criterion, ...]], ...]:
    """Return the categories for a caption and the criteria in each.

    Args:
        spec: meaning of the caption.
        keys: the verifier's names of its constraints; other keys are ignored.

    Returns:
        Pairs of category name and criteria: the three mandatory categories and one personalized category.
    """
    count = next(key for key in keys if key.startswith("count"))
    things = [_major(f"thing {n}", f"The {_phrase(noun)}") for n, noun in enumerate(spec.nouns, start=1)]
    relations = [_major(key, f"Relation: {key}") for key in keys if key == spec.relation]
    motions = [_major(key, key.capitalize()) for key in keys if key.startswith("motion")]
    steady = [_minor("steady", "Steady things over time")] if spec.modality == "video" else []
    title = PERSONALIZED[spec.category][0]
    personal = [_major(key, key.lstrip("12 ").capitalize()) for key in personal_keys(spec, keys)]
    plans = (
        [_major(count, "Number of things"), *things, *relations, *motions, _minor("weakest", "Recognisable forms")],
        [*things, *motions, _minor("outlines", "Clean outlines"), _minor("palette", "Pure colours"), *steady],
        [_major("caption", "Staging of the caption"), _minor("framing", "Framing"), _minor("balance", "Balance")],
        [*personal, _minor("margin", "Clearness of what is asked")],
    )
    return tuple(zip((*ANCHORS[spec.modality], title), map(tuple, plans), strict=True))


def personal_keys(spec: Spec, keys: Iterable[str]) -> list[str]:
    """Select the verifier's constraints that belong to the personalized category of a caption."""
    parts = PERSONALIZED[spec.category][1].split("|")
    return [key for key in keys if any(part in key for part in parts)]


def _major(key: str, name: str) -> Criterion:
    return Criterion(key, name, CONSTRAINT_POINTS)


def _minor(key: str, name: str) -> Criterion:
    return Criterion(key, name, MEASURE_POINTS)


def _phrase(noun: Noun) -> str:
    shape = plural(noun.shape) if noun.count > 1 else noun.shape
    return " ".join(word for word in (noun.size, noun.color, shape) if word)


def _judge_category(plan: Sequence[Criterion], first: Facts, second: Facts) -> tuple[list[dict[str, Any]], float]:
    """Return the sub-dimensions of a category, and the number of points by which the first sample leads."""
    dims, margin, fine = [], 0.0, 0.0
    for criterion in plan:
        one, two = first.findings[criterion.key], second.findings[criterion.key]
        lead = criterion.points * (one.value - two.value)
        shown = round(lead, 2)
        margin, fine = margin + 2 * shown, fine + 2 * lead
        dims.append(
            {
                "name": criterion.name,
                "reason_1": one.evidence,
                "reason_2": two.evidence,
                "score_1": round(5 + shown, 2),
                "score_2": round(5 - shown, 2),
            }
        )
    # The winner follows the rounded scores in the text; if they are even, the unrounded lead decides.
    return dims, round(margin, 2) or fine


def _count_finding(spec: Spec, constraints: Mapping[str, bool], reading: Reading) -> dict[str, Finding]:
    """Return a finding for the count, with up to half of the value for counts that are close."""
    key = next(key for key in constraints if key.startswith("count"))
    numbers = [len(frame) for frame in reading]
    off = float(np.mean([abs(number - spec.total) for number in numbers]))
    near = 0.5 * max(0.0, 1.0 - off / spec.total)
    shown = numbers[0] if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"
    return {key: Finding(1.0 if constraints[key] else min(near, 0.5), f"shows {shown} where {spec.total} is asked for")}


def _thing_findings(spec: Spec, constraints: Mapping[str, bool]) -> dict[str, Finding]:
    """Return a finding per object of the caption: the share of its own constraints that are satisfied."""
    findings = {}
    for number in range(1, len(spec.nouns) + 1):
        own = {key: met for key, met in constraints.items() if key.startswith(f"{number} ")}
        missed = [key.removeprefix(f"{number} ") for key, met in own.items() if not met]
        evidence = f"wrong in {', '.join(missed)}" if missed else "as asked for"
        findings[f"thing {number}"] = Finding(sum(own.values()) / max(len(own), 1), evidence)
    return findings


def _form_measures(reading: Reading) -> dict[str, float]:
    """Compute finer measures of the objects, each 0 to 1 and averaged over the frames."""
    frames = [_frame_measures(frame) for frame in reading]
    kinds = [sorted((thing.shape, thing.color) for thing in frame) for frame in reading]
    changes = sum(before != after for before, after in zip(kinds, kinds[1:], strict=False))
    measures = dict(zip(("outlines", "weakest", "framing", "balance"), np.mean(frames, axis=0).tolist(), strict=True))
    return measures | {"steady": 1.0 - changes / max(len(reading) - 1, 1)}


def _frame_measures(frame: Sequence[Seen], size: float = 32.0) -> tuple[float, float, float, float]:
    """Return the mean fit, worst fit, distance from the border, and closeness of the center of mass to the middle."""
    if not frame:
        return 0.0, 0.0, 0.0, 0.0
    fits = [thing.fit for thing in frame]
    rooms = [min(thing.x, thing.y, size - thing.x, size - thing.y) - thing.radius for thing in frame]
    areas = [thing.radius**2 for thing in frame]
    x = sum(area * thing.x for area, thing in zip(areas, frame, strict=True)) / sum(areas)
    y = sum(area * thing.y for area, thing in zip(areas, frame, strict=True)) / sum(areas)
    balance = 1.0 - 2.0 * max(abs(x - size / 2), abs(y - size / 2)) / size
    return sum(fits) / len(fits), min(fits), _unit(0.5 + min(rooms) / 8.0), _unit(balance)


def _palette_purity(sample: NDArray[np.uint8]) -> float:
    """Measure how close the pixels are to the background or a palette color, 0 to 1; blur and noise lower it."""
    pixels = sample.reshape(-1, 3).astype(np.float32)
    squares = (pixels**2).sum(1)[:, None] - 2.0 * pixels @ _PALETTE.T + (_PALETTE**2).sum(1)
    return _unit(1.0 - float(np.sqrt(squares.min(1).clip(0.0)).mean()) / _WORST_DISTANCE)


def _margin(spec: Spec, reading: Reading) -> float:
    """Measure how clear the relation or motion is, 0 to 1; 0.5 if it points neither way."""
    tracks = [[_find(noun, frame) for frame in reading] for noun in spec.nouns]
    if spec.relation:
        first, second = tracks[0][0], tracks[1][0]
        return 0.5 + _along(spec.relation, first, second) / 64.0 if first and second else 0.0
    if spec.motion is None:
        return min(float(np.mean([thing.fit if thing else 0.0 for thing in track])) for track in tracks)
    seen = [thing for thing in tracks[0] if thing]
    if len(seen) < 2:
        return 0.0
    return _unit(0.5 + 0.5 * _motion_margin(spec, seen, tracks))


def _motion_margin(spec: Spec, seen: Sequence[Seen], tracks: Sequence[Sequence[Seen | None]]) -> float:
    """Measure how far the first object follows the requested motion: 1 fully, 0 not at all, negative the other way."""
    first, last = seen[0], seen[-1]
    match spec.category:
        case "direction":
            places = {"right": "left of", "left": "right of", "down": "above", "up": "below"}
            return _along(places[spec.motion or ""], first, last) / 16.0
        case "bouncing":
            return (max(thing.y for thing in seen) - max(first.y, last.y)) / 16.0
        case "growing":
            ratio = np.log2(last.radius / first.radius)
            return float(ratio if spec.motion == "growing" else -ratio)
        case "rotating":
            fold = SYMMETRY[spec.nouns[0].shape]
            turn = np.unwrap([thing.angle for thing in seen], period=360.0 / fold)
            return float(abs(turn[-1] - turn[0])) * fold / 360.0
        case "passing":
            return abs(last.x - first.x) / 24.0
        case _:
            starts = [next((n for n, thing in enumerate(track) if thing), len(track)) for track in tracks]
            return (starts[1] - starts[0]) / len(tracks[0])


def _find(noun: Noun, frame: Sequence[Seen]) -> Seen | None:
    """Find the object that looks most like a noun, if any object has its shape or its color."""
    likeness = [
        (noun.shape == thing.shape) + (noun.color == thing.color) + (0.1 * thing.fit if thing.fit else 0.0)
        for thing in frame
    ]
    best = int(np.argmax(likeness)) if likeness else -1
    return frame[best] if likeness and likeness[best] >= 1.0 else None


def _along(relation: str, first: Seen, second: Seen) -> float:
    """Return how far the first object is on the given side of the second, in pixels."""
    dx, dy = second.x - first.x, second.y - first.y
    return {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]


def _unit(value: float) -> float:
    return min(max(float(value), 0.0), 1.0)
