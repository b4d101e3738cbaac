"""Groups to score and environments that hand them out: what the kits test rewards and wrappers with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from flexgym.shapes.scenes import FRAMES, Thing, render
from flexgym.types import GroupScores, Modality, Prompt, SampleGroup


def shape_groups(modality: Modality) -> list[SampleGroup]:
    """Groups of different sizes, of captions of the small world.

    Args:
        modality: ``"image"`` or ``"video"``.

    Returns:
        Three groups of uint8 ``[G, 32, 32, 3]`` or ``[G, 9, 32, 32, 3]``; their samples all differ.
    """
    circles = [("circle", "red", 9), ("square", "red", 16), ("circle", "blue", 20)]
    squares = [("square", "blue", 22), ("triangle", "green", 12)]
    triangles = [("triangle", "green", 10), ("triangle", "yellow", 16), ("circle", "green", 18), ("square", "red", 8)]
    captions = {"a red circle": circles, "a blue square": squares, "a green triangle": triangles}
    make = _video if modality == "video" else _picture
    return [
        SampleGroup(Prompt(caption), np.stack([make(shape, colour, x) for shape, colour, x in things]))
        for caption, things in captions.items()
    ]


def _picture(shape: str, colour: str, x: int) -> NDArray[np.uint8]:
    return render((Thing(shape, colour, x, 16, 6),))


def _video(shape: str, colour: str, x: int) -> NDArray[np.uint8]:
    return np.stack([_picture(shape, colour, x + frame) for frame in range(FRAMES)])


def empty_group(modality: Modality) -> SampleGroup:
    """Two samples without a single pixel, which hardly any reward can score."""
    frames = (FRAMES,) if modality == "video" else ()
    return SampleGroup(Prompt("a red circle"), np.zeros((2, *frames, 0, 0, 3), np.uint8))


class GroupsEnv(gymnasium.Env):
    """Ends after one step with a given group, and with the next one in the episode after it.

    Args:
        groups: all of one size.
    """

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    def __init__(self, groups: Sequence[SampleGroup]) -> None:
        self._groups, self._next = list(groups), -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Go on to the next group."""
        super().reset(seed=seed)
        self._next = (self._next + 1) % len(self._groups)
        return np.zeros(1, np.float32), {"prompt": self._groups[self._next].prompt}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Hand the group out."""
        group = self._groups[self._next]
        return np.ones(1, np.float32), 0.0, True, False, {"prompt": group.prompt, "samples": group.samples}


class Brightness:
    """The plainest reward: mean value of a sample, from 0 to 1."""

    def guarded(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group."""
        means = [group.samples.reshape(len(group), -1).mean(axis=1) / 255.0 for group in groups]
        return [
            GroupScores(rewards=mean.astype(np.float32), terms={"brightness": mean.astype(np.float32)})
            for mean in means
        ]

    def close(self) -> None:
        """There is nothing to close."""


def wrapped(env: gymnasium.Env, reward: Any) -> gymnasium.Env:
    """A reward around an environment, by FlexGym's wrapper."""
    return _wrapper("RewardWrapper")(env, reward)


def vector_wrapped(envs: VectorEnv, reward: Any) -> VectorEnv:
    """A reward around a vector environment, by FlexGym's wrapper."""
    return _wrapper("VectorRewardWrapper")(envs, reward)


def _wrapper(name: str) -> Any:
    """A class named as environments are, since flexgym does not import the packages above it."""
    return load_env_creator(f"rewards:{name}")


def vector_of(makers: Sequence[Callable[[], gymnasium.Env]], mode: Any) -> SyncVectorEnv:
    """Single environments side by side, as Gymnasium has them."""
    return SyncVectorEnv(makers, autoreset_mode=mode)
