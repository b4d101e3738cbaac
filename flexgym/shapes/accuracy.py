"""Accuracy on the prompts of a split: balanced over the categories, with an interval over the compositions.

Samples of one composition succeed and fail together, so an interval over single samples would be too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexgym.shapes.captions import Spec, parse_caption
from flexgym.shapes.splits import compositions, split_of_composition

_RESAMPLES = 2000
_LEVEL = 0.95

Cell = tuple[str, str]
"""Category of a prompt, and the composition that it succeeds or fails together with."""


@dataclass(frozen=True)
class Accuracy:
    """Share of satisfied captions.

    Attributes:
        value: mean over the categories of the share in each, 0 to 1.
        low: lower end of the 95% interval.
        high: upper end of it.
        by_category: share in each category; empty for prompts without categories.
        compositions: number of different compositions.
    """

    value: float
    low: float
    high: float
    by_category: Mapping[str, float]
    compositions: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def balanced_accuracy(captions: Sequence[str], satisfied: ArrayLike, *, seed: int = 0) -> Accuracy:
    """Average over the categories, and draw compositions with replacement for the interval.

    The interval is that of the percentile bootstrap over clusters: a resample draws compositions, each with all its
    samples in all categories. It draws one less than there are, which makes the spread of few compositions unbiased
    (Rao and Wu 1988, Resampling inference with complex survey data).

    Args:
        captions: N captions of the small world.
        satisfied: for each, whether the sample satisfies it, bool ``[N]``; or numbers, such as the differences of two
            policies on the same prompts, for the mean and interval of a gain.
        seed: of the resamples.

    Raises:
        ValueError: if there are no captions, their number is another, or one is not from the small world.
    """
    specs = [parse_caption(caption) for caption in captions]
    return _over_cells([(spec.category, held_out_part(spec)) for spec in specs], satisfied, seed=seed)


def prompt_accuracy(prompts: Sequence[str], satisfied: ArrayLike, *, seed: int = 0) -> Accuracy:
    """Return the balanced accuracy of captions of the small world, and the plain share for any other prompts.

    The interval of other prompts draws prompts with replacement, each with all its samples.

    Args:
        prompts: N texts.
        satisfied: as for `balanced_accuracy`.
        seed: of the resamples.

    Raises:
        ValueError: if there are no prompts, or their number is another.
    """
    if are_captions(prompts):
        return balanced_accuracy(prompts, satisfied, seed=seed)
    return _over_cells([("", prompt) for prompt in prompts], satisfied, seed=seed)


def are_captions(prompts: Sequence[str]) -> bool:
    """Return whether all prompts are captions of the small world."""
    try:
        return all(map(parse_caption, prompts))
    except ValueError:
        return False


def _over_cells(cells: Sequence[Cell], satisfied: ArrayLike, *, seed: int) -> Accuracy:
    right = np.asarray(satisfied, np.float64)
    if not len(cells) or right.shape != (len(cells),):
        raise ValueError(f"expected a value for each of at least one caption, got {right.shape} for {len(cells)}")
    names, which = np.unique([composition for _, composition in cells], return_inverse=True)
    categories = list(dict.fromkeys(category for category, _ in cells))
    places = which * len(categories) + np.array([categories.index(category) for category, _ in cells])
    form = (len(names), len(categories))
    sums, counts = (
        np.bincount(places, weights, minlength=form[0] * form[1]).reshape(form).astype(np.float64)
        for weights in (right, np.ones_like(right))
    )
    shares = sums.sum(0) / counts.sum(0)
    low, high = np.quantile(_resampled(sums, counts, seed=seed), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    by_category = {name: share for name, share in zip(categories, shares.tolist(), strict=True) if name}
    return Accuracy(float(shares.mean()), float(low), float(high), by_category, len(names))


def _resampled(sums: NDArray[np.float64], counts: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """Return the balanced accuracy of each resample.

    Args:
        sums: satisfied captions of each composition in each category, ``[K, C]``.
        counts: captions of each, ``[K, C]``.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    totals = np.zeros((2, _RESAMPLES, sums.shape[1]))
    _, stratum = np.unique(counts > 0, axis=0, return_inverse=True)
    single = (counts > 0).sum(1) == 1
    # Compositions of two things occur in several categories, those of the others in one of their own.
    stratum = np.where(single, stratum, -1)
    for each in np.unique(stratum):
        members = np.flatnonzero(stratum == each)
        chosen = members[rng.integers(len(members), size=(_RESAMPLES, max(1, len(members) - 1)))]
        weights = np.zeros((_RESAMPLES, len(sums)))
        np.add.at(weights, (np.arange(_RESAMPLES)[:, None], chosen), len(members) / chosen.shape[1])
        totals += np.stack([weights @ sums, weights @ counts])
    return np.nanmean(totals[0] / totals[1], axis=1)


def held_out_part(spec: Spec) -> str:
    """Return the compositions of a caption that are held out from training; all of its kinds if none is."""
    named = compositions(spec)
    held_out = [name for name in named if split_of_composition(name, spec.modality) != "training"]
    return ", ".join(sorted(held_out or named)) or " + ".join(noun.kind for noun in spec.nouns)
