from __future__ import annotations

import pytest
from ray import cloudpickle

from flexgym.rllib.sharded import ShardedAlgorithm


@pytest.fixture(autouse=True)
def calls_can_be_sent(monkeypatch):
    """What is asked of a learner in this process could be sent to several in their own, which most tests lack."""
    on_learners = ShardedAlgorithm.on_learners

    def sent(self, call):
        if call.__module__.startswith("flexgym."):
            cloudpickle.dumps(call)
        return on_learners(self, call)

    monkeypatch.setattr(ShardedAlgorithm, "on_learners", sent)
