"""Verdicts of the audit, and the names of what a sample shows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexgym.audit.requests import BEFORE, BETWEEN, DIRECTIONS, PASSING, Item, Request, read_request
from flexgym.audit.segments import SIDE
from flexgym.audit.tracks import Track, follow

_APART = SIDE / 10
"""Distance from which one thing is beside, above or below another."""
_BETWEEN = -0.5
"""Largest cosine of the angle in which a thing between two others sees them: 120 degrees."""
_PRESENT = 0.75
"""Share of the frames in which a thing must be seen."""
_LATER = 2
"""Frames between two events, one of which is before the other."""
_SIDES = {"left of": (1.0, 0.0), "right of": (-1.0, 0.0), "above": (0.0, 1.0), "below": (0.0, -1.0)}
"""Direction from the first thing to the second."""


@dataclass(frozen=True)
class AuditVerdict:
    """Which constraints of a caption a sample satisfies.

    Attributes:
        caption: the caption.
        constraints: name of each constraint, and whether it is satisfied.
    """

    caption: str
    constraints: Mapping[str, bool]

    @property
    def satisfied(self) -> bool:
        """Return whether the sample satisfies every constraint."""
        return all(self.constraints.values())

    @property
    def score(self) -> float:
        """Return the share of constraints that the sample satisfies."""
        return sum(self.constraints.values()) / len(self.constraints)


def audit(caption: str, sample: NDArray[np.uint8]) -> AuditVerdict:
    """Check a sample against a caption of the small world, without code, thresholds or labels of its verifier.

    Args:
        caption: an image caption for an image, a video caption for a video.
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``; a video of one frame is an image.

    Raises:
        ValueError: the caption is not one of the small world, or the sample is of another type or modality.
    """
    request, frames = read_request(caption), _frames(sample)
    if (len(frames) > 1) != (request.event is not None):
        wanted = "a video for a caption of a motion" if request.event else "an image for a caption without a motion"
        raise ValueError(f"expected {wanted}, got {len(frames)} frames for {caption!r}")
    tracks = follow(frames)
    found = [[track for track in tracks if _matches(item, track)] for item in request.items]
    constraints = {_without_size(item): len(own) == item.count for item, own in zip(request.items, found, strict=True)}
    constraints["nothing else"] = len(tracks) == sum(item.count for item in request.items)
    if request.absent:
        constraints[f"no {request.absent.color} {request.absent.shape}"] = not any(
            _matches(request.absent, track) for track in tracks
        )
    singles = [own[0] if len(own) == 1 else None for own in found]
    constraints |= _sized(request, singles) | _related(request, singles) | _moved(request, singles, len(frames))
    return AuditVerdict(caption, constraints)


def shown(sample: NDArray[np.uint8]) -> frozenset[str]:
    """Return the names of the compositions that a sample shows, whatever its caption.

    Things of several kinds are all pairs of kinds, such as ``"blue square + red circle"``; several things of one kind
    are a number, such as ``"3 x red circle"``; one thing alone is a size, such as ``"small red circle"``, or in a video
    a motion, such as ``"left quickly: red circle"``. Things without a known color and shape have no name.

    Args:
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``; a video of one frame is an image.
    """
    frames = _frames(sample)
    tracks = [track for track in follow(frames) if track.kind]
    kinds = Counter(track.kind for track in tracks)
    if len(kinds) > 1:
        return frozenset(" + ".join(two) for two in itertools.combinations(sorted(filter(None, kinds)), 2))
    if len(tracks) > 1:
        return frozenset(f"{count} x {kind}" for kind, count in kinds.items())
    if len(frames) == 1:
        return frozenset(f"{track.size} {track.kind}" for track in tracks if track.size)
    return frozenset(f"{motion}: {track.kind}" for track in tracks if (motion := _motion(track)))


def _motion(track: Track) -> str | None:
    if track.direction:
        return f"{track.direction} {track.speed}" if track.speed else track.direction
    return track.change


def _frames(sample: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    if sample.dtype != np.uint8 or sample.ndim not in (3, 4) or sample.shape[-1] != 3:
        raise ValueError(f"expected uint8 [H, W, 3] or [F, H, W, 3], got {sample.dtype} {list(sample.shape)}")
    return list(sample if sample.ndim == 4 else sample[None])


def _matches(item: Item, track: Track) -> bool:
    return item.shape == track.shape and item.color in (None, track.color)


def _without_size(item: Item) -> str:
    return str(Item(item.shape, item.color, None, item.count))


def _sized(request: Request, found: Sequence[Track | None]) -> dict[str, bool]:
    """Return whether the things have the sizes that are asked for."""
    pairs = zip(request.items, found, strict=True)
    return {str(item): track is not None and track.size == item.size for item, track in pairs if item.size}


def _related(request: Request, found: Sequence[Track | None]) -> dict[str, bool]:
    """Return whether the first thing is beside or between the others."""
    if request.relation is None:
        return {}
    first, *others = (track.places[-1] if track else None for track in found)
    if first is None or any(other is None for other in others):
        return {request.relation: False}
    steps = [np.asarray(other) - first for other in others]
    if request.relation == BETWEEN:
        lengths = np.linalg.norm(steps[0]) * np.linalg.norm(steps[1])
        return {BETWEEN: bool(steps[0] @ steps[1] <= _BETWEEN * lengths)}
    return {request.relation: bool(steps[0] @ np.array(_SIDES[request.relation]) > _APART)}


def _moved(request: Request, found: Sequence[Track | None], frames: int) -> dict[str, bool]:
    """Return whether the things do what is asked for in a video, and are seen and look the same throughout."""
    event = request.event
    if event is None:
        return {}
    tracks = [track for track in found if track]
    if len(tracks) < len(found):
        return {event: False}
    if event == BEFORE:
        return {event: _are_in_order(tracks, frames), "constant": all(track.steady for track in tracks)}
    seen = all(len(track.frames) >= _PRESENT * frames for track in tracks)
    checks = {"constant": seen and all(track.steady for track in tracks)}
    first = tracks[0]
    if event == PASSING:
        return checks | {event: _passes(first, tracks[1]), "standing still": tracks[1].still}
    if event in DIRECTIONS:
        checks[event] = first.direction == event
        checks |= {request.speed: first.speed == request.speed} if request.speed else {}
        return checks | ({"standing still": tracks[1].still} if request.waits else {})
    return checks | {event: first.direction is None and first.change == event}


def _are_in_order(tracks: Sequence[Track], frames: int) -> bool:
    """Return whether the second thing appears later than the first, and both are there at the end."""
    first, second = tracks
    stay = all(track.frames[-1] == frames - 1 for track in tracks)
    return stay and first.frames[0] < _LATER and second.frames[0] - first.frames[0] >= _LATER


def _passes(moving: Track, standing: Track) -> bool:
    """Return whether a thing begins on one side of another and ends on the other side."""
    place = float(np.median(standing.places[:, 0]))
    before, after = (float(x) - place for x in (moving.places[0, 0], moving.places[-1, 0]))
    return before * after < 0 and min(abs(before), abs(after)) > _APART
