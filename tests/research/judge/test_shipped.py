"""The judge that ships with the package, on compositions that it was never shown."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from flexgym.judge import Assessment, Pair
from flexgym.judge.backends.base import Decoding
from flexgym.judge.backends.transformers_model import TransformersBackend
from flexgym.judge.inputs import Inputs
from flexgym.judge.sources import EMBEDDED_JUDGE, locate_judge, read_judge_config
from flexgym.judge.vision_judge import VisionJudge
from flexgym.shapes.captions import VIDEO_CATEGORIES
from flexgym.types import Prompt, SampleGroup
from research.judge.candidates import draw_candidates

TITLES = {
    "counting": "D. Counting Accuracy",
    "position": "D. Spatial Relation",
    **dict.fromkeys(VIDEO_CATEGORIES, "D. Motion Fidelity"),
    "order": "D. Temporal Order",
}
# Least accuracy on pairs of which exactly one meets its caption.
LEAST = {("image", "rendered"): 0.95, ("image", "generated"): 0.88, ("video", "rendered"): 0.85}
LEAST |= {("video", "generated"): 0.78}


@pytest.fixture(scope="module")
def judge():
    config = read_judge_config(EMBEDDED_JUDGE)
    backend = TransformersBackend(locate_judge(EMBEDDED_JUDGE))
    yield VisionJudge(backend, decoding=Decoding(**config.decoding), inputs=Inputs(**config.inputs))
    backend.close()


@dataclass(frozen=True)
class Figures:
    """Shares of replies that parse, of right winners, of pairs judged alike both ways, and of criteria that fit."""

    parsed: float
    right: float
    consistent: float
    fitting: float


def measure(judge, kind, source, count, *, seed):
    """Figures over pairs of held-out captions of which exactly one candidate is right, each in both orders."""
    pairs, truth, categories = [], [], []
    rng = np.random.default_rng(seed)
    for group in draw_candidates(kind, source, splits=("validation",), seed=seed):
        whole = [view.share == 1.0 for view in group.views]
        differing = [pair for pair in itertools.combinations(range(len(whole)), 2) if whole[pair[0]] != whole[pair[1]]]
        if differing:
            first = differing[rng.integers(len(differing))]
            samples = SampleGroup(Prompt(group.caption), group.samples)
            pairs += [Pair(samples, *first), Pair(samples, *first[::-1])]
            truth += [int(whole[first[1]]), int(whole[first[0]])]
            categories += [group.category] * 2
        if len(pairs) >= 2 * count:
            break
    told = judge.assess(pairs)
    sides = [outcome.side if isinstance(outcome, Assessment) else None for outcome in told]
    titles = [
        TITLES[category] in {each.name for each in outcome.personalized}
        for outcome, category in zip(told, categories, strict=True)
        if isinstance(outcome, Assessment) and category in TITLES
    ]
    return Figures(
        parsed=float(np.mean([isinstance(outcome, Assessment) for outcome in told])),
        right=float(np.mean([side == true for side, true in zip(sides, truth, strict=True)])),
        consistent=float(
            np.mean([one is not None and other == 1 - one for one, other in zip(sides[::2], sides[1::2], strict=True)])
        ),
        fitting=float(np.mean(titles)),
    )


@pytest.fixture(scope="module")
def figures(judge):
    """Figures over 250 held-out pairs of each set, in both orders."""
    return {named: measure(judge, *named, 250, seed=78) for named in LEAST}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), LEAST)
def test_on_held_out_pairs(figures, kind, source, capsys):
    found = figures[kind, source]
    with capsys.disabled():
        print(f"\n250 held-out pairs, {source} {kind}s: {found}")
    assert found.parsed >= 0.99
    assert found.right >= LEAST[kind, source]
    assert found.fitting >= 0.99


@pytest.mark.slow
def test_most_verdicts_are_the_same_in_both_orders(figures, capsys):
    consistent = {named: found.consistent for named, found in figures.items()}
    with capsys.disabled():
        print(f"\nthe same in both orders: {np.mean([*consistent.values()]):.3f} {consistent}")
    assert np.mean([*consistent.values()]) >= 0.93
