from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.examples.ppo_control import make_envs, train

# Up to 15 the guidance of the embedded model ruins its images, so there is much to learn in few episodes.
WIDE = {"group_size": 1, "num_steps": 2, "guidance": (1.0, 15.0)}


def choices(agent, envs):
    """The mean action for each prompt, and what it earns."""
    seen, _ = envs.reset(seed=9)
    with torch.no_grad():
        action = agent(torch.from_numpy(seen))[0].mean.numpy()
    return action.mean(0), envs.step(action)[1].mean()


@pytest.mark.slow
def test_the_policy_moves_toward_what_earns_more():
    envs = make_envs(8, **WIDE)
    envs.reset(seed=0)
    untrained, _ = train(envs, updates=0)
    agent, curve = train(envs, updates=4, episodes=4, batch_size=16, lr=1e-2)
    (before, poor), (after, good) = (choices(one, envs) for one in (untrained, agent))
    assert after[0] < before[0] - 0.4, "guidance goes down"
    assert good > poor
    assert curve[-1] > curve[0]
    assert np.isfinite(curve).all()
