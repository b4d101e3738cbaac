"""A verification is shared among the learners without a change of its numbers."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from flexgym.algorithm import rollout
from flexgym.rllib import learner as learners
from flexgym.rllib.learner import FlowLearner
from tests.generators.tiny import PROMPTS, shared

TEXTS = [PROMPTS[at % len(PROMPTS)] for at in range(7)]


def learner_of(rank: int, count: int, *, rows: int, shards: bool) -> SimpleNamespace:
    settings = SimpleNamespace(
        verification=SimpleNamespace(rows_per_forward=rows, sampler="rollout", trained_share=1.0),
        algorithm=SimpleNamespace(guidance=SimpleNamespace(verification=None)),
        num_shards=count,
        shards=shards,
    )
    config = SimpleNamespace(settings=settings)
    return SimpleNamespace(rank=rank, config=config, generator=shared("sd3"), verified_weights=nullcontext)


@pytest.mark.parametrize(("count", "rows"), [(1, 3), (2, 3), (4, 3), (2, 64), (3, 2)])
def test_shares_are_what_one_learner_makes(count, rows):
    seeds = list(range(7))
    expected = rollout.sample(shared("sd3"), TEXTS, seeds=seeds, max_rows=rows)
    parts = [
        FlowLearner.evaluate(learner_of(rank, count, rows=rows, shards=False), prompts=TEXTS, seeds=seeds)
        for rank in range(count)
    ]
    blocks = {index: samples for part in parts for index, samples in part.items()}
    assert sum(map(len, parts)) == len(blocks) == -(-7 // rows)
    np.testing.assert_array_equal(np.concatenate([blocks[index] for index in sorted(blocks)]), expected)


@pytest.mark.parametrize("shards", [True, False])
@pytest.mark.parametrize(("count", "rows"), [(2, 3), (4, 2), (3, 64), (2, 1)])
def test_all_learners_go_through_a_sharded_transformer_equally_often(monkeypatch, count, rows, shards):
    calls = []
    monkeypatch.setattr(learners, "sample", lambda *args, **kwargs: calls.append(args) or np.zeros(1))
    often = []
    for rank in range(count):
        calls.clear()
        found = FlowLearner.evaluate(learner_of(rank, count, rows=rows, shards=shards), prompts=TEXTS, seeds=range(7))
        assert list(found) == list(range(rank, -(-7 // rows), count))
        often.append(len(calls))
    assert len(set(often)) == 1 if shards else sum(often) == -(-7 // rows)
