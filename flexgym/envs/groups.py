"""Groups of samples while they are denoised: state and rules shared by the single and the vector environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from flexgym.core.errors import ActionError, ConfigError, GeneratorError, check_names, unknown_name
from flexgym.core.grids import draw_group
from flexgym.envs.prompts import PromptSource, as_prompt, load_prompts
from flexgym.envs.spaces import FloatBox, PromptSpace
from flexgym.flow import predicted_clean
from flexgym.generators.base import FlowGenerator
from flexgym.generators.family import FIRST_FRAME
from flexgym.generators.loader import load_generator
from flexgym.generators.sampling import SETTINGS
from flexgym.types import Prompt

RENDER_MODES = ["rgb_array"]
_NOT_STARTED = -1


def open_generator(
    name: str,
    modality: str,
    generator: str | Path | FlowGenerator | None,
    *,
    settings: Mapping[str, Any],
    options: Sequence[str] = (),
) -> FlowGenerator:
    """Load or share the generator of an environment.

    Args:
        name: of the environment, for messages.
        modality: ``"image"`` or ``"video"``.
        generator: to share, or where to load it from; None for the embedded one.
        settings: sampling settings among the environment's arguments; anything else is rejected.
        options: names of the arguments that this kind of environment has of its own, for messages.

    Raises:
        UnknownNameError: for an unknown argument, with the nearest valid one.
        GeneratorError: when the generator makes the other modality.
        CheckpointError: when it cannot be loaded.
        ConfigError: for a setting that cannot work.
    """
    sampling = [setting for setting in SETTINGS if modality == "video" or setting != "num_frames"]
    known = ["generator", "group_size", "prompts", "preview", "render_mode", *options, *sampling]
    check_names(f"argument of {name}", settings, known)
    if not isinstance(generator, FlowGenerator):
        return load_generator(generator, modality=modality, **settings)
    if generator.modality != modality:
        raise GeneratorError(f"{name} needs a generator for modality {modality!r}, got one for {generator.modality!r}")
    return generator.with_settings(**settings)


class GroupBatch:
    """P groups side by side, each at its own step.

    Args:
        generator: that makes them.
        prompts: what for, see `load_prompts`.
        group_size: samples G of a group, at least 2.
        num_groups: P.
        preview: whether the info of each step holds samples.
        tensors: whether observations hold latents as a tensor on the generator's device, and actions come as one. No
            latents are then copied to the host or back, nor is an action copied: the caller must not write to it.

    Raises:
        ConfigError: for a group of fewer than `smallest`, or prompts without the first frames that a generator takes.
        PromptSourceError: when the prompts cannot be used.
    """

    options: ClassVar[tuple[str, ...]] = ()
    """Arguments of the environment that are for the batch alone."""
    smallest: ClassVar[int] = 2
    """Samples of a group at least."""

    def __init__(
        self,
        generator: FlowGenerator,
        *,
        prompts: Any,
        group_size: int,
        num_groups: int,
        preview: bool,
        tensors: bool = False,
    ) -> None:
        if isinstance(group_size, bool) or not isinstance(group_size, int | np.integer) or group_size < self.smallest:
            why = " (samples are compared)" if self.smallest > 1 else ""
            raise ConfigError(f"group_size must be a whole number of at least {self.smallest}{why}, got {group_size!r}")
        self.generator = generator
        self.source: PromptSource = load_prompts(prompts, generator.modality)
        self.source.check_first_frames(generator.takes_first_frame)
        self.group_size = int(group_size)
        self.num_groups = num_groups
        self.preview = preview
        self.tensors = tensors
        self.sigmas: NDArray[np.float32] = generator.sigmas().numpy()
        self.sigmas.flags.writeable = False
        self.num_steps = len(self.sigmas) - 1
        self.prompts: list[Prompt | None] = [None] * num_groups
        self._texts: tuple[str, ...] = ("",) * num_groups
        self.steps = np.full(num_groups, _NOT_STARTED)
        self.latents = torch.zeros(num_groups, self.group_size, *generator.latent_shape, device=generator.device)
        self._samples: list[NDArray[np.uint8] | None] = [None] * num_groups
        self._rewards: list[NDArray[np.float32] | None] = [None] * num_groups
        self._frame = 0

    def observation_space(self) -> gymnasium.spaces.Dict:
        """Return the observation space of one group."""
        spaces: dict[str, gymnasium.Space] = {
            "prompt": PromptSpace(),
            "latents": self.action_space(),
            "sigma": FloatBox(0.0, 1.0, (1,)),
        }
        if self.generator.takes_first_frame:
            spaces["first_frame"] = gymnasium.spaces.Box(0, 255, self.generator.sample_shape[1:], np.uint8)
        return gymnasium.spaces.Dict(spaces)

    def action_space(self) -> FloatBox:
        """Return the action space of one group: its next latents."""
        return FloatBox(-np.inf, np.inf, tuple(self.latents.shape[1:]))

    @property
    def episode_length(self) -> int:
        """Number of steps of an episode."""
        return self.num_steps

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Mask of the groups that have taken their last step, ``[P]``."""
        return self.steps == self.num_steps

    def begin(self, slots: Sequence[int], rngs: Sequence[np.random.Generator], prompts: Sequence[Any]) -> None:
        """Start groups anew.

        Args:
            slots: which of the P.
            rngs: one for each of the P; a starting group's latents, then its prompt are drawn from its own.
            prompts: one for each of the P; None to draw it.

        Raises:
            PromptSourceError: when a given prompt cannot be used; nothing has changed then.
            ConfigError: when it has a first frame and should not, or the other way round; nothing has changed then.
        """
        given = {slot: as_prompt(prompts[slot]) for slot in slots if prompts[slot] is not None}
        chosen = {slot: self._framed(prompt) for slot, prompt in given.items()}
        # observations handed out share this memory: it is replaced, never written to
        self.latents = self.latents.to(self.generator.device, copy=True)
        for slot in slots:
            noise = self.generator.initial_latents(self.group_size, int(rngs[slot].integers(2**63)))
            prompt = chosen.get(slot) or self._framed(self.source.draw(rngs[slot]))
            self.latents[slot] = self.generator.starting_latents(noise, [prompt] * self.group_size)
            self.prompts[slot] = prompt
            self.steps[slot] = 0
            self._forget(slot)
        self._texts = tuple(prompt.text if prompt else "" for prompt in self.prompts)
        self._frame = 0

    def _framed(self, prompt: Prompt) -> Prompt:
        """Return the prompt with its first frame as the generator takes it, read once for the whole episode."""
        images = self.generator.text.images([prompt])[0]
        return replace(prompt, first_frame=images[FIRST_FRAME]) if images else prompt

    def advance(self, actions: Any, active: NDArray[np.bool_]) -> None:
        """Take a step.

        Args:
            actions: the next latents, ``[P, G, ...]``.
            active: groups that take it, ``[P]``; the actions of others are ignored.

        Raises:
            ActionError: when the latents have another shape or are not all finite, or an active group is finished;
                nothing has changed then.
        """
        self._check_running(active)
        latents = self._as_latents(actions)
        everyone = bool(active.all())
        if not bool(torch.isfinite(latents if everyone else latents[torch.from_numpy(active)]).all()):
            bad = int((~torch.isfinite(latents[torch.from_numpy(active)])).sum())
            raise ActionError(f"the next latents must be finite, got {bad} values that are NaN or infinite in float32")
        if not everyone:
            idle = torch.from_numpy(~active)
            latents[idle] = self.latents[idle]
        self.latents = latents
        self.steps = self.steps + active
        for slot in np.flatnonzero(active).tolist():
            self._samples[slot] = self._rewards[slot] = None

    def _check_running(self, active: NDArray[np.bool_]) -> None:
        steps = self.steps[active]
        if (steps == _NOT_STARTED).any() or (steps == self.num_steps).any():
            raise ActionError("expected reset() before this step: the episode has ended or has not begun")

    def _as_latents(self, actions: Any) -> torch.Tensor:
        """Return the actions on the generator's device; of an array a copy, which stays the caller's."""
        if isinstance(actions, torch.Tensor):
            latents = actions.to(self.generator.device, torch.float32)
        else:
            try:
                with np.errstate(over="ignore"):
                    latents = torch.from_numpy(np.array(actions, dtype=np.float32)).to(self.generator.device)
            except (TypeError, ValueError) as error:
                raise ActionError(
                    f"expected the next latents as a float32 array, got {type(actions).__name__}: {error}"
                ) from error
        if latents.shape != self.latents.shape:
            raise ActionError(
                f"expected the next latents of shape {tuple(self.latents.shape)}, got {tuple(latents.shape)}"
            )
        return latents

    def _forget(self, slot: int) -> None:
        """Clear what belonged to the latents of a group before its step."""
        self._samples[slot] = self._rewards[slot] = None

    def observation(self) -> dict[str, Any]:
        """Return the observation of all groups, in the form of Gymnasium's batched spaces."""
        latents = self.latents if self.tensors else self.latents.cpu().numpy()
        batch = {"prompt": self._texts, "latents": latents, "sigma": self.sigmas[self.steps][:, None]}
        if self.generator.takes_first_frame:
            batch["first_frame"] = self.first_frames()
        return batch

    def first_frames(self) -> NDArray[np.uint8]:
        """Return the first frames of all groups, uint8 ``[P, H, W, 3]``; black where a group has not begun."""
        frames = np.zeros((self.num_groups, *self.generator.sample_shape[1:]), np.uint8)
        for slot, prompt in enumerate(self.prompts):
            if prompt is not None and prompt.first_frame is not None:
                frames[slot] = prompt.first_frame.pixels
        return frames

    def observation_of(self, slot: int) -> dict[str, Any]:
        """Return the observation of one group."""
        batch = self.observation()
        return {name: value[slot] for name, value in batch.items()}

    def shared_infos(self) -> dict[str, Any] | None:
        """Return the infos of all groups after a step that ends no episode, in the form of a vector environment.

        Returns:
            The prompts and their mask; None where the groups have infos of their own, see `info`.
        """
        if self.preview:
            return None
        prompts = np.empty(self.num_groups, object)
        prompts[:] = self.prompts
        return {"prompt": prompts, "_prompt": np.ones(self.num_groups, np.bool_)}

    def info(self, slot: int) -> dict[str, Any]:
        """Return the info of a group after a step: its prompt, and its samples once there are any."""
        info: dict[str, Any] = {"prompt": self.prompts[slot]}
        if self.steps[slot] and (self.preview or self.finished[slot]):
            info["samples"] = self.samples(slot)
        return info

    def samples(self, slot: int) -> NDArray[np.uint8]:
        """Decode a group: its final samples once it is finished, before that the samples that the model predicts.

        Returns:
            uint8 ``[G, H, W, 3]`` or ``[G, F, H, W, 3]``.
        """
        kept = self._samples[slot]
        if kept is None:
            kept = self._samples[slot] = self.generator.decode(self._clean(slot))
        return kept

    @torch.no_grad()
    def _clean(self, slot: int) -> torch.Tensor:
        latents = self.latents[slot].to(self.generator.device)
        prompt = self.prompts[slot]
        is_clean = bool(self.finished[slot])
        if prompt is None or is_clean and not self.generator.takes_first_frame:
            return latents
        conditioning = self.generator.condition([prompt]).repeat(self.group_size)
        if not is_clean:
            sigma = torch.full((self.group_size,), float(self.sigmas[self.steps[slot]]), device=latents.device)
            latents = predicted_clean(latents, self.generator.velocity(latents, sigma, conditioning), sigma)
        return self.generator.with_first_frame(latents, conditioning)

    def show_rewards(self, slot: int, rewards: Any) -> None:
        """Let `picture` write rewards ``[G]`` under the samples of a finished group, until it takes another step."""
        if self.finished[slot]:
            self._rewards[slot] = np.asarray(rewards, np.float32)

    def next_frame(self) -> int:
        """Count the frames that were shown: every call is the next, so videos play."""
        self._frame += 1
        return self._frame - 1

    def picture(self, slot: int, frame: int) -> NDArray[np.uint8]:
        """Draw a labeled grid of a group, uint8 ``[height, width, 3]``; videos show ``frame`` modulo their length."""
        prompt = self.prompts[slot]
        if prompt is None:
            raise ConfigError("expected reset() before render(): there is no group yet")
        samples = self.samples(slot)
        images = samples[:, frame % samples.shape[1]] if samples.ndim == 5 else samples
        return draw_group(images, prompt.text, self._rewards[slot])


class GroupAccess:
    """Base of single and vector environments: a generator, and groups that it samples."""

    name: ClassVar[str]
    modality: ClassVar[str]
    batch_type: ClassVar[type[GroupBatch]] = GroupBatch
    generator: FlowGenerator
    _groups: GroupBatch

    def _open(
        self, generator: str | Path | FlowGenerator | None, settings: Mapping[str, Any], **batch: Any
    ) -> GroupBatch:
        """Load the generator and set up its groups; settings are split into those of sampling and of the batch."""
        options = self.batch_type.options
        own = {name: settings[name] for name in options if name in settings}
        sampling = {name: value for name, value in settings.items() if name not in own}
        self.generator = open_generator(self.name, self.modality, generator, settings=sampling, options=options)
        self._groups = self.batch_type(self.generator, **batch, **own)
        return self._groups

    @property
    def group_size(self) -> int:
        """Samples G of a group."""
        return self._groups.group_size

    @property
    def sigmas(self) -> NDArray[np.float32]:
        """Noise levels of an episode, ``[T + 1]``, read-only."""
        return self._groups.sigmas

    @property
    def prompts(self) -> PromptSource:
        """Prompts that `reset` draws from."""
        return self._groups.source


def check_render_mode(mode: str | None) -> None:
    """Reject a render mode that is not offered.

    Raises:
        UnknownNameError: naming the ones that are.
    """
    if mode is not None and mode not in RENDER_MODES:
        raise unknown_name("render_mode", mode, RENDER_MODES)


def check_options(options: Mapping[str, Any] | None, known: Sequence[str]) -> dict[str, Any]:
    """Check the options of a reset, and return them as a dict.

    Raises:
        UnknownNameError: for an unknown option, with the nearest valid one.
    """
    check_names("option of reset", options or (), known)
    return dict(options or {})
