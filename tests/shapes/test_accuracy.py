from __future__ import annotations

import numpy as np
import pytest

from flexgym.shapes.accuracy import balanced_accuracy, held_out_part
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.splits import draw_prompts

PROMPTS = draw_prompts("image", "test", 400, seed=1)


def test_categories_count_alike_however_many_captions_they_have():
    captions = ["a red circle and a blue square"] * 9 + ["a large blue circle"]
    found = balanced_accuracy(captions, [True] * 9 + [False])
    assert found.value == 0.5
    assert found.by_category == {"binding": 1.0, "size": 0.0}
    assert (found.low, found.high, found.compositions) == (0.5, 0.5, 2)  # one composition each can only be drawn again


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    names = [held_out_part(parse_caption(prompt)) for prompt in PROMPTS]
    covered = []
    for trial in range(60):
        chance = {name: rng.beta(2, 2) for name in dict.fromkeys(names)}
        found = balanced_accuracy(PROMPTS, [rng.random() < chance[name] for name in names], seed=trial)
        covered.append(found.low <= 0.5 <= found.high)
    assert np.mean(covered) >= 0.85


def test_samples_of_one_composition_are_no_independent_evidence():
    names = {
        name: index % 2 for index, name in enumerate(dict.fromkeys(map(held_out_part, map(parse_caption, PROMPTS))))
    }
    together = balanced_accuracy(PROMPTS, [names[held_out_part(parse_caption(prompt))] for prompt in PROMPTS])
    mixed = balanced_accuracy(PROMPTS, np.random.default_rng(0).random(len(PROMPTS)) < together.value)
    assert together.high - together.low > mixed.high - mixed.low


def test_it_repeats_and_reads_well():
    right = np.arange(len(PROMPTS)) % 3 > 0
    found = balanced_accuracy(PROMPTS, right)
    assert found == balanced_accuracy(PROMPTS, right)
    assert str(found) == f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
    assert found.low < found.value < found.high


@pytest.mark.parametrize(("captions", "right"), [([], []), (["a red circle"], [True, False]), (["a cat"], [True])])
def test_what_cannot_be_counted_is_refused(captions, right):
    with pytest.raises(ValueError, match="expected"):
        balanced_accuracy(captions, right)
