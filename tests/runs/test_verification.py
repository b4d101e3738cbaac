"""Accuracies of held-out samples: balanced over categories of the small world, plain for other prompts, audited."""

from __future__ import annotations

import numpy as np
import pytest

from flexgym.runs.verification import Verification, audited, save_verification, verified_change
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.sampling import draw_clip, draw_scene
from flexgym.shapes.scenes import render, render_video
from flexgym.shapes.splits import CATEGORIES, draw_prompts

CAPTIONS = ["a red circle moving left", "a ring bouncing", "one black bar bouncing"]


def verified(prompts, scores, **fields):
    return Verification(prompts, np.zeros((len(prompts), 4, 4, 3), np.uint8), np.float32(scores), **fields)


def values(found):
    return {name: metric.value for name, metric in found.metrics.items()}


def test_accuracy_is_the_mean_over_the_categories():
    found = values(verified(CAPTIONS, [1, 0.5, 1], audited=np.array([True, False, False])))
    assert found["eval/accuracy"] == 0.75
    assert (found["eval/accuracy/direction"], found["eval/accuracy/bouncing"]) == (1.0, 0.5)
    assert 0.0 <= found["eval/accuracy_low"] < 0.75 < found["eval/accuracy_high"] <= 1.0
    assert found["eval/audit"] == 0.5


def test_prompts_of_users_have_a_plain_share_and_no_audit():
    found = values(verified(["a dog", "a dog", "a red circle bouncing"], [1, 1, 0]))
    assert found["eval/accuracy"] == pytest.approx(2 / 3)
    assert found["eval/accuracy_low"] < 2 / 3 < found["eval/accuracy_high"]
    assert not [name for name in found if name.startswith(("eval/accuracy/", "eval/audit"))]
    assert audited(["a dog"], np.zeros((1, 32, 32, 3), np.uint8)) is None


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_audit_agrees_on_rendered_scenes(kind):
    prompts, rng = draw_prompts(kind, "validation", 14, seed=1), np.random.default_rng(0)
    specs = [parse_caption(text) for text in prompts]
    samples = np.stack(
        [render(draw_scene(rng, each)) if kind == "image" else render_video(draw_clip(rng, each)) for each in specs]
    )
    assert audited(prompts, samples).mean() > 0.9
    assert not audited(prompts, samples[::-1])[:3].any()
    found = Verification(prompts, samples, np.ones(14, np.float32))
    assert set(found.accuracy.by_category) == set(CATEGORIES[kind])


def test_a_caption_of_a_motion_is_not_satisfied_by_an_image():
    assert audited(CAPTIONS, np.full((3, 32, 32, 3), 240, np.uint8)).tolist() == [False] * 3


def test_a_summary_has_intervals_and_the_audit_where_they_were_measured():
    rows = [{"iteration": 0, "eval/accuracy": 0.4}, {"iteration": 5}]
    assert verified_change(rows, "{first} {last}") == []
    rows.append({"iteration": 9, "eval/accuracy": 0.7, "eval/accuracy_low": 0.6, "eval/accuracy_high": 0.8})
    assert verified_change(rows, "{first}, {last} at {iteration}") == ["0.400, 0.700 (0.600 to 0.800) at 9"]
    rows[0]["eval/audit"], rows[2]["eval/audit"] = 0.41, 0.69
    assert verified_change(rows, "")[1] == "By the independent verifier: 0.410 and 0.690."


def test_a_grid_names_the_interval(tmp_path):
    save_verification(verified(CAPTIONS, [1, 0, 1]), tmp_path, None, iteration=3)
    assert (tmp_path / "iteration_000003.png").stat().st_size > 500
