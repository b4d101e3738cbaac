"""Pref-GRPO over files of prompts with first frames: training, verification, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexgym.rllib.config import FlowConfig
from flexgym.rllib.sharded import METRICS
from tests.agents.small import largest_difference, small_config, train, weights
from tests.generators.tiny import CASES, families, picture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

FAMILIES = families("ltx_frame", "wan22_ti2v_frame", "hunyuan_video_frame", "hunyuan_video_concat_frame")


def write_prompts(folder: Path, texts: tuple[str, ...], seed: int) -> Path:
    """A file of prompts, each with an image of its own that is not of the size of the samples."""
    folder.mkdir()
    for at in range(len(texts)):
        Image.fromarray(picture(seed + at, 40, 60).pixels).save(folder / f"{at}.png")
    rows = [{"prompt": text, "first_frame": f"{at}.png"} for at, text in enumerate(texts)]
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder / "prompts.jsonl"


def config_of(family: str, folder: Path, **generator) -> FlowConfig:
    if not (folder / "pipe").exists():
        CASES[family].build().save_pretrained(folder / "pipe")
        write_prompts(folder / "training", ("a red cube", "a blue ball", "a red cube"), 0)
        write_prompts(folder / "held_out", ("two green cones", "two green cones"), 7)
    sampling = {**CASES[family].settings, "num_steps": 4, CASES[family].guidance: 3.0}
    source = {"source": str(folder / "pipe"), "mode": "lora", "lora": {"rank": 4}, "sampling": sampling}
    held_out = str(folder / "held_out" / "prompts.jsonl")
    return small_config(
        environment={"env": "FlexT2V-v0"},
        generator={**source, **generator},
        rollout={"prompts": str(folder / "training" / "prompts.jsonl")},
        reward={"name": "MP4Compressibility"},
        verification={"reward": "MP4Compressibility", "prompts": held_out, "num_prompts": 2, "interval": 1},
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_trains_verifies_and_goes_on(family, tmp_path):
    config = config_of(family, tmp_path)
    algorithm, first = train(config)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    before = weights(algorithm)
    second, verified, expected = algorithm.train()[METRICS], algorithm.last_verification.samples, weights(algorithm)
    assert all(metrics["policy/max_abs_log_ratio"] == 0.0 for metrics in (first, second))
    assert all(metrics["policy/gradient_norm"] > 0.0 for metrics in (first, second))
    assert largest_difference(before, expected) > 0.0
    check_verification(algorithm, verified)
    algorithm.stop()
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    again = resumed.train()[METRICS]
    assert largest_difference(weights(resumed), expected) == 0.0
    for name in ("loss/policy", "policy/gradient_norm", "reward/mean", "samples", "eval/accuracy"):
        assert again[name] == second[name]
    np.testing.assert_array_equal(resumed.last_verification.samples, verified)
    resumed.stop()


def check_verification(algorithm, verified):
    """Held-out samples follow their first frames: with one seed and one text, only the first frames differ."""
    generator = algorithm.on_first_learner(lambda learner: learner.generator)
    assert verified.shape == (2, *generator.sample_shape)
    seeds = [int(seed) for seed in np.random.SeedSequence([7]).generate_state(2)]
    for prompts, is_same in ((algorithm.held_out, True), (algorithm.held_out[::-1], False)):
        [samples] = algorithm.on_first_learner(
            lambda learner, asked=prompts: learner.evaluate(prompts=asked, seeds=seeds)
        ).values()
        assert np.array_equal(samples, verified) is is_same


@pytest.mark.parametrize("family", ["hunyuan_video_frame"])
def test_a_run_without_encoders_learns_the_same(family, tmp_path):
    """Each text was read with its image, so all pairs are encoded before the encoders leave."""
    algorithm, _ = train(config_of(family, tmp_path))
    expected = weights(algorithm)
    algorithm.stop()
    saving = {"text_cache": str(tmp_path / "text"), "release_text_encoders": True, "offload": True}
    algorithm, metrics = train(config_of(family, tmp_path, **saving))
    assert algorithm.on_first_learner(lambda learner: learner.generator.placement.encoders()) == {}
    assert metrics["policy/max_abs_log_ratio"] == 0.0
    assert largest_difference(weights(algorithm), expected) == 0.0
    algorithm.stop()
