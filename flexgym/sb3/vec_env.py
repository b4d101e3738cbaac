"""A Gymnasium vector environment as Stable-Baselines3 wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv

from flexgym.core.errors import ConfigError, RewardError

_PLAIN = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class SB3VecEnv(VecEnv):
    """Any `gymnasium.vector.VectorEnv` as a `stable_baselines3.common.vec_env.VecEnv`.

    What comes out is what SB3's own ``DummyVecEnv`` gives over the same environments: infos as a list of dicts, and for
    an episode that has ended ``terminal_observation`` and ``TimeLimit.truncated`` in its info, while the observation is
    already that of the next one. A batch of groups stays one batch.

    Args:
        envs: that resets an ended episode within the same step.

    Attributes:
        envs: the vector environment.

    Raises:
        ConfigError: for another autoreset mode, or a space that Stable-Baselines3 does not know.
    """

    def __init__(self, envs: VectorEnv) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"Stable-Baselines3 expects the next episode in the step that ends one, got autoreset mode {mode}: make"
                " the vector of a FlexGym environment with autoreset_mode='SameStep', one of others with"
                " vector_kwargs={'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP}"
            )
        _check_observations(envs.single_observation_space)
        _check_actions(envs.single_action_space)
        self.envs = envs
        self._actions: NDArray[Any] | None = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """Begin all episodes anew, with the seeds of `seed` and the options of `set_options` where there are any.

        Returns:
            Observations: an array, or a dict of them.

        Raises:
            ConfigError: when environments got different options, which a batch does not take.
        """
        if any(options != self._options[0] for options in self._options):
            raise ConfigError("expected the same options for all environments of a batch: pass set_options one dict")
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observations, infos = self.envs.reset(seed=seeds, options=self._options[0] or None)  # type: ignore[arg-type]
        self.reset_infos = split_infos(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return _copied(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Take a step.

        Returns:
            Observations, rewards ``[P]``, which episodes have ended ``[P]``, and infos.

        Raises:
            RewardError: when a reward is not a number, which no algorithm of Stable-Baselines3 can leave out.
        """
        observations, rewards, terminated, truncated, batched = self.envs.step(self._actions)
        if not np.isfinite(rewards).all():
            slots = np.flatnonzero(~np.isfinite(rewards)).tolist()
            raise RewardError(
                f"environments {slots} earned no number: no sample of their groups could be scored, and"
                " Stable-Baselines3 has no way to leave an episode out. A larger group_size makes this rarer"
            )
        ended = np.logical_or(terminated, truncated)
        infos = split_infos(batched, self.num_envs)
        for slot in np.flatnonzero(ended).tolist():
            final = {**infos[slot].pop("final_info"), "terminal_observation": infos[slot].pop("final_obs")}
            self.reset_infos[slot], infos[slot] = infos[slot], final
        for info, cut, end in zip(infos, truncated, terminated, strict=True):
            info["TimeLimit.truncated"] = bool(cut and not end)
        return _copied(observations), np.asarray(rewards, np.float32), ended, infos

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Render each environment to uint8 ``[height, width, 3]``; None without a render mode."""
        return list(self.envs.render() or ()) if self.render_mode else [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of each environment; that of a batch is every one's."""
        members = getattr(self.envs.unwrapped, "get_attr", None)
        values = members(attr_name) if members else [_attribute(self.envs, attr_name)] * self.num_envs
        return [values[slot] for slot in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of all environments.

        Raises:
            ConfigError: for some of them only, since a batch is one object.
        """
        self._check_all(indices)
        members = getattr(self.envs.unwrapped, "set_attr", None)
        if members:
            members(attr_name, [value] * self.num_envs)
        else:
            setattr(self.envs.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of all environments; a batch is called once, and what it gives is every one's.

        Raises:
            ConfigError: for some of them only, since a batch is one object.
        """
        self._check_all(indices)
        members = getattr(self.envs.unwrapped, "call", None)
        if members:
            return list(members(method_name, *method_args, **method_kwargs))
        return [_attribute(self.envs, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        """Return for each environment whether it has this wrapper; those of a batch have none."""
        members: list[gymnasium.Env] = getattr(self.envs.unwrapped, "envs", [])
        return [bool(members) and is_wrapped(members[slot], wrapper_class) for slot in self._get_indices(indices)]

    def _check_all(self, indices: Any) -> None:
        if sorted(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ConfigError(f"expected all {self.num_envs} environments, got {indices!r}: a batch is one object")


def split_infos(infos: Mapping[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Split the infos of a Gymnasium vector environment into one dict for each environment.

    Args:
        infos: values ``[P, ...]`` by key, or mappings of such, each with a mask ``[P]`` under ``_key`` that says which
            environments have it.
        num_envs: P.

    Returns:
        P dicts, without the masks.
    """
    split: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if mask is None:  # itself a mask
            continue
        rows = split_infos(values, num_envs) if isinstance(values, Mapping) else values
        for slot in np.flatnonzero(mask).tolist():
            split[slot][key] = rows[slot]
    return split


def _attribute(envs: VectorEnv, name: str) -> Any:
    """Return an attribute of the outermost wrapper that has it, or of the environments within."""
    while isinstance(envs, VectorWrapper) and not hasattr(envs, name):
        envs = envs.env
    return getattr(envs, name)


def _copied(observations: Any) -> Any:
    if isinstance(observations, Mapping):
        return {key: np.array(values) for key, values in observations.items()}
    return np.array(observations)


def _check_observations(space: spaces.Space) -> None:
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, part in parts.items():
        if not isinstance(part, _PLAIN):
            raise ConfigError(
                f"Stable-Baselines3 cannot observe {part}{f' under {key!r}' if key else ''}: it knows Box, Discrete,"
                " MultiDiscrete, MultiBinary and one Dict of them. FlexT2IControl-v0 and FlexT2VControl-v0 fit"
            )


def _check_actions(space: spaces.Space) -> None:
    if not isinstance(space, _PLAIN) or (isinstance(space, spaces.Box) and not space.is_bounded()):
        raise ConfigError(
            f"Stable-Baselines3 needs a bounded action space, got {space}: FlexT2IControl-v0 and"
            " FlexT2VControl-v0 have one"
        )
