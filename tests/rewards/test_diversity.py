from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from flexgym import rewards
from flexgym.flow import diversity
from flexgym.rewards.preprocessing import PillowCrop
from flexgym.types import Prompt
from tests.rewards.test_conformance import clip_folder
from tests.rewards.tiny_scorers import pictures

PROMPT = Prompt("anything")


def test_pixels_are_compared_with_the_nearest_other_sample():
    black, gray, white = (np.full((4, 6, 3), value, np.uint8) for value in (0, 51, 255))
    found = rewards.make("Diversity").score_samples(PROMPT, np.stack([black, gray, white]))
    np.testing.assert_allclose(found, [0.2, 0.2, 0.8], rtol=1e-6)


def test_features_are_those_of_the_model():
    images = pictures()
    found = rewards.make("Diversity", model=clip_folder(), batch_size=2).score_samples(PROMPT, images)
    model = CLIPModel.from_pretrained(clip_folder()).vision_model
    with torch.no_grad():
        features = model(PillowCrop(clip_folder())(images)).pooler_output
    np.testing.assert_allclose(found, diversity(features.numpy()), rtol=1e-5)
    videos = np.stack([images[:3], images[1:4]])
    pairs = [diversity(features[[one, one + 1]].numpy())[0] for one in range(3)]
    of_videos = rewards.make("Diversity", model=clip_folder()).score_samples(PROMPT, videos)
    np.testing.assert_allclose(of_videos, [np.mean(pairs)] * 2, rtol=1e-4)


def test_one_sample_has_nothing_to_differ_from():
    images = pictures(count=1)
    with pytest.raises(rewards.registry.ConfigError, match="at least two samples"):
        rewards.make("Diversity").score_samples(PROMPT, images)
