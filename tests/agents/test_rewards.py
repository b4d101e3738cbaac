"""Rewards of one's own and rubrics in training, with env runners in processes of their own."""

from __future__ import annotations

import numpy as np
import pytest

from tests.agents.small import small_config, train

pytestmark = pytest.mark.slow

OWN = """
import os
import numpy as np
from flexgym.rewards import PointwiseReward

class Redness(PointwiseReward):
    def __init__(self, folder, broken=False):
        self.folder, self.broken = folder, broken

    def score_samples(self, prompt, samples):
        with open(os.path.join(self.folder, str(os.getpid())), "w"):
            pass
        if self.broken:
            raise ValueError("no such colour")
        return samples[..., 0].mean(axis=(1, 2)) / 255
"""


@pytest.fixture(scope="module", autouse=True)
def own_reward(cluster, own_modules):
    (own_modules / "own_reward_of_agents.py").write_text(OWN)


def recipe(folder, **settings):
    own = {"reward": "own_reward_of_agents:Redness", "settings": {"folder": str(folder), **settings}}
    return {
        "reward": {
            "name": "Rubric",
            "settings": {"combine": "gdpo", "terms": [{**own, "weight": 1.0}, {"reward": "JPEGCompressibility"}]},
            "monitors": [{"reward": "ShapesVerifier", "name": "met"}],
        },
        "verification": {
            "reward": "ShapesVerifier",
            "rewards": [{"reward": "JPEGCompressibility", "name": "small"}],
            "num_prompts": 4,
            "interval": 1,
        },
    }


@pytest.mark.parametrize("num_env_runners", [0, 2])
def test_a_rubric_with_a_reward_of_ones_own_trains(tmp_path, num_env_runners):
    resources = {"num_env_runners": num_env_runners}
    algorithm, metrics = train(small_config(resources=resources, **recipe(tmp_path)))
    algorithm.stop()
    assert 0 < metrics["reward/redness"] < 1
    assert metrics["reward/jpeg_compressibility"] < 0
    assert metrics["reward_std_within_group/redness"] > 0
    assert metrics["reward/failures"] == 0
    assert 0 <= metrics["monitor/met"] <= 1
    assert metrics["eval/small"] < 0
    assert len(list(tmp_path.iterdir())) == max(1, num_env_runners)  # one process each


def test_a_broken_term_is_counted_and_its_samples_are_written(tmp_path):
    config = small_config(**recipe(tmp_path, broken=True))
    config.failed_samples = str(tmp_path / "failed")
    algorithm, metrics = train(config)
    algorithm.stop()
    assert metrics["reward/failures"] == metrics["samples"] == 6
    assert metrics["reward_unscored_share/redness"] == 1.0
    assert np.isnan(metrics["reward/redness"])
    assert metrics["reward/dead_groups"] == 0.0  # the other term still ranks the samples
    assert len(list((tmp_path / "failed").glob("redness-raised-*.png"))) == 6
