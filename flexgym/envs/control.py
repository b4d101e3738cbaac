"""Environments that control how a frozen generator samples: each action sets guidance and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flexgym.algorithm.policy import FlowPolicy
from flexgym.core.errors import ActionError, ConfigError
from flexgym.envs.features import PROMPT_FEATURES, prompt_features
from flexgym.envs.groups import GroupBatch
from flexgym.envs.single import GroupEnv
from flexgym.envs.spaces import FloatBox
from flexgym.envs.vector import GroupVectorEnv
from flexgym.flow import ODE, noise_scale
from flexgym.generators.base import FlowGenerator

_DIGITS = 4
"""Decimals to which the settings of an action are rounded, so that those of the pipeline are reached exactly."""
_LEAST_RANGE = 3.0


class ControlBatch(GroupBatch):
    """Batch of P groups whose guidance and noise are chosen during sampling.

    Args:
        generator: generator of the samples; it does not change.
        decisions: number of choices of guidance and noise in an episode.
        guidance: lowest and highest guidance scale; None for 1 to twice that of the generator, and to at least 3.
        noise: noise that the steps add: ``"cps"``, ``"flow"`` or ``"dance"``.
        eta: lowest and highest strength of the noise.
        batch: further arguments of `GroupBatch`.

    Raises:
        UnknownNameError: the name of the noise is unknown.
        ConfigError: the bounds or the number of decisions cannot work, or see `GroupBatch`.
    """

    options = ("decisions", "guidance", "noise", "eta")
    smallest = 1

    def __init__(
        self,
        generator: FlowGenerator,
        *,
        decisions: int = 1,
        guidance: tuple[float, float] | None = None,
        noise: str = "cps",
        eta: tuple[float, float] = (0.0, 1.0),
        **batch: Any,
    ) -> None:
        super().__init__(generator, **batch)
        own = generator.settings.guidance_scale
        ranges = [guidance or (1.0, max(2.0 * own, _LEAST_RANGE)), eta]
        self._low, self._high = np.array([_bounds(*named) for named in zip(("guidance", "eta"), ranges, strict=True)]).T
        self._noise = noise
        noise_scale(noise, float(self._high[1]))  # raises for an unknown name or an eta that it cannot have
        self._ends = _ends(decisions, self.num_steps)
        share = (np.clip([own, 0.0], self._low, self._high) - self._low) / (self._high - self._low)
        self.default_action: NDArray[np.float32] = (2.0 * share - 1.0).astype(np.float32)
        self.default_action.flags.writeable = False
        self._features = np.zeros((self.num_groups, PROMPT_FEATURES), np.float32)
        self._actions = np.tile(self.default_action, (self.num_groups, 1))
        self._noise_rngs = [np.random.default_rng(0)] * self.num_groups

    def observation_space(self) -> gymnasium.spaces.Dict:
        """Return the observation space of one group."""
        bound = math.sqrt(PROMPT_FEATURES)
        return gymnasium.spaces.Dict(
            {
                "prompt": FloatBox(-bound, bound, (PROMPT_FEATURES,)),
                "progress": FloatBox(0.0, 1.0, (1,)),
                "sigma": FloatBox(0.0, 1.0, (1,)),
                "last_action": self.action_space(),
            }
        )

    def action_space(self) -> FloatBox:
        """Return the action space of one group: guidance scale and strength of the noise, each from -1 to 1."""
        return FloatBox(-1.0, 1.0, (2,))

    @property
    def episode_length(self) -> int:
        """Number of decisions of an episode."""
        return len(self._ends)

    def begin(self, slots: Sequence[int], rngs: Sequence[np.random.Generator], prompts: Sequence[Any]) -> None:
        """Start new groups, see `GroupBatch.begin`. The seed of a group's noise is drawn after its prompt."""
        super().begin(slots, rngs, prompts)
        for slot in slots:
            self._noise_rngs[slot] = np.random.default_rng(int(rngs[slot].integers(2**63)))
            self._actions[slot] = self.default_action
            prompt = self.prompts[slot]
            assert prompt is not None
            self._features[slot] = prompt_features(self.generator, prompt.text)

    def advance(self, actions: Any, active: NDArray[np.bool_]) -> None:
        """Take the denoising steps up to the next decision.

        Args:
            actions: ``[P, 2]`` within -1 and 1.
            active: bool ``[P]``, groups that take a step; the actions of others are ignored.

        Raises:
            ActionError: the actions have another shape or exceed the bounds, or an active group is finished; nothing
                has changed then.
        """
        self._check_running(active)
        chosen = self._checked(actions, active)
        latents, steps = self.latents.clone(), self.steps.copy()
        for slot in np.flatnonzero(active).tolist():
            self._actions[slot] = chosen[slot]
            steps[slot] = next(end for end in self._ends if end > self.steps[slot])
            latents[slot] = self._denoise(slot, int(steps[slot]))
            self._forget(slot)
        self.latents, self.steps = latents, steps

    def _checked(self, actions: Any, active: NDArray[np.bool_]) -> NDArray[np.float32]:
        try:
            chosen = np.array(actions, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ActionError(f"expected guidance and noise as a float32 array, got {actions!r}: {error}") from error
        if chosen.shape != self._actions.shape:
            raise ActionError(f"expected guidance and noise of shape {self._actions.shape}, got {chosen.shape}")
        if not (np.abs(chosen[active]) <= 1.0).all():
            raise ActionError(
                f"guidance and noise must be within -1 and 1, got {chosen[active].tolist()}: clip the actions of the"
                " policy, for example with gymnasium.wrappers.ClipAction"
            )
        return chosen

    def _denoise(self, slot: int, end: int) -> Tensor:
        """Return the latents of a group after the steps up to ``end``, sampled with the settings of its action."""
        prompt = self.prompts[slot]
        assert prompt is not None
        guidance, eta = self.settings_of(slot)
        generator = self.generator.with_settings(guidance_scale=guidance)
        noise = noise_scale(self._noise, eta) if eta else ODE()
        policy = FlowPolicy(generator, noise, seed=int(self._noise_rngs[slot].integers(2**62)))
        latents = self.latents[slot][None]
        for step in range(int(self.steps[slot]), end):
            level = self.sigmas[step : step + 1, None]
            observation = {"prompt": (prompt.text,), "latents": latents, "sigma": level}
            if prompt.first_frame is not None:
                observation["first_frame"] = prompt.first_frame.pixels[None]
            latents = policy.act(observation).latents
        return latents[0]

    def settings_of(self, slot: int) -> tuple[float, float]:
        """Return guidance scale and strength of the noise of the latest sampling of a group."""
        values = self._low + (self._actions[slot].astype(np.float64) + 1.0) / 2.0 * (self._high - self._low)
        return round(float(values[0]), _DIGITS), round(float(values[1]), _DIGITS)

    def observation(self) -> dict[str, Any]:
        """Return the observations of all groups in the form of Gymnasium's batched spaces."""
        return {
            "prompt": self._features.copy(),
            "progress": (self.steps[:, None] / self.num_steps).astype(np.float32),
            "sigma": self.sigmas[self.steps][:, None],
            "last_action": self._actions.copy(),
        }

    def shared_infos(self) -> None:
        """Return None: each group has infos of its own."""

    def info(self, slot: int) -> dict[str, Any]:
        """Return the info of `GroupBatch`; after a step, also guidance scale and noise strength of the action."""
        info = super().info(slot)
        if self.steps[slot]:
            info["guidance_scale"], info["eta"] = self.settings_of(slot)
        return info


class ControlEnv(GroupEnv):
    """Sample with a frozen generator, with one or more decisions for each group of G samples.

    The action is two numbers within -1 and 1: the positions of guidance scale and noise strength between their bounds.
    They apply to the denoising steps up to the next decision; with one decision, an episode is one step.
    `default_action` samples as the pipeline does: with its guidance and without noise.

    The observation holds ``prompt`` (float32 ``[64]``, see `flexgym.envs.features.prompt_features`), ``progress``
    (share of the denoising steps taken), ``sigma`` (noise level of the latents) and ``last_action``. The info is that
    of `GroupEnv`, with ``guidance_scale`` and ``eta`` after each step; the reward is 0 until a reward wrapper scores
    the finished group.

    Args:
        decisions: number of decisions in an episode, at most the number of denoising steps.
        guidance: lowest and highest guidance scale; None for 1 to twice that of the generator, and to at least 3.
        noise: noise that the steps add: ``"cps"``, ``"flow"`` or ``"dance"``.
        eta: lowest and highest strength of the noise.
        group_size: number of samples G, at least 1.
        arguments: further arguments of `GroupEnv`, which also documents the errors.
    """

    batch_type = ControlBatch
    _groups: ControlBatch

    @property
    def default_action(self) -> NDArray[np.float32]:
        """Return the action that samples like the pipeline, as closely as the bounds allow: float32 ``[2]``."""
        return self._groups.default_action


class ControlVectorEnv(GroupVectorEnv):
    """Run P episodes of `ControlEnv` in one batch, bit-identical to P single environments.

    Args:
        arguments: arguments of `ControlEnv`, and ``num_envs`` and ``autoreset_mode`` of `GroupVectorEnv`.
    """

    batch_type = ControlBatch
    _groups: ControlBatch

    @property
    def default_action(self) -> NDArray[np.float32]:
        """Return the action that samples like the pipeline, as closely as the bounds allow: float32 ``[2]``."""
        return self._groups.default_action


def _bounds(name: str, bounds: Any) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be a lowest and a highest value, got {bounds!r}") from error
    if not (0.0 <= low < high and math.isfinite(high)):
        raise ConfigError(f"{name} must be two finite values of at least 0, the lower one first, got {bounds!r}")
    return low, high


def _ends(decisions: Any, num_steps: int) -> list[int]:
    """Return the number of denoising steps after which each decision ends."""
    if isinstance(decisions, bool) or not isinstance(decisions, int) or not 1 <= decisions <= num_steps:
        raise ConfigError(
            f"decisions must be a whole number from 1 to the {num_steps} denoising steps, got {decisions!r}"
        )
    return [round(num_steps * (index + 1) / decisions) for index in range(decisions)]
