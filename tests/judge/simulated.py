"""Verdicts made by hand, and groups whose samples have a known worth."""

from __future__ import annotations

import numpy as np

from flexgym.judge import Assessment, Category, Dimension
from flexgym.types import Prompt, SampleGroup

NAMES = ("A. Semantic", "B. Quality", "C. Aesthetics")


def verdict(overall, *anchors, extra=(), scores=()):
    """An assessment with the given winners (1 or 2): overall, categories A, B, C, and personalized ones.

    ``scores`` are the points of the first sample by category, one sub-dimension each; 5 where nothing is given.
    """
    names = [*NAMES, *(f"D{i}" for i in range(len(extra)))]
    winners = [*(anchors or [overall] * 3), *extra]
    points = [*scores, *[5] * (len(names) - len(scores))]
    categories = [
        Category(
            name=name, dims=(Dimension(name="d", score_1=score, score_2=10 - score),), cat_winner=f"Image {winner}"
        )
        for name, winner, score in zip(names, winners, points, strict=True)
    ]
    return Assessment(categories=categories, winner=f"Image {overall}")


def group(values, text="brightest"):
    """Samples of one pixel each."""
    samples = np.asarray(values, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 1, 3), dtype=np.uint8)
    return SampleGroup(Prompt(text), samples)


def simulated_groups(count, size, *, seed):
    """Groups of given size and the worth of their samples, standard normal, which only `WorthJudge` can see."""
    worths = np.random.default_rng(seed).normal(size=(count, size))
    return [
        SampleGroup(Prompt(f"group {number}", {"worths": worth}), np.zeros((size, 1, 1, 3), dtype=np.uint8))
        for number, worth in enumerate(worths)
    ], list(worths)


class WorthJudge:
    """Never errs; the margin is the difference in worth."""

    def assess(self, pairs):
        return [self._one(*pair.prompt.metadata["worths"][[pair.first, pair.second]]) for pair in pairs]

    @staticmethod
    def _one(first, second):
        return verdict(1 if first > second else 2, scores=[5 + float(np.clip(first - second, -10, 10)) / 2] * 3)
