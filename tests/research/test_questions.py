"""The rows and tables of the questions, and that their runs resume."""

from __future__ import annotations

import json

import pytest

from flexgym.agents.base import load_agent_settings
from flexgym.benchmark.plan import PlannedRun
from flexgym.benchmark.results import curve_points
from flexgym.core.errors import ConfigError
from flexgym.runs.series import Series
from research.answers import ANSWERS, Trained, cell
from research.questions import REUSE, STABILITY, add_runs, arms, trained, write_answers


def rows(*accuracies, seconds=60.0, **metrics):
    """Metrics of a run that is verified before training and after every iteration."""
    found = [{"iteration": 0, "eval/accuracy": accuracies[0]}]
    for iteration, accuracy in enumerate(accuracies[1:], start=1):
        times = {"time/iteration_s": seconds + 6.0, "time/eval_s": 6.0}
        found.append({"iteration": iteration, "eval/accuracy": accuracy, **times, **metrics})
    return found


def run(arm, seed, *accuracies, **options):
    measured, label = rows(*accuracies, **options), PlannedRun("question", arm, seed)
    waiting = [{**row, "time/eval_s": None} for row in measured]
    curve = curve_points(label, measured, samples=192)
    return Trained(arm, seed, curve, curve_points(label, waiting, samples=0), measured, finished=True)


def answer(question, runs):
    return ANSWERS[question][1](runs).splitlines()


def test_the_recipe_of_every_row_is_valid_and_every_row_has_an_answer():
    known = arms()
    assert {arm.question for arm in known} == set(ANSWERS)
    assert len({(arm.question, arm.name) for arm in known}) == len(known) == 10


@pytest.mark.parametrize("arm", arms(), ids=lambda arm: f"{arm.question}.{arm.name}")
def test_recipes_are_valid(arm, tmp_path):
    series = Series(tmp_path, ["true"])
    [name] = add_runs(series, [arm], seeds=[4], overrides=["verification.num_prompts=20"])
    settings = load_agent_settings(series.recipe(name))
    assert (settings.run.seed, settings.verification.num_prompts) == (4, 20)
    assert settings.verification.reward == "ShapesVerifier"


def test_a_run_that_was_begun_resumes_with_other_lengths_alone(tmp_path):
    [arm, *_] = [arm for arm in arms() if arm.question == REUSE]
    series = Series(tmp_path, ["true"])
    names = add_runs(series, [arm], seeds=[0, 1], overrides=[])
    assert names == ["reuse.flow_dppo_1.seed0", "reuse.flow_dppo_1.seed1"]
    add_runs(series, [arm], seeds=[0], overrides=["run.minutes=1"])
    with pytest.raises(ConfigError, match=r"training\.lr"):
        add_runs(series, [arm], seeds=[0], overrides=["training.lr=1.0"])


def test_answers_are_written_from_the_runs_that_are_there(tmp_path):
    chosen = [arm for arm in arms() if arm.question in (REUSE, STABILITY)]
    series = Series(tmp_path, ["true"])
    add_runs(series, chosen, seeds=[0, 1], overrides=[])
    folder = tmp_path / "reuse.diffusion_nft_2.seed1"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(0.4, 0.5, 0.7)))
    [found] = trained(series, chosen, seeds=[0, 1])
    assert (found.arm, found.seed, found.finished) == ("diffusion_nft_2", 1, False)
    tables = write_answers(series, chosen, seeds=[0, 1])
    assert "| diffusion_nft_2 | 1 of 1 | 288 | 90 | 0.700 |" in tables
    assert "No run has been verified twice." in tables
    [kept] = json.loads((tmp_path / "questions.json").read_text())
    assert kept["samples_to_gain"] == pytest.approx(288.0)
    assert kept["curve"][-1]["waited"] == pytest.approx(132.0)


def test_two_passes_are_compared_with_one_by_seed():
    lines = answer(
        "reuse",
        [
            run("nft_1", 0, 0.4, 0.5, 0.7),
            run("nft_1", 1, 0.4, 0.4, 0.5),
            run("nft_2", 0, 0.4, 0.7),
            run("nft_2", 1, 0.4, 0.7),
        ],
    )
    assert lines[2] == "| nft_1 | 1 of 2 | 288 | 90 | 0.600 ± 1.271 |"
    assert lines[-1] == "- nft: two passes need 0.44 times the samples of one"


def test_a_fall_from_the_best_accuracy_is_a_collapse():
    metrics = {"policy/gradient_norm": 12.5, "penalty/reference": 3.0}
    lines = answer(
        "stability", [run("a", 0, 0.4, 0.8, 0.35, **metrics), run("a", 1, 0.4, 0.8, 0.79), run("b", 0, 0.4, 0.7)]
    )
    assert lines[2] == "| a | 0 | 0.800 | 0.350 | 12.50 | 3.00 |"
    assert "- a: collapses in 1 of 2 seeds; the largest fall from the best accuracy is 0.450" in lines[-2]
    assert lines[-1].startswith("- b: stable in 1 seeds; the largest fall from the best accuracy is 0.000")


@pytest.mark.parametrize(
    ("accuracies", "seconds", "verdict"),
    [
        ((0.4, 0.7), 300.0, "holds: 1 of 1"),
        ((0.4, 0.7), 420.0, "does not hold: 1 of 1"),
        ((0.4, 0.6), 60.0, "does not hold: 0 of 1"),
    ],
)
def test_the_default_job_has_seven_minutes_with_verification(accuracies, seconds, verdict):
    lines = answer("default_job", [run("pref_grpo", 0, *accuracies, seconds=seconds)])
    assert lines[-1].startswith(f"- +0.30 in at most 7 minutes {verdict} seeds reach it")


def test_schedules_are_compared_at_equal_minutes():
    lines = answer("tournaments", [run("two", 0, 0.4, 0.5, 0.6, seconds=54.0), run("all", 0, 0.4, 0.8, seconds=234.0)])
    assert lines[0] == "| schedule | at 0.5 min | at 1.0 min | at 1.5 min | at 2.0 min | samples at the end |"
    assert lines[2] == "| two | 0.450 | 0.500 | 0.550 | 0.600 | 384 |"
    assert lines[3] == "| all | 0.450 | 0.500 | 0.550 | 0.600 | 192 |"


def test_the_interval_of_three_seeds_is_that_of_student():
    assert cell([0.1, 0.2, 0.3], digits=3) == "0.200 ± 0.248"  # 4.303 times 0.1 over the root of 3
    assert cell([0.1]) == "0.100"
    assert cell([]) == "–"


@pytest.mark.slow
def test_a_tiny_question_is_answered(tmp_path):
    from typer import Typer
    from typer.testing import CliRunner

    from research import questions

    command = Typer()
    command.command()(questions.main)
    tiny = [
        "run.iterations=1",
        "verification.num_prompts=7",
        "verification.interval=1",
        "rollout.prompts_per_iteration=16",
    ]
    words = [*tiny, "rollout.group_size=2", "--only", "diffusion_nft", "--seed", "0", "--out", str(tmp_path)]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    assert "| diffusion_nft | 0 |" in (tmp_path / "questions.md").read_text()
