"""Notes about settings that have no effect and do no harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexgym.algorithm.base import algorithm_class
from flexgym.algorithm.effects import effect_notes, effect_problems, precision_misfit, solver_misfit
from flexgym.config.training import TrainingSettings
from flexgym.core.errors import ConfigError
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


def test_penalties_of_no_weight_and_guidance_of_no_reference_are_named():
    idle = algorithm_of("grpo", penalties={"reference": {"coeff": 0.0}}, guidance={"reference": 2.0})
    assert notes_of(idle, passes=2) == [
        "without effect: algorithm.penalties.reference. Set coeff above 0 for a penalty.",
        "without effect: algorithm.guidance.reference. Neither the loss nor a penalty compares with the reference"
        " policy.",
    ]
    held = algorithm_of("grpo", penalties={"reference": {"coeff": 0.1}}, guidance={"reference": 2.0})
    assert notes_of(held, passes=2) == []
    assert notes_of(algorithm_of("online_dpo", guidance={"reference": 2.0}), passes=2) == []


def test_steps_without_noise_have_no_density_for_a_penalty():
    teachers, name = {"a": {"adapter": "a"}}, "opd"
    for form, count in (("gaussian", 1), ("velocity", 0)):
        algorithm = algorithm_of(name, teachers=teachers, penalties={"reference": {"coeff": 0.1, "form": form}})
        assert len(list(effect_problems(algorithm, TrainingSettings(), distilled=False))) == count


@pytest.mark.parametrize(
    "window",
    [
        {"strategy": "all"},
        {"size": 1, "strategy": "random"},
        {"size": 2, "strategy": "random", "first": [0, 0]},
        {"size": 1, "strategy": "progressive", "decay": [0, 1.0]},
    ],
)
def test_a_window_without_a_step_that_can_be_trained_is_refused(window):
    with pytest.raises(ConfigError, match=r"window|step"):
        algorithm_of("grpo", window=window).check(1)


@pytest.mark.parametrize("decay", [None, (2, 0.5)])
def test_a_window_never_shrinks(decay):
    settings = {"size": 4, "strategy": "progressive", "every": [10, 1], "decay": decay}
    if decay:
        settings["every"] = 3
    schedule = algorithm_of("grpo", window=settings).windows(10)
    assert {len(schedule.at(iteration, 0)) for iteration in range(200)} == {4}


def test_a_window_beside_drawn_levels_is_named():
    drawn = algorithm_of("matching", levels=DRAWN, window={"size": 2})
    assert notes_of(drawn, passes=2) == [
        "without effect: algorithm.window. The noise levels are drawn (levels.source: uniform)."
    ]


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("grpo", {"window": {"strategy": "all"}}, "no effect"),
        ("grpo", {"window": {"size": 4, "first": [1, 1]}}, "no effect"),
        ("opd", {"teachers": {"a": {"adapter": "a"}}}, "no effect"),
        ("refl", {}, "whose gradients"),
        ("grpo", {"window": {"size": 3, "first": [1, 1]}}, None),
        ("opd", {"teachers": {"a": {"adapter": "a"}}, "window": {"size": 2, "first": [0, 0]}}, None),
        ("matching", {"window": {"strategy": "all"}}, None),
        ("diffusion_nft", {"levels": DRAWN}, None),
    ],
)
def test_a_solver_without_a_step_to_take_is_refused(name, settings, why):
    algorithm = algorithm_of(name, **settings)
    found = solver_misfit(algorithm, "dpm++2m", 7)
    assert found is None if why is None else "expected euler" in found and why in found
    assert solver_misfit(algorithm, "euler", 7) is None


def test_a_precision_of_untrained_steps_needs_such_a_step():
    assert precision_misfit(algorithm_of("matching"), 7) is None
    assert precision_misfit(algorithm_of("grpo"), 7) is None
    assert "ReFL, which trains or follows every step" in precision_misfit(algorithm_of("refl"), 7)
    assert precision_misfit(algorithm_of("grpo", window={"size": 7, "first": [0, 0]}), 7)


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
