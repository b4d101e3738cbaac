"""Rewards for processes that score, in a module that imports little, since each of them imports it."""

from __future__ import annotations

import logging
import os
import signal
import time

import numpy as np

from flexgym.core.errors import ConfigError
from flexgym.reward import PointwiseReward


class Odd(PointwiseReward):
    """Does what the prompt says, and knows in which process."""

    own_process = True

    def score(self, groups):
        if groups[0].prompt.text == "stop":
            raise ConfigError("no palette")
        return super().score(groups)

    def score_samples(self, prompt, samples):
        logging.getLogger("odd").warning("looks at %s", prompt.text)
        if prompt.text == "raise":
            return [samples.no_such_attribute]
        if prompt.text == "die" or (prompt.text == "die once" and not os.path.exists(prompt.metadata["mark"])):
            open(prompt.metadata.get("mark", os.devnull), "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if prompt.text == "sleep":
            time.sleep(60)
        return np.full(len(samples), os.getpid() % 2**20)


class OddChild(Odd):
    """A subclass, which has to say again that a copy of it scores the same."""
