"""Gymnasium wrappers that put a reward on an environment of sample groups, single or vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from flexgym.core.conversion import keep_unconverted
from flexgym.core.errors import ConfigError
from flexgym.judge import Assessment, JudgeFailure, Verdict
from flexgym.reward.base import Reward
from flexgym.types import GroupScores, Prompt, SampleGroup

INFO_KEYS = ("group_rewards", "reward_terms", "reward_weights", "reward_failures", "assessments", "assessed_pairs")
"""Keys that a reward wrapper adds to the info of the last step of an episode."""


class RewardWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Scores the finished group at the end of an episode.

    At the step that ends the episode, the scalar reward becomes the mean of the valid group rewards, and info gains:

    - ``group_rewards``: float32 ``[G]``, NaN where a sample could not be scored;
    - ``reward_terms``: the named parts of the rewards, float32 ``[G]`` each;
    - ``reward_weights``: weight of each term; empty for rewards without weighted terms;
    - ``reward_failures``: number of failed judgments by kind;
    - ``assessments``: the judge's assessments, one per pair; empty for pointwise rewards;
    - ``assessed_pairs``: indices of the two samples of each assessment, in the order in which they were shown.

    If no sample of a group could be scored, the scalar reward is NaN, since an agent would learn from zero as from any
    other score. An agent that cannot skip such an episode must check ``np.isnan(reward)``. Previews of earlier steps
    are not scored.

    Args:
        env: an environment whose last info has ``samples`` (uint8 ``[G, ...]``) and ``prompt``.
        reward: the reward that scores the groups; closed together with the environment.
    """

    def __init__(self, env: gym.Env, reward: Reward) -> None:
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, reward=reward)
        gym.Wrapper.__init__(self, env)
        self.scorer = reward

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and score the group if the episode ends."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if (terminated or truncated) and "samples" in info:
            scores = self.scorer.guarded([SampleGroup(_checked_prompt(info.get("prompt")), info["samples"])])[0]
            reward, info = scores.mean, {**info, **group_info(scores)}
            # Environments that draw their group write the rewards under the samples.
            if self.env.has_wrapper_attr("show_rewards"):
                self.env.get_wrapper_attr("show_rewards")(scores.rewards)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close the reward and the environment."""
        self.scorer.close()
        self.env.close()


class VectorRewardWrapper(VectorWrapper):
    """Scores the finished groups of a vector environment: all groups that end at a step in one call.

    Rewards and info equal those of a `RewardWrapper` around each of the environments: info holds arrays with boolean
    ``_key`` masks, in ``final_info`` if the environment resets within the same step.

    Args:
        env: a vector environment of P groups.
        reward: the reward that scores the groups; closed together with the environment.
    """

    def __init__(self, env: VectorEnv, reward: Reward) -> None:
        super().__init__(env)
        self.scorer = reward

    def step(  # type: ignore[override]
        self, actions: Any
    ) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step the environments and score the groups whose episode ends."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        final = infos.get("final_info", infos)
        ended = np.logical_or(terminations, truncations) & final.get("_samples", False)
        if ended.any():
            rewards = np.array(rewards, dtype=np.float64)
            final = self._score_rows(np.flatnonzero(ended), rewards, final)
            infos = {**infos, "final_info": final} if "final_info" in infos else final
            if hasattr(self.env.unwrapped, "show_rewards"):
                shown = np.where(ended[:, None], final["group_rewards"], np.float32(np.nan))
                self.env.unwrapped.show_rewards(shown)
        return observations, rewards, terminations, truncations, infos

    def close(self, **kwargs: Any) -> None:
        """Close the reward and the environments."""
        self.scorer.close()
        self.env.close(**kwargs)

    def _score_rows(
        self, rows: NDArray[np.intp], rewards: NDArray[np.float64], infos: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the scalar rewards of the given rows into ``rewards`` and return infos with the scores."""
        prompts = infos.get("prompt", np.full(self.num_envs, None))
        groups = [SampleGroup(_checked_prompt(prompts[row]), infos["samples"][row]) for row in rows]
        # An inner reward wrapper has used the same keys; its values must not be mixed with ours.
        found = {key: value for key, value in infos.items() if key.removeprefix("_") not in INFO_KEYS}
        for row, scores in zip(rows, self.scorer.guarded(groups), strict=True):
            rewards[row] = scores.mean
            found = self._add_info(found, group_info(scores), int(row))
        return found


def group_info(scores: GroupScores) -> dict[str, Any]:
    """Return the scores of a group as info entries, named as in `INFO_KEYS`, in types that Gymnasium can batch."""
    return {
        "group_rewards": scores.rewards,
        "reward_terms": dict(scores.terms),
        "reward_weights": dict(scores.weights),
        "reward_failures": dict(scores.failures),
        "assessments": scores.assessments,
        "assessed_pairs": () if scores.pairs is None else tuple(map(tuple, scores.pairs.tolist())),
    }


def _checked_prompt(prompt: Any) -> Prompt:
    if not isinstance(prompt, Prompt):
        raise ConfigError(
            "a reward needs the prompt of each group: expected a flexgym.types.Prompt under info['prompt'], "
            f"got {type(prompt).__name__}"
        )
    return prompt


keep_unconverted(Prompt, Assessment, Verdict, JudgeFailure)
