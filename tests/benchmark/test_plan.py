from __future__ import annotations

import pytest

from flexgym.agents.base import load_agent_settings
from flexgym.benchmark.plan import Plan, PlannedRun, load_plan, planned_runs, run_recipe, samples_of_iteration
from flexgym.core.errors import ConfigError, UnknownNameError
from tests.benchmark.small import small_plan


def test_every_recipe_of_the_shipped_plan_is_valid():
    plan = load_plan()
    for task, settings in plan.tasks.items():
        for name in settings.algorithms:
            points = plan.algorithms[name].points(plan.tuning.order)
            load_agent_settings(run_recipe(plan, PlannedRun(task, name, seed=0), points[0]))


def test_the_shipped_plan_has_the_seeds_and_trials_that_it_states():
    plan = load_plan()
    runs = planned_runs(plan)
    assert len({run.name for run in runs}) == len(runs)
    assert plan.tasks["image_rules"].num_seeds == 5
    assert all(task.num_seeds >= 3 for task in plan.tasks.values())
    tuned = [(run.task, run.algorithm) for run in runs if run.trial is not None]
    assert all(tuned.count(pair) == plan.tuning.trials for pair in tuned)
    assert all(run.seed == plan.tuning.seed >= 5 for run in runs if run.trial is not None)
    assert sum(run.core_hours(plan) for run in runs) < 40


def test_points_are_all_of_the_grid_in_an_order_by_seed():
    algorithm = load_plan().algorithms["flow_cps"]
    points = algorithm.points(0)
    assert len(points) == 6
    assert points == algorithm.points(0)
    assert points != algorithm.points(1)
    assert sorted(map(str, points)) == sorted(map(str, algorithm.points(1)))


def test_a_recipe_takes_the_changes_of_task_algorithm_and_point_in_turn():
    plan = load_plan()
    run = PlannedRun("video_rules", "diffusion_nft", seed=2)
    recipe = run_recipe(plan, run, {"algorithm.beta": 0.1})
    assert recipe["environment"] == {"env": "FlexT2V-v0"}
    assert recipe["algorithm"]["window"] == {"size": 3, "strategy": "random", "first": [0, 4]}
    assert recipe["algorithm"]["beta"] == 0.1
    assert recipe["training"]["num_updates"] == 2
    assert recipe["run"]["seed"] == 2
    assert samples_of_iteration(recipe) == 96


def test_a_choice_keeps_the_tuning_that_it_needs():
    plan = load_plan()
    names = [run.name for run in planned_runs(plan, ["image_judge", "matching"])]
    assert names == [
        *(f"image_rules.matching.tuning{trial}" for trial in range(3)),
        *(f"image_judge.matching.seed{seed}" for seed in range(3)),
    ]
    [*tuning, only] = planned_runs(plan, ["image_data.sft.seed1"])
    assert only == PlannedRun("image_data", "sft", 1)
    assert {run.task for run in tuning} == {"image_data"}
    with pytest.raises(UnknownNameError, match="Did you mean 'matching'"):
        planned_runs(plan, ["matchin"])


def test_seeds_and_the_report_may_change_and_nothing_else():
    plan = small_plan()
    assert plan.with_seeds(9).hash == plan.hash
    assert plan.with_seeds(9).tasks["image"].num_seeds == 9
    assert plan.with_seeds(1).tasks["image"].num_seeds == plan.tasks["image"].num_seeds
    assert small_plan(report={"baseline": "nft", "title": "Another"}).hash == plan.hash
    assert small_plan(tuning={"trials": 1, "order": 3}).hash != plan.hash


def test_a_plan_that_cannot_work_is_refused_with_its_place(tmp_path):
    values = small_plan().model_dump(mode="json")
    values["tasks"]["image"]["algorithms"] = ["matching", "ntf"]
    with pytest.raises(
        UnknownNameError, match=r"tasks\.image\.algorithms: unknown algorithm 'ntf'\. Did you mean 'nft'"
    ):
        Plan.parse(values)
    with pytest.raises(ConfigError, match=r"nft\.grid: expected at least the 3 points of tuning\.trials, got 2"):
        small_plan(tuning={"trials": 3})
    file = tmp_path / "plan.yaml"
    file.write_text("report: {baseline: matching}\ntasks: {}\nalgorithms: {}\n")
    with pytest.raises(ConfigError, match=r"plan\.yaml:2: tasks"):
        load_plan(file)
