"""Groups to score, and environments that return them, for the conformance tests of rewards and wrappers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from flexgym.reward import RewardWrapper, VectorRewardWrapper
from flexgym.shapes.scenes import FRAMES, Thing, render
from flexgym.types import GroupScores, Modality, Prompt, SampleGroup


def shape_groups(modality: Modality) -> list[SampleGroup]:
    """Create groups of different sizes for captions of the small world.

    Args:
        modality: ``"image"`` or ``"video"``.

    Returns:
        Three groups of uint8 ``[G, 32, 32, 3]`` or ``[G, 9, 32, 32, 3]``; their samples all differ.
    """
    circles = [("circle", "red", 9), ("square", "red", 16), ("circle", "blue", 20)]
    squares = [("square", "blue", 22), ("triangle", "green", 12)]
    triangles = [("triangle", "green", 10), ("triangle", "yellow", 16), ("circle", "green", 18), ("square", "red", 8)]
    captions = {"a red circle": circles, "a blue square": squares, "a green triangle": triangles}
    make = _video if modality == "video" else _image
    return [
        SampleGroup(Prompt(caption), np.stack([make(shape, color, x) for shape, color, x in things]))
        for caption, things in captions.items()
    ]


def _image(shape: str, color: str, x: int) -> NDArray[np.uint8]:
    return render((Thing(shape, color, x, 16, 6),))


def _video(shape: str, color: str, x: int) -> NDArray[np.uint8]:
    return np.stack([_image(shape, color, x + frame) for frame in range(FRAMES)])


def empty_group(modality: Modality) -> SampleGroup:
    """Create two samples without pixels, which hardly any reward can score."""
    frames = (FRAMES,) if modality == "video" else ()
    return SampleGroup(Prompt("a red circle"), np.zeros((2, *frames, 0, 0, 3), np.uint8))


class GroupsEnv(gymnasium.Env):
    """Environment of one step per episode, whose episodes return the given groups in turn.

    Args:
        groups: groups of one size.
    """

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    def __init__(self, groups: Sequence[SampleGroup]) -> None:
        self._groups, self._next = list(groups), -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Advance to the next group."""
        super().reset(seed=seed)
        self._next = (self._next + 1) % len(self._groups)
        return np.zeros(1, np.float32), {"prompt": self._groups[self._next].prompt}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """End the episode with the current group."""
        group = self._groups[self._next]
        return np.ones(1, np.float32), 0.0, True, False, {"prompt": group.prompt, "samples": group.samples}


class Brightness:
    """Simple reward: mean value of a sample, from 0 to 1."""

    def guarded(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group by its brightness."""
        means = [group.samples.reshape(len(group), -1).mean(axis=1) / 255.0 for group in groups]
        return [
            GroupScores(rewards=mean.astype(np.float32), terms={"brightness": mean.astype(np.float32)})
            for mean in means
        ]

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


def wrapped(env: gymnasium.Env, reward: Any) -> gymnasium.Env:
    """Wrap an environment in a reward with FlexGym's wrapper."""
    return RewardWrapper(env, reward)


def vector_wrapped(envs: VectorEnv, reward: Any) -> VectorEnv:
    """Wrap a vector environment in a reward with FlexGym's wrapper."""
    return VectorRewardWrapper(envs, reward)


def vector_of(makers: Sequence[Callable[[], gymnasium.Env]], mode: Any) -> SyncVectorEnv:
    """Combine single environments in Gymnasium's `SyncVectorEnv`."""
    return SyncVectorEnv(makers, autoreset_mode=mode)
