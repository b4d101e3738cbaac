"""Rule-based judge for the small world that answers like UnifiedReward-Flex, with criteria chosen for the prompt.

It reads the pixels of each sample once, compares two readings criterion by criterion, and writes the hierarchical
assessment as JSON text. Like the reply of any judge, the text goes through the parser and the tournament.

There are two kinds of criteria. Those of the caption can change a score by 4 points. Finer measures such as clean
outlines change it by at most half a point: they separate samples that satisfy the caption equally well, so that there
is always a winner, and hardly ever outweigh a constraint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.judge import JudgeFailure, Outcome, Pair, parse_assessment
from flexgym.shapes.captions import BETWEEN, RELATIONS, Noun, Spec, parse_caption, plural
from flexgym.shapes.reading import Reading, Seen, read_groups, read_sample
from flexgym.shapes.scenes import BACKGROUND, COLORS, OUTLINES, SIZE
from flexgym.shapes.verifier import Track, advance, check, distance_along, distance_moved, way_between
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
    "shape": ("D. Shape Fidelity", ("shape",)),
    "color": ("D. Color Fidelity", ("color",)),
    "two_things": ("D. Presence of Both Things", ("shape",)),
    "size": ("D. Size", ("size",)),
    "counting": ("D. Counting Accuracy", ("count",)),
    "binding": ("D. Attribute Binding", ("color",)),
    "three_things": ("D. Presence of All Things", ("shape", "color")),
    "position": ("D. Spatial Relation", RELATIONS),
    "between": ("D. Spatial Relation", (BETWEEN,)),
    "absence": ("D. Absence", ("no",)),
    "direction": ("D. Motion Fidelity", ("motion", "speed")),
    "standing": ("D. Motion and Stillness", ("motion", "still")),
    "order": ("D. Temporal Order", ("motion",)),
    **dict.fromkeys(("bouncing", "growing", "rotating", "passing"), ("D. Motion Fidelity", ("motion",))),
}
"""Name of the personalized category and the kinds of the verifier's constraints in it, by category of caption."""
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
    count = next(key for key in keys if kind_of(key) == "count")
    things = [_major(f"thing {n}", f"The {_phrase(noun)}") for n, noun in enumerate(spec.nouns, start=1)]
    relations = [_major(key, f"Relation: {key}") for key in keys if key == spec.relation]
    absent = [_major(key, key.capitalize()) for key in keys if kind_of(key) == "no"]
    motions = [_major(key, key.capitalize()) for key in keys if kind_of(key) in ("motion", "speed")]
    steady = [_minor("steady", "Steady things over time")] if spec.modality == "video" else []
    weakest = _minor("weakest", "Recognizable forms")
    personal = [_major(key, key.lstrip("123 ").capitalize()) for key in personal_keys(spec, keys)]
    plans = (
        [_major(count, "Number of things"), *things, *relations, *absent, *motions, weakest],
        [*things, *motions, _minor("outlines", "Clean outlines"), _minor("palette", "Pure colors"), *steady],
        [_major("caption", "Staging of the caption"), _minor("framing", "Framing"), _minor("balance", "Balance")],
        [*personal, _minor("margin", "Clearness of what is asked")],
    )
    return tuple(zip((*ANCHORS[spec.modality], PERSONALIZED[spec.category][0]), map(tuple, plans), strict=True))


def kind_of(key: str) -> str:
    """Return what a constraint of the verifier is about, such as ``"color"`` for ``"1 color red"``."""
    part = key.lstrip("123 ")
    return part if part in (*RELATIONS, BETWEEN) else part.split(" ")[0]


def personal_keys(spec: Spec, keys: Iterable[str]) -> list[str]:
    """Select the verifier's constraints that belong to the personalized category of a caption."""
    kinds = PERSONALIZED[spec.category][1]
    return [key for key in keys if kind_of(key) in kinds]


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


def _frame_measures(frame: Sequence[Seen]) -> tuple[float, float, float, float]:
    """Return the mean fit, worst fit, distance from the border, and closeness of the center of mass to the middle."""
    if not frame:
        return 0.0, 0.0, 0.0, 0.0
    fits = [thing.fit for thing in frame]
    rooms = [min(thing.x, thing.y, SIZE - thing.x, SIZE - thing.y) - thing.radius for thing in frame]
    areas = [thing.radius**2 for thing in frame]
    x = sum(area * thing.x for area, thing in zip(areas, frame, strict=True)) / sum(areas)
    y = sum(area * thing.y for area, thing in zip(areas, frame, strict=True)) / sum(areas)
    balance = 1.0 - 2.0 * max(abs(x - SIZE / 2), abs(y - SIZE / 2)) / SIZE
    return sum(fits) / len(fits), min(fits), _unit(0.5 + min(rooms) / 8.0), _unit(balance)


def _palette_purity(sample: NDArray[np.uint8]) -> float:
    """Measure how close the pixels are to the background or a palette color, 0 to 1; blur and noise lower it."""
    pixels = sample.reshape(-1, 3).astype(np.float32)
    squares = (pixels**2).sum(1)[:, None] - 2.0 * pixels @ _PALETTE.T + (_PALETTE**2).sum(1)
    return _unit(1.0 - float(np.sqrt(squares.min(1).clip(0.0)).mean()) / _WORST_DISTANCE)


def _margin(spec: Spec, reading: Reading) -> float:
    """Measure how clear the relation or motion is, 0 to 1; 0.5 if it points neither way."""
    tracks = [[_find(noun, frame) for frame in reading] for noun in spec.nouns]
    if spec.motion:
        return _unit(0.5 + 0.5 * _MOTION_MARGINS[spec.category](spec, tracks))
    if spec.relation:
        things = [track[0] for track in tracks]
        return _unit(0.5 + _relation_margin(spec.relation, [thing for thing in things if thing]))
    return min(float(np.mean([thing.fit if thing else 0.0 for thing in track])) for track in tracks)


def _relation_margin(relation: str, things: Sequence[Seen]) -> float:
    """Measure how far a relation holds: 0.5 fully, 0 not at all, negative the other way or with a thing missing."""
    if len(things) < (3 if relation == BETWEEN else 2):
        return -0.5
    if relation != BETWEEN:
        return distance_along(relation, *things) / 64.0
    share, off = way_between(*things)
    return min(share, 1.0 - share) - off


def _direction_margin(spec: Spec, tracks: Sequence[Track]) -> float:
    along, _ = advance(tracks[0], spec.motion or "")
    ideal = _IDEAL_REACH.get(spec.speed or "")
    return 1.0 - abs(along - ideal) / ideal if ideal else along / 16.0


def _bounce_margin(_: Spec, tracks: Sequence[Track]) -> float:
    heights = [thing.y for thing in tracks[0] if thing]
    return (max(heights) - max(heights[0], heights[-1])) / 16.0 if heights else -1.0


def _growth_margin(spec: Spec, tracks: Sequence[Track]) -> float:
    radii = [thing.radius for thing in tracks[0] if thing]
    growth = float(np.log2(radii[-1] / radii[0])) if radii else 0.0
    return growth if spec.motion == "growing" else -growth


def _turn_margin(spec: Spec, tracks: Sequence[Track]) -> float:
    fold = OUTLINES[spec.nouns[0].shape].symmetry
    turn = np.unwrap([thing.angle for thing in tracks[0] if thing] or [0.0], period=360.0 / fold)
    return float(abs(turn[-1] - turn[0])) * fold / 360.0


def _order_margin(_: Spec, tracks: Sequence[Track]) -> float:
    first, second = (next((n for n, thing in enumerate(track) if thing), len(track)) for track in tracks)
    return (second - first) / len(tracks[0])


_IDEAL_REACH = {"slowly": 8.25, "quickly": 19.75}
_MOTION_MARGINS: dict[str, Callable[[Spec, Sequence[Track]], float]] = {
    "direction": _direction_margin,
    "bouncing": _bounce_margin,
    "growing": _growth_margin,
    "rotating": _turn_margin,
    "passing": lambda _, tracks: abs(advance(tracks[0], "right")[0]) / 24.0,
    "standing": lambda spec, tracks: _direction_margin(spec, tracks) - distance_moved(tracks[1]) / 16.0,
    "order": _order_margin,
}
"""How far a video follows the motion that a caption names: 1 fully, 0 not at all, negative the other way."""


def _find(noun: Noun, frame: Sequence[Seen]) -> Seen | None:
    """Find the object that looks most like a noun, if any object has its shape or its color."""
    likeness = [(noun.shape == thing.shape) + (noun.color == thing.color) + 0.1 * thing.fit for thing in frame]
    best = int(np.argmax(likeness)) if likeness else -1
    return frame[best] if likeness and likeness[best] >= 1.0 else None


def _unit(value: float) -> float:
    return min(max(float(value), 0.0), 1.0)
