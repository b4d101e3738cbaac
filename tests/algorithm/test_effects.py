"""Notes about settings that have no effect and do no harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexgym.algorithm.base import algorithm_class
from flexgym.algorithm.effects import effect_notes, effect_problems
from flexgym.config.training import TrainingSettings
from flexgym.generators.defaults import is_distilled

DRAWN = {"source": "uniform"}


def algorithm_of(name, **settings):
    return algorithm_class(name).from_settings(name=name, **settings)


def notes_of(algorithm, **training):
    return effect_notes(algorithm, TrainingSettings(**training))


@pytest.mark.parametrize(
    ("name", "settings", "idle"),
    [
        ("grpo", {}, "algorithm.clip_range."),
        ("grpo", {"penalties": {"old": {"coeff": 0.1}}}, "algorithm.clip_range, algorithm.penalties.old."),
        ("matching", {}, "algorithm.clip_range."),
        ("flow_dppo", {}, "algorithm.threshold."),
        ("v_grpo", {}, "algorithm.clip_range."),
        ("dgpo", {"clip_range": 0.05}, "algorithm.clip_range."),
        ("covariance_guidance", {}, "algorithm.radius."),
        ("diffusion_nft", {}, "algorithm.beta."),
    ],
)
def test_bounds_are_named_where_every_ratio_is_one(name, settings, idle):
    algorithm = algorithm_of(name, **settings)
    (note,) = notes_of(algorithm)
    assert note.startswith(f"without effect: {idle} An iteration has one optimizer step")
    assert notes_of(algorithm, num_updates=2) == notes_of(algorithm, passes=2) == []


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("online_dpo", {}),
        ("dgpo", {}),
        ("v_grpo", {"clip_range": None}),
        ("covariance_guidance", {"radius": None}),
        ("diffusion_nft", {"old": "capped"}),
        ("grpo", {"guidance": {"training": 1.0}}),
    ],
)
def test_nothing_is_said_where_nothing_is_idle(name, settings):
    assert notes_of(algorithm_of(name, **settings)) == []


def test_guidance_that_differs_changes_nothing_on_the_forward_process():
    assert notes_of(algorithm_of("matching", guidance={"training": 1.0}))


def test_a_window_beside_drawn_levels_is_named():
    drawn = algorithm_of("matching", levels=DRAWN, window={"size": 2})
    assert notes_of(drawn, passes=2) == [
        "without effect: algorithm.window. The noise levels are drawn (levels.source: uniform)."
    ]


@pytest.mark.parametrize(("levels", "problems"), [({}, 0), (DRAWN, 1)])
def test_only_levels_off_the_grid_are_refused_for_distilled_generators(levels, problems):
    algorithm = algorithm_of("matching", levels=levels)
    assert len(list(effect_problems(algorithm, TrainingSettings(), distilled=True))) == problems
    assert not list(effect_problems(algorithm, TrainingSettings(), distilled=False))


def test_policy_gradient_may_train_distilled_generators():
    assert not list(effect_problems(algorithm_of("grpo"), TrainingSettings(), distilled=True))


@pytest.mark.parametrize("distilled", [True, False])
def test_a_local_pipeline_says_whether_it_is_distilled(distilled, tmp_path: Path):
    (tmp_path / "model_index.json").write_text(json.dumps({"is_distilled": distilled}))
    assert is_distilled(tmp_path) == distilled
    assert not is_distilled(tmp_path / "nowhere")
    assert not is_distilled(None)
