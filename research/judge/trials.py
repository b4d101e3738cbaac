"""Trials of a judge: pairs of samples of which exactly one satisfies the whole caption, and its verdicts on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexgym.judge import Assessment, Outcome, Pair
from flexgym.judge.protocol import Judge
from flexgym.shapes.brief import cannot_tell
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.splits import draw_prompts
from flexgym.types import Modality, Prompt, SampleGroup
from research.judge.candidates import Candidates, draw_rendered
from research.judge.pools import generated_groups
from research.judge.wear import Frames, h264, resized, ruined

SOURCES = ("rendered", "generated")
Change = Callable[[np.random.Generator, Frames], Frames]


@dataclass(frozen=True, eq=False)
class Trial:
    """Two samples of a caption.

    Attributes:
        caption: of the small world.
        category: its category.
        samples: uint8 ``[2, H, W, 3]`` or ``[2, F, H, W, 3]``.
        right: index of the sample that satisfies the caption.
    """

    caption: str
    category: str
    samples: NDArray[np.uint8]
    right: int


def draw_trials(kind: Modality, source: Path | None, split: str, *, count: int, seed: int) -> list[Trial]:
    """Draw trials with distinct captions, balanced over the categories, and either side as likely to be right.

    Args:
        kind: ``"image"`` or ``"video"``.
        source: folder of a pipeline whose samples are compared; None compares rendered scenes.
        split: of the captions.
        count: how many; fewer if too many groups have no right or no wrong sample.
        seed: of everything that is drawn.
    """
    captions = draw_prompts(kind, split, count + count // 2, seed=seed)
    rng = np.random.default_rng([seed, 1])
    groups = _rendered(rng, captions, split) if source is None else generated_groups(source, kind, captions, seed=seed)
    trials: list[Trial] = []
    for group in groups:
        whole = [one.share == 1.0 for one in group.views]
        if any(whole) and not all(whole):
            right = rng.choice(np.flatnonzero(whole))
            places = [int(right), int(rng.choice(np.flatnonzero(~np.array(whole))))]
            side = int(rng.integers(2))
            chosen = group.samples[places[::-1] if side else places]
            trials.append(Trial(group.caption, group.spec.category, chosen, side))
        if len(trials) == count:
            break
    return trials


def _rendered(rng: np.random.Generator, captions: Sequence[str], split: str) -> Iterator[Candidates]:
    splits = tuple(dict.fromkeys((split, "training")))
    for caption in captions:
        yield draw_rendered(rng, parse_caption(caption), splits=splits, caption=caption)


def small_video(_: np.random.Generator, frames: Frames) -> Frames:
    """Resize frames to 64 pixels, and compress them as H.264 with a constant rate factor of 28."""
    return h264(resized(frames, (64, 64)), 28)


def changed(trials: Sequence[Trial], change: Change, *, sides: Sequence[int] = (0, 1), seed: int = 0) -> list[Trial]:
    """Change the pixels of samples.

    Args:
        trials: the originals.
        change: takes and returns frames; both samples of a trial keep one size.
        sides: which of the samples: 0 the right one, 1 the other.
        seed: of the changes.
    """
    rng = np.random.default_rng(seed)
    result = []
    for trial in trials:
        samples = list(trial.samples)
        for side in sides:
            place = trial.right ^ side
            frames = samples[place] if samples[place].ndim == 4 else samples[place][None]
            after = change(rng, frames)
            samples[place] = after if samples[place].ndim == 4 else after[0]
        result.append(replace(trial, samples=np.stack(samples)))
    return result


def unreadable(trials: Sequence[Trial], *, sides: Sequence[int] = (0, 1)) -> list[Trial]:
    """Make samples unreadable, see `changed`."""
    return changed(trials, ruined, sides=sides)


@dataclass(frozen=True)
class Answers:
    """Answers of a judge to trials, each shown in both orders.

    Attributes:
        trials: N of them.
        outcomes: of each, for its samples as they are and for them exchanged, N pairs.
    """

    trials: Sequence[Trial]
    outcomes: Sequence[tuple[Outcome, Outcome]]

    def right(self) -> NDArray[np.float64]:
        """Return the share of both orders in which the right sample wins, ``[N]``; a failure is wrong."""
        return np.array(
            [
                np.mean([_side(one) == trial.right, _side(other) == 1 - trial.right])
                for trial, (one, other) in zip(self.trials, self.outcomes, strict=True)
            ]
        )

    def consistent(self) -> NDArray[np.float64]:
        """Return whether the same sample wins in both orders, ``[N]``."""
        sides = [(_side(one), _side(other)) for one, other in self.outcomes]
        return np.array([float(one is not None and other is not None and one != other) for one, other in sides])

    def parsed(self) -> NDArray[np.float64]:
        """Return the share of the replies that can be read, ``[N]``."""
        return np.array([np.mean([isinstance(each, Assessment) for each in both]) for both in self.outcomes])

    def cannot_tell(self) -> NDArray[np.float64]:
        """Return the share of the replies that say that neither sample can be read, ``[N]``."""
        return np.array(
            [np.mean([isinstance(each, Assessment) and cannot_tell(each) for each in both]) for both in self.outcomes]
        )

    def by_category(self) -> Mapping[str, float]:
        """Return the accuracy in each category."""
        right, names = self.right(), np.array([trial.category for trial in self.trials])
        return {name: float(right[names == name].mean()) for name in dict.fromkeys(names.tolist())}


def _side(outcome: Outcome) -> int | None:
    return outcome.side if isinstance(outcome, Assessment) and not cannot_tell(outcome) else None


def ask_both_orders(judge: Judge, trials: Sequence[Trial]) -> Answers:
    """Judge each trial in both orders."""
    pairs = []
    for trial in trials:
        group = SampleGroup(Prompt(trial.caption), trial.samples)
        pairs += [Pair(group, 0, 1), Pair(group, 1, 0)]
    outcomes = judge.assess(pairs)
    return Answers(trials, list(zip(outcomes[::2], outcomes[1::2], strict=True)))


def votes(judges: Sequence[Judge], trials: Sequence[Trial]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Let several judges, or one with several seeds, vote on each trial in one order.

    Returns:
        The share of the votes that the winner gets, the judge's confidence, 0.5 to 1, and whether the winner is right,
        with one half for a tie; ``[N]`` each.
    """
    groups = [SampleGroup(Prompt(trial.caption), trial.samples) for trial in trials]
    pairs = [Pair(group, 0, 1) for group in groups]
    sides = [[_side(outcome) for outcome in judge.assess(pairs)] for judge in judges]
    shares = np.array([_second_share(row) for row in zip(*sides, strict=True)])
    right = np.array([trial.right for trial in trials])
    winner = np.where(shares == 0.5, 0.5, (shares > 0.5) == right)
    return np.maximum(shares, 1.0 - shares), winner.astype(np.float64)


def _second_share(sides: Sequence[int | None]) -> float:
    """Return the share of the votes for the second sample; a judge that names none is divided between both."""
    return float(np.mean([0.5 if side is None else side for side in sides]))
