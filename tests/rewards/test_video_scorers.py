from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from flexgym import rewards
from flexgym.core.errors import ConfigError
from flexgym.rewards.known import moving_and_still, noise
from flexgym.types import Prompt, SampleGroup
from tests.rewards import tiny_scorers as tiny


def score(reward, samples):
    return reward.guarded([SampleGroup(Prompt("anything"), samples)])[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_clip(tmp_path_factory.mktemp("clip"))


def test_temporal_consistency_by_hand(folder):
    model = tiny.random_weights(CLIPModel(tiny.clip_config()))
    video = tiny.pictures(4)
    with torch.no_grad():
        pixels = torch.cat([tiny.normalized(tiny.cropped_tensor(frame)) for frame in video])
        a, b, c, d = model.visual_projection(model.vision_model(pixels).pooler_output)
    cos = [[float(torch.cosine_similarity(x, y, dim=0)) for y in (a, b, c, d)] for x in (a, b, c, d)]
    expected = ((cos[0][1] + cos[0][1]) + (cos[0][2] + cos[1][2]) + (cos[0][3] + cos[2][3])) / 6
    found = score(rewards.make("temporal_consistency", model=folder, batch_size=3), np.stack([video, video[[0] * 4]]))
    np.testing.assert_allclose(found.rewards, [expected, 1.0], atol=1e-5)
    assert expected < 0.99


def test_chosen_frames_count(folder):
    video = tiny.pictures(7)
    three = score(rewards.make("temporal_consistency", model=folder, num_frames=3), video[None]).rewards
    chosen = score(rewards.make("temporal_consistency", model=folder), video[None, [0, 3, 6]]).rewards
    np.testing.assert_allclose(three, chosen, atol=1e-6)


def test_consistency_needs_two_frames(folder):
    reward = rewards.make("temporal_consistency", model=folder)
    assert score(reward, tiny.pictures(2)).failures == {"temporal_consistency": 2}
    assert score(reward, tiny.pictures(2)[:, None]).failures == {"temporal_consistency": 2}
    assert "at least 2 frames" in reward.failed.latest()[0].failure.detail
    with pytest.raises(ConfigError, match="num_frames"):
        rewards.make("temporal_consistency", model=folder, num_frames=1)


def shifted(step):
    """A soft texture that moves to the right by ``step`` pixels per frame, uint8 ``[6, 128, 128, 3]``."""
    large = tiny.pictures(1, 128, 256)[0]
    return np.stack([large[:, 100 - step * frame : 228 - step * frame] for frame in range(6)])


def test_dynamic_degree_grows_with_speed():
    reward = rewards.make("dynamic_degree")
    # The threshold for a side of 128 is 3 pixels; the fastest flow is near the truth.
    found = score(reward, np.stack([shifted(0), shifted(1), shifted(2), shifted(8)])).rewards
    assert found[0] < 0.01
    np.testing.assert_allclose(found[1:3], [1 / 3, 2 / 3], rtol=0.15)
    assert found[3] == pytest.approx(1.0)
    assert score(reward, noise(2, 32, 32)).failures == {"dynamic_degree": 2}


def test_known_pairs_of_motion():
    pair = moving_and_still()[0]
    good, bad = score(rewards.make("dynamic_degree"), pair.group.samples).rewards
    assert good > 0.5
    assert bad < 0.01


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ConfigError, match=r"pip install 'flexgym\[ocr\]'"):
        rewards.make("ocr")
