"""The comparison with flow_grpo: what stands for what its script needs, our sides, and the table.

The environment variable ``FLOW_GRPO`` names a clone of github.com/yifan123/flow_grpo for the test that runs its script.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from flexgym.agents.base import load_agent_settings
from flexgym.bench.hooks import DECODING, SAMPLING, UPDATE
from flexgym.core.errors import ConfigError
from flexgym.generators.loader import CHECKPOINTS
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.sampling import draw_scene
from flexgym.shapes.scenes import render
from research.flow_grpo import compare, ours
from research.flow_grpo.compare import Comparison, figures, sampling_of, table, write_prompts
from research.flow_grpo.theirs import (
    ConfigDict,
    FinishedError,
    Progress,
    ShortTokenizer,
    ZeroEncoder,
    configure,
    import_script,
    scored,
)
from research.flow_grpo.work import FORWARD, GRADIENT, PHASES, REST, WARM_UP, Job, Measured, Work

CHECKPOINT = CHECKPOINTS / "t2i"


def work_in(folder, **changes):
    write_prompts(folder / "prompts")
    options = {"iterations": 1, "group_size": 4, "num_prompts": 2, **changes}
    return Work(str(CHECKPOINT), str(folder / "prompts"), sampling_of(CHECKPOINT), **options)


def test_a_job_is_read_as_it_was_written(tmp_path):
    job = Job("equal", work_in(tmp_path, lora=True), "", "result.json")
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job
    assert job.work.samples == 8


def test_a_checkpoint_without_settings_of_the_sampler_is_rejected(tmp_path):
    with pytest.raises(ConfigError, match="expected the numbers num_steps, guidance_scale"):
        sampling_of(tmp_path)


@pytest.mark.parametrize("lora", [False, True])
def test_our_recipes_are_valid_and_train_as_many_samples(tmp_path, lora):
    work = work_in(tmp_path, lora=lora, group_size=12, num_prompts=16)
    for side, name in (("equal", "grpo"), ("shipped", "matching")):
        settings = load_agent_settings(ours.recipe_of(Job(side, work, "", "")))
        assert settings.algorithm.name == name
        assert settings.reward.name == "ShapesVerifier"
        assert settings.verification.reward is None
        assert settings.rollout.group_size * settings.rollout.prompts_per_iteration == 192
        assert settings.generator.mode == ("lora" if lora else "full")
        assert settings.generator.dtype == "float32"
        if lora:
            assert settings.generator.lora.rank == 32
    assert bool(ours.recipe_of(Job("equal", work, "", ""))["algorithm"]["penalties"]) == lora


def test_their_configuration_has_the_same_work(tmp_path):
    config = ConfigDict(pretrained=ConfigDict(), sample=ConfigDict(num_steps=40), train=ConfigDict(lora_path=None))
    config = configure(config, work_in(tmp_path, group_size=12, num_prompts=16))
    assert config.sample.train_batch_size * config.sample.num_batches_per_epoch == 192
    assert (config.sample.num_steps, config.sample.num_image_per_prompt) == (8, 12)
    assert (config.train.beta, config.train.cfg, config.train.lora_path) == (0.0, False, None)
    assert configure(config, work_in(tmp_path, lora=True)).train.beta == 0.04


def test_their_loops_tell_the_phases_and_end_after_the_last_epoch():
    measured = Measured()
    progress = Progress(measured, epochs=2)
    with progress.clock.phase(DECODING):  # of the evaluation
        progress.counts.update({FORWARD: 9})
    for epoch in range(2):
        assert list(progress(range(2), desc=f"Epoch {epoch}: sampling", position=0)) == [0, 1]
        progress.counts.update({FORWARD: 5})
        with progress.clock.phase(DECODING):
            pass
        for desc in ("Waiting for rewards", f"Epoch {epoch}.0: training", "Timestep"):
            progress([], desc=desc)
    with pytest.raises(FinishedError):
        progress([], desc="Epoch 2: sampling")
    assert [counts[FORWARD] for counts in measured.counts] == [5, 5]
    assert all(set(seconds) == set(PHASES) for seconds in measured.seconds)
    assert all(seconds[name] > 0.0 for seconds in measured.seconds for name in (SAMPLING, DECODING, REST, UPDATE))


def test_their_reward_is_that_of_the_comparison():
    caption = "a red circle left of a blue square"
    right = render(draw_scene(np.random.default_rng(0), parse_caption(caption)))
    images = torch.from_numpy(np.stack([right, np.full_like(right, 255)])).permute(0, 3, 1, 2) / 255
    scores, _ = scored("cpu", {"ShapesVerifier": 1.0})(images, [caption, caption], [{}, {}], only_strict=True)
    assert scores["avg"][0] == 1.0 > scores["avg"][1]


def test_what_stands_for_a_missing_text_encoder_has_its_form():
    encoder = ZeroEncoder(6).to("cpu", dtype=torch.float32)
    assert encoder(torch.zeros(2, 3, dtype=torch.long))[0].shape == (2, 3, 6)
    lengths = []
    tokenizer = ShortTokenizer(lambda texts, *, max_length: lengths.append(max_length), 14)
    tokenizer(["a"], max_length=77)
    tokenizer(["a"], max_length=5)
    assert lengths == [14, 5]


def test_a_folder_that_is_no_clone_is_rejected(tmp_path):
    with pytest.raises(ConfigError, match=r"expected their training script: pass a clone"):
        import_script(tmp_path / "scripts" / "train_sd3.py")


def result(seconds, without, within):
    each = {**dict.fromkeys(PHASES, 0.0), SAMPLING: seconds / 2, UPDATE: seconds / 2}
    return {"seconds": [each, each], "counts": [{FORWARD: without, GRADIENT: within}] * 2}


def test_the_table_compares_within_rounds():
    sides = [(4.4, 4.0, 2.0), (8.8, 8.0, 4.0), (4.6, 4.0, 2.2)]
    rounds = [
        {side: result(seconds, 1536, 1344) for side, seconds in zip(compare.SIDES, each, strict=True)} for each in sides
    ]
    lines = table(figures(rounds, samples=192)).splitlines()
    assert lines[2].startswith("| samples per second | 41.7 (21.8 to 43.6) | 48.0 (24.0 to 48.0) |")
    assert lines[3] == "| times flow_grpo | 1.00 (1.00 to 1.00) | 1.10 (1.10 to 1.15) | 2.20 (2.09 to 2.20) |"
    assert "| rows with gradient | 1,344 (1,344 to 1,344) |" in lines[-4]
    assert lines[-2] == "- FlexGym, equal work: at least 1.1 times as fast holds, 1.10 (1.10 to 1.15)"


def test_finished_runs_are_kept_while_their_work_is_the_same(tmp_path):
    for name in ("jobs", "results", "logs"):
        (tmp_path / name).mkdir()
    work = work_in(tmp_path)
    comparison = Comparison(tmp_path, Path("script.py"), work, rounds=2)
    assert [side for _, side in comparison.turns] == ["theirs", "equal", "shipped", "shipped", "equal", "theirs"]
    for side in compare.SIDES:
        Job(side, work, "", "").write(comparison.file("jobs", (0, side)))
        comparison.file("results", (0, side)).write_text(json.dumps(result(1.0, 1, 1)))
    assert comparison.is_finished((0, "theirs"))
    assert not comparison.is_finished((1, "theirs"))
    assert len(comparison.results()) == 1
    assert Comparison(tmp_path, Path("script.py"), work_in(tmp_path, lora=True), rounds=2).results() == []


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_our_sides_do_the_work_that_they_say(tmp_path, lora):
    steps = 8
    for side in ("equal", "shipped"):
        measured = ours.measure(Job(side, work_in(tmp_path, lora=lora, num_prompts=4), "", ""))
        assert len(measured.seconds) == WARM_UP + 1
        [*_, seconds], [*_, counts] = measured.seconds, measured.counts
        assert all(seconds[phase] > 0.0 for phase in (SAMPLING, DECODING, UPDATE))
        assert counts[FORWARD] >= 16 * steps
        if side == "equal":  # groups without differences are left out
            assert counts[GRADIENT] in [4 * groups * (steps - 1) for groups in range(1, 5)]


@pytest.mark.slow
@pytest.mark.skipif("FLOW_GRPO" not in os.environ, reason="needs a clone of flow_grpo in FLOW_GRPO")
@pytest.mark.parametrize("lora", [False, True])
def test_their_script_runs_beside_ours(tmp_path, lora):
    command = Typer()
    command.command()(compare.main)
    tiny = ["--iterations", "1", "--rounds", "1", "--group-size", "4", "--num-prompts", "4"]
    words = [os.environ["FLOW_GRPO"], "--out", str(tmp_path), *tiny, *(["--lora"] if lora else [])]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "flow_grpo.json").read_text())
    counts = {
        side: Counter({name: found[side]["rows"][name]["value"] for name in (FORWARD, GRADIENT)})
        for side in found
        if side in compare.SIDES
    }
    assert counts["theirs"][FORWARD] >= 16 * 8
    assert counts["theirs"][GRADIENT] <= 16 * 7
