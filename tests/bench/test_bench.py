"""A benchmark of the embedded generator on the CPU: what is measured, written and compared."""

from __future__ import annotations

import getpass
import json
import socket
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from flexgym.bench.clock import Clock
from flexgym.bench.compare import differences, ratios
from flexgym.bench.result import BenchResult, read_result, write_result
from flexgym.bench.run import Options, run_bench
from flexgym.cli import app
from flexgym.core.errors import ConfigError
from tests.bench.counted import ASKED

TINY = ("rollout.group_size=2", "rollout.groups_per_forward=1", "algorithm.name=grpo", "algorithm.noise=cps")
REWARD = "tests.bench.counted:Counted"


def bench(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)])


@pytest.fixture(scope="module")
def measured() -> tuple[BenchResult, int]:
    """A benchmark of one group, and how often its reward was asked."""
    ASKED.clear()
    options = Options(
        "pref_grpo_shapes_t2i",
        overrides=(*TINY, f"reward.name={REWARD}", "rollout.prompts=[a red circle of a user]"),
        rounds=2,
        profile=True,
    )
    lines: list[str] = []
    result = run_bench(options, lines.append)
    assert sum(line.startswith("round") for line in lines) == 2
    return result, len(ASKED)


def test_every_phase_is_measured_in_every_round(measured):
    result, _ = measured
    assert [phase.name for phase in result.phases] == [
        "encoding",
        "sampling",
        "decoding",
        "judge",
        "update",
        "iteration",
    ]
    for phase in result.phases:
        assert phase.samples == 2
        assert len(phase.seconds) == 2
        assert phase.samples_per_second == pytest.approx(4 / sum(phase.seconds))
    for name in ("sampling", "decoding", "update", "iteration"):
        phase = result.phase(name)
        assert result.share(phase) == pytest.approx(phase.tflop / phase.median / result.device.matrix_tflops)
        assert 0 < result.share(phase) < 1.5
    assert result.share(result.phase("judge")) is None


def test_the_judge_is_left_out_of_rollout_and_update_and_asked_once_for_itself(measured):
    result, asked = measured
    # each round asks it once alone and once beside the rest; the profile does not ask it
    assert asked == result.warm_up + 2 * 2


def test_memory_is_near_the_plan(measured):
    result, _ = measured
    for name in ("sampling", "decoding", "update"):
        phase = result.phase(name)
        assert 0.7 < phase.peak_gib / phase.planned_gib < 1.3, name


def test_the_slowest_operators_are_those_of_the_transformer(measured):
    result, _ = measured
    for part in ("rollout", "update"):
        found = [each for each in result.operators if each.part == part]
        assert [each.seconds for each in found] == sorted((each.seconds for each in found), reverse=True)
        assert {"aten::addmm", "aten::mm"} & {each.name for each in found}
        assert sum(each.share for each in found) <= 1


def test_the_file_holds_versions_and_settings_and_nothing_about_the_user(measured, tmp_path):
    result, _ = measured
    file = tmp_path / "figures.json"
    write_result(result, file)
    assert read_result(file) == result
    text = file.read_text()
    assert result.settings["reward.name"] == result.settings["rollout.prompts"] == "of one's own"
    assert result.settings["rollout.group_size"] == 2
    assert result.versions["torch"] == torch.__version__
    for private in (getpass.getuser(), socket.gethostname(), str(tmp_path), REWARD, "of a user"):
        assert f'"{private}' not in text
        assert len(private) < 6 or private not in text


@pytest.fixture
def two(measured) -> tuple[BenchResult, BenchResult]:
    """A benchmark, and the same with every phase twice as quick."""
    values = measured[0].model_dump()
    for phase in values["phases"]:
        phase["seconds"] = [0.2, 0.22]
    first = BenchResult.parse(values)
    for phase in values["phases"]:
        phase["seconds"] = [0.1, 0.11]
    return first, BenchResult.parse(values)


def test_equal_settings_are_compared_without_a_warning(two, tmp_path):
    files = [tmp_path / name for name in ("A.json", "B.json")]
    for result, file in zip(two, files, strict=True):
        write_result(result, file)
    assert differences(*two) == []
    assert [each.speed for each in ratios(*two)] == pytest.approx([2.0] * 6)
    assert not any(each.overlap for each in ratios(*two))
    assert all(each.overlap for each in ratios(two[0], two[0]))
    shown = bench("--compare", *files)
    assert shown.exit_code == 0
    assert "2.000" in shown.output
    assert "differs" not in shown.output


def test_what_differs_is_named_before_the_ratios_and_shown_as_text(two, tmp_path):
    values = two[1].model_dump()
    values["settings"] |= {"rollout.group_size": 24, "own": "\x1b[2J[bold]x"}
    values["versions"]["torch"] = "1.0"
    values["device"]["name"] = "another"
    values["phases"] = values["phases"][1:]
    files = [tmp_path / name for name in ("A.json", "B.json")]
    write_result(two[0], files[0])
    files[1].write_text(json.dumps(values))
    shown = bench("--compare", *files)
    assert shown.exit_code == 0
    for line in (
        "setting rollout.group_size: 2 and 24",
        "device name",
        "version of torch",
        "phase encoding: measured in one of the two",
    ):
        assert f"differs: {line}" in shown.output
    assert "[bold]x" in shown.output
    assert "\x1b[2J" not in shown.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "got 'list'"),
        ('{"format": "other"}', "got 'other'"),
        ('{"format": "flexgym-bench-1", "phases": []}', "versions"),
        (" " * (2**20 + 1), "at most"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_of_another_kind_is_rejected(text, message, tmp_path):
    file = tmp_path / "A.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_result(file)


def test_a_file_with_impossible_figures_is_rejected(two, tmp_path):
    values = two[0].model_dump()
    values["phases"][0]["seconds"] = [-1.0]
    file = tmp_path / "A.json"
    file.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="A.json: .*seconds"):
        read_result(file)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seconds", "0"], "--seconds 0.0: expected a time above 0"),
        (["--repeats", "0"], "--repeats 0: expected 1 to 1000"),
        (["--json", "missing/figures.json"], "lies in a folder that does not exist"),
        (["--config", "rm_dpo_shapes"], "got one that trains a judge"),
        (["--config", "sb3_ppo_shapes_t2i_control"], "got one without a section algorithm"),
        (["--config", "pref_grpo_shape_t2i"], "Did you mean"),
        (["rollout.group_sise=3"], "group_size"),
    ],
)
def test_options_that_cannot_work_are_explained(words, message):
    shown = bench(*words)
    assert shown.exit_code == 2
    assert message in " ".join(shown.output.split())


def test_an_inner_phase_interrupts_the_outer_one():
    clock = Clock(torch.device("cpu"))
    with clock.phase("outer"):
        with clock.phase("inner"):
            time.sleep(0.05)
        started = time.perf_counter()
    assert clock.seconds["inner"] >= 0.05
    assert clock.seconds["outer"] < 0.05 + time.perf_counter() - started


@pytest.mark.slow
def test_the_command_measures_the_default_recipe_within_its_time(tmp_path):
    file = tmp_path / "figures.json"
    words = [sys.executable, "-c", "from flexgym.cli import main; main()", "bench", "--seconds", "40", "--profile"]
    done = subprocess.run([*words, "--json", str(file)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = read_result(file)
    assert result.settings["recipe"] == "pref_grpo_shapes_t2i"
    assert "slowest in the update" in done.stdout
    assert all(phase.name in done.stdout for phase in result.phases)
    assert "WARNING" not in done.stderr
    assert "USDT" not in done.stderr
