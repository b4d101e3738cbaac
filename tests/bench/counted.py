"""A reward that remembers how often it was asked, named by its path."""

from __future__ import annotations

import numpy as np

from flexgym.reward import PointwiseReward

ASKED: list[int] = []


class Counted(PointwiseReward):
    def score_samples(self, prompt, samples):
        ASKED.append(len(samples))
        return np.arange(len(samples), dtype=np.float32)
