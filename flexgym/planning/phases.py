"""Measure what each phase of an iteration needs by running it once without data.

The work is that of a learner: `FlowPolicy.transition` samples, `replay_step` and `replay_loss` replay, AdamW steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flexgym.core.errors import GeneratorError
from flexgym.generators.autoencoder import decode_rows
from flexgym.generators.base import FlowGenerator
from flexgym.planning.settings import PlanSettings
from flexgym.planning.tracing import Trace, trace
from flexgym.policy import FlowPolicy
from flexgym.replay import replay_loss, replay_step
from flexgym.types import FirstFrame, Prompt


@dataclass(frozen=True)
class Work:
    """Costs of the parts of an iteration, each run once.

    Attributes:
        text: bytes of one encoded prompt.
        step: one denoising step of the groups of one forward, without gradients.
        decoding: decoding of as many samples as the autoencoder decodes at once.
        decoded: number of samples that the autoencoder decodes at once.
        replay: one trained step of the groups of one forward, forward and backward.
        optimizer: one step of the optimizer whose state exists already.
        optimizer_state: bytes of that state.
    """

    text: int
    step: Trace
    decoding: Trace
    decoded: int
    replay: Trace
    optimizer: Trace
    optimizer_state: int


def prepare(generator: FlowGenerator, settings: PlanSettings) -> None:
    """Set up trainable parameters and memory savings as the module of a learner does."""
    train(generator, settings)
    _arrange(generator, settings)


def train(generator: FlowGenerator, settings: PlanSettings) -> None:
    """Set up the trainable parameters and the reference."""
    if settings.mode == "lora":
        generator.weights.add_lora(**settings.lora)
    else:
        generator.weights.train_full()
        if settings.keeps_reference:
            generator.weights.keep("reference")


def _arrange(generator: FlowGenerator, settings: PlanSettings) -> None:
    """Enable or disable gradient checkpointing and tiled decoding, which can change after `train`."""
    if settings.gradient_checkpointing:
        generator.weights.checkpoint_gradients()
    else:
        for module in generator.denoisers.values():
            if getattr(module, "is_gradient_checkpointing", False):
                module.disable_gradient_checkpointing()  # type: ignore[operator]  # nn.Module has any attribute
    if settings.vae_tiling:
        generator.autoencoder.tile()
    elif getattr(generator.pipe.vae, "use_tiling", False):
        generator.pipe.vae.disable_tiling()


class Rehearsal:
    """Runs the parts of an iteration, each once for the settings that affect it.

    Args:
        generator: generator after `train`, on the meta device or a real one.
        foreach: True if the optimizer updates all parameters together, which needs one more number for each; None for
            the choice of PyTorch on the device of the weights.
        decoded: costs of decoding by the settings that affect it, to share between generators that differ in training.

    Attributes:
        generator: the generator.

    Raises:
        GeneratorError: raised by `work` for a pipeline that needs data.
    """

    def __init__(
        self, generator: FlowGenerator, *, foreach: bool | None = None, decoded: dict[Any, Trace] | None = None
    ) -> None:
        self.generator = generator
        generator.condition([_prompt(generator)])
        parameters = list(generator.weights.trained().values())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._there = [*tensors_of(generator), *generator.text.cached(), *gradients]
        self._optimizer = torch.optim.AdamW(parameters, foreach=foreach)
        self._decoded = {} if decoded is None else decoded
        self._traces: dict[Any, Trace] = {}

    def work(self, settings: PlanSettings) -> Work:
        """Return the costs of all parts of an iteration with these settings."""
        _arrange(self.generator, settings)
        policy = FlowPolicy(self.generator, settings.noise, groups_per_forward=settings.groups_per_forward)
        rows = min(settings.group_size, decode_rows(self.generator.sample_shape))
        sizes = (settings.group_size, settings.groups_per_forward, repr(settings.noise))
        replayed = (*sizes, settings.gradient_checkpointing, settings.kl_coeff > 0)
        decode = torch.no_grad()(partial(_decode, self.generator, rows))
        step = torch.no_grad()(partial(_one_step, policy, settings))
        optimizer, state = self._optimizer_step()
        return Work(
            text=bytes_of(self.generator.text.cached()),
            step=self._once(self._traces, ("step", *sizes), step),
            decoding=self._once(self._decoded, (rows, settings.vae_tiling), decode),
            decoded=rows,
            replay=self._once(self._traces, ("replay", *replayed), partial(_replay, policy, settings)),
            optimizer=optimizer,
            optimizer_state=state,
        )

    def _once(self, done: dict[Any, Trace], key: Any, work: Callable[[], Any]) -> Trace:
        if key not in done:
            try:
                done[key] = trace(work, self._there)
            except (NotImplementedError, RuntimeError) as error:
                raise GeneratorError(
                    f"{self.generator.family.name} reads values of its inputs and therefore cannot be planned without"
                    f" data ({str(error).strip().splitlines()[0][:120]})"
                ) from error
        return done[key]

    def _optimizer_step(self) -> tuple[Trace, int]:
        """Return the costs of a step once the state of the optimizer exists, and the bytes of that state."""
        if not self._optimizer.state:
            self._optimizer.step()
        entries = self._optimizer.state.values()
        state = [value for entry in entries for value in entry.values() if isinstance(value, Tensor)]
        if "optimizer" not in self._traces:
            self._traces["optimizer"] = trace(partial(self._optimizer.step), [*self._there, *state])
        return self._traces["optimizer"], bytes_of(state)


def do_once(generator: FlowGenerator, settings: PlanSettings, *, foreach: bool | None = None) -> Work:
    """Run each part of an iteration once with a generator after `prepare`; arguments as for `Rehearsal`."""
    return Rehearsal(generator, foreach=foreach).work(settings)


def tensors_of(generator: FlowGenerator) -> Iterable[Tensor]:
    """Yield all parameters and buffers of a pipeline, and the copies of its weights."""
    for module in generator.pipe.components.values():
        if isinstance(module, nn.Module):
            yield from module.parameters()
            yield from module.buffers()
    for kept in generator.weights.kept.values():
        yield from kept.values()


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the storages of tensors, each storage counted once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _latents(policy: FlowPolicy, settings: PlanSettings) -> Tensor:
    shape = (settings.groups_per_forward, settings.group_size, *policy.generator.latent_shape)
    return torch.zeros(shape, device=policy.generator.device)


def _prompt(generator: FlowGenerator) -> Prompt:
    """Return a prompt that the generator can use."""
    frame = FirstFrame(np.zeros(generator.sample_shape[-3:], np.uint8)) if generator.takes_first_frame else None
    return Prompt("a prompt", first_frame=frame)


def _prompts(policy: FlowPolicy) -> list[Prompt]:
    return [_prompt(policy.generator)] * policy.groups_per_forward


def _one_step(policy: FlowPolicy, settings: PlanSettings) -> Tensor:
    gaussian = policy.transition(_latents(policy, settings), _prompts(policy), 0)
    after = gaussian.sample(torch.zeros_like(gaussian.mean))
    gaussian.log_prob(after)
    return after


def _decode(generator: FlowGenerator, rows: int) -> Tensor:
    return generator.autoencoder.decode_chunk(torch.zeros(rows, *generator.latent_shape, device=generator.device))


def _replay(policy: FlowPolicy, settings: PlanSettings) -> Tensor:
    latents = _latents(policy, settings)
    out = replay_step(
        policy,
        {
            "latents": latents,
            "next_latents": torch.zeros_like(latents),
            "prompts": _prompts(policy),
            "step": 0,
            "reference": settings.kl_coeff > 0,
        },
    )
    zeros = torch.zeros(latents.shape[:2], device=latents.device)
    replayed = replay_loss(out, zeros, zeros, clip_range=settings.clip_range, kl_coeff=settings.kl_coeff)
    replayed.loss.backward()
    return replayed.loss.detach()
