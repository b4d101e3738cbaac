"""Measure each phase of an iteration by running it once on tensors without data.

The work is that of a learner: `FlowPolicy.transition` samples, `flexgym.algorithm.replay.replay`
and the loss of the algorithm replay, and AdamW takes a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flexgym.algorithm.base import Loss
from flexgym.algorithm.kept import Rollout
from flexgym.algorithm.policy import FlowPolicy
from flexgym.algorithm.replay import OLD_LOG_PROB, replay
from flexgym.core.errors import GeneratorError
from flexgym.flow import ODE, Window, transition
from flexgym.generators.autoencoder import decode_rows
from flexgym.generators.base import FlowGenerator
from flexgym.planning.planned import Planned
from flexgym.planning.tracing import Trace, trace
from flexgym.types import FirstFrame, Prompt


@dataclass(frozen=True)
class Work:
    """The parts of an iteration, each run once.

    Attributes:
        text: bytes of one encoded prompt.
        step: one denoising step of the groups in one forward, without gradients.
        decoding: one call of the autoencoder.
        decoded: samples in that call.
        verified: one denoising step of the held-out samples in one forward; None without verification.
        shown: one call of the autoencoder for held-out samples; None without verification.
        replay: forward, loss and backward of one trained step of the groups in one forward.
        optimizer: one optimizer step, with the optimizer state already allocated.
        optimizer_state: bytes of the optimizer state.
    """

    text: int
    step: Trace
    decoding: Trace
    decoded: int
    verified: Trace | None
    shown: Trace | None
    replay: Trace
    optimizer: Trace
    optimizer_state: int


def prepare(generator: FlowGenerator, planned: Planned) -> None:
    """Choose the trainable parameters and apply the memory settings, as the learner's module does."""
    train(generator, planned)
    _arrange(generator, planned)


def train(generator: FlowGenerator, planned: Planned) -> None:
    """Choose the trainable parameters, and keep the copies of the weights that a replay asks."""
    generator.make_trainable(**planned.settings.generator.training)
    if planned.keeps_reference:
        generator.weights.keep("reference")
    for name in planned.asked:
        generator.weights.keep(name)


def _arrange(generator: FlowGenerator, planned: Planned) -> None:
    """Turn gradient checkpointing and tiling on or off; unlike the trainable parameters, they can change again."""
    settings = planned.settings.generator
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
    """Runs the parts of an iteration, each once for all settings that do not change it.

    Args:
        generator: generator after `train`, on the meta device or on a real one.
        planned: training whose prompts are encoded, with or without guidance.
        foreach: let the optimizer update all parameters together, which takes one more number for each of them; None is
            PyTorch's choice for the device of the weights.
        decoded: traces of decoding, by the settings that change them; generators that differ only in what they train
            may share it.

    Attributes:
        generator: the same generator.

    Raises:
        GeneratorError: by `work`, for a pipeline or a loss that reads values of its inputs.
    """

    def __init__(
        self,
        generator: FlowGenerator,
        planned: Planned,
        *,
        foreach: bool | None = None,
        decoded: dict[Any, Trace] | None = None,
    ) -> None:
        self.generator = generator
        guidance = planned.settings.algorithm.guidance
        for scale in {guidance.rollout, guidance.training, guidance.reference, guidance.verification}:
            generator.condition([_prompt(generator)], guidance=scale)
        parameters = list(generator.weights.trained().values())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._there = [*tensors_of(generator), *generator.text.cached(), *gradients]
        self._optimizer = torch.optim.AdamW(parameters, foreach=foreach)
        self._decoded = {} if decoded is None else decoded
        self._traces: dict[Any, Trace] = {}

    def work(self, planned: Planned) -> Work:
        """Run all parts of an iteration with these settings, or return what is known of them."""
        _arrange(self.generator, planned)
        settings, algorithm = planned.settings, planned.algorithm
        rollout, computes = settings.rollout, (type(algorithm), repr(algorithm.settings))
        rows = min(rollout.group_size, decode_rows(self.generator.sample_shape))
        sampled = (rollout.group_size, rollout.groups_per_forward, *computes)
        step = torch.no_grad()(partial(_one_step, self._policy(planned, settings.algorithm.guidance.rollout), planned))
        replayed = partial(_replay, self._policy(planned), planned)
        optimizer, state = self._step_of_optimizer()
        return Work(
            text=bytes_of(self.generator.text.cached()),
            step=self._once(self._traces, ("step", *sampled), step),
            decoding=self._decoding(planned, rows),
            decoded=rows,
            verified=self._verified(planned),
            shown=self._shown(planned),
            replay=self._once(
                self._traces,
                ("replay", planned.replayed, *sampled, settings.generator.gradient_checkpointing),
                replayed,
            ),
            optimizer=optimizer,
            optimizer_state=state,
        )

    def _decoding(self, planned: Planned, rows: int) -> Trace:
        decode = torch.no_grad()(partial(_decode, self.generator, rows))
        return self._once(self._decoded, (rows, planned.settings.generator.vae_tiling), decode)

    def _verified(self, planned: Planned) -> Trace | None:
        rows, guidance = planned.verified_rows, planned.settings.algorithm.guidance.verification
        if not rows:
            return None
        step = torch.no_grad()(partial(_verification_step, self.generator, rows, guidance))
        return self._once(self._traces, ("verified", rows, guidance), step)

    def _shown(self, planned: Planned) -> Trace | None:
        rows = min(planned.verified_rows, decode_rows(self.generator.sample_shape))
        return self._decoding(planned, rows) if rows else None

    def _policy(self, planned: Planned, guidance: float | None = None) -> FlowPolicy:
        """Make a policy for one trace, so that what it holds counts in that trace alone."""
        groups = planned.settings.rollout.groups_per_forward
        return FlowPolicy(self.generator, planned.algorithm.process, groups_per_forward=groups, guidance=guidance)

    def _once(self, done: dict[Any, Trace], key: Any, work: Callable[[], Any]) -> Trace:
        if key not in done:
            try:
                done[key] = trace(work, self._there)
            except (NotImplementedError, RuntimeError) as error:
                raise GeneratorError(
                    f"{self.generator.family.name}, or the loss of the algorithm, reads values of its inputs, so it"
                    f" cannot be planned without data ({str(error).strip().splitlines()[0][:120]})"
                ) from error
        return done[key]

    def _step_of_optimizer(self) -> tuple[Trace, int]:
        """Take an optimizer step with the state already allocated, and return the bytes of that state with it."""
        if not self._optimizer.state:
            self._optimizer.step()
        entries = self._optimizer.state.values()
        state = [value for entry in entries for value in entry.values() if isinstance(value, Tensor)]
        if "optimizer" not in self._traces:
            self._traces["optimizer"] = trace(partial(self._optimizer.step), [*self._there, *state])
        return self._traces["optimizer"], bytes_of(state)


def do_once(generator: FlowGenerator, planned: Planned, *, foreach: bool | None = None) -> Work:
    """Run each part of an iteration once; arguments as for `Rehearsal`, with the generator after `prepare`."""
    return Rehearsal(generator, planned, foreach=foreach).work(planned)


def tensors_of(generator: FlowGenerator) -> Iterable[Tensor]:
    """Yield all parameters and buffers of a pipeline, and the copies of its weights."""
    for module in generator.pipe.components.values():
        if isinstance(module, nn.Module):
            yield from module.parameters()
            yield from module.buffers()
    for kept in generator.weights.kept.values():
        yield from kept.values()


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the storages behind some tensors, each storage once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _latents(policy: FlowPolicy, planned: Planned, samples: int | None = None) -> Tensor:
    """Make latents of the groups in one forward, ``[P, G, ...]``, or of some samples of each."""
    rollout = planned.settings.rollout
    shape = (rollout.groups_per_forward, samples or rollout.group_size, *policy.generator.latent_shape)
    return torch.zeros(shape, device=policy.generator.device)


def _prompt(generator: FlowGenerator) -> Prompt:
    """Make a prompt as the generator takes it, with a first frame where it needs one."""
    frame = FirstFrame(np.zeros(generator.sample_shape[-3:], np.uint8)) if generator.takes_first_frame else None
    return Prompt("a prompt", first_frame=frame)


def _prompts(policy: FlowPolicy) -> tuple[Prompt, ...]:
    return (_prompt(policy.generator),) * policy.groups_per_forward


def _one_step(policy: FlowPolicy, planned: Planned) -> Tensor:
    """Take one denoising step with its density."""
    gaussian = policy.transition(_latents(policy, planned), _prompts(policy), 0)
    after = gaussian.sample(torch.zeros_like(gaussian.mean))
    gaussian.log_prob(after)
    return after


def _verification_step(generator: FlowGenerator, rows: int, guidance: float | None) -> Tensor:
    """Take one denoising step of held-out samples, see `flexgym.algorithm.rollout.sample`."""
    latents = torch.zeros(rows, *generator.latent_shape, device=generator.device)
    before, after = generator.sigmas().to(latents.device)[:2, None].expand(2, rows)
    conditioning = generator.condition([_prompt(generator)] * rows, guidance=guidance)
    velocity = generator.velocity(latents, before, conditioning, guidance=guidance)
    return transition(latents, velocity, before, sigma_next=after, noise=ODE()).mean


def _decode(generator: FlowGenerator, rows: int) -> Tensor:
    return generator.autoencoder.decode_chunk(torch.zeros(rows, *generator.latent_shape, device=generator.device))


def _rollout(policy: FlowPolicy, planned: Planned) -> Rollout:
    """Make a rollout with everything that the algorithm needs of it for one forward, on the policy's device."""
    algorithm, window = planned.algorithm, planned.window(policy.num_steps)
    latents = _latents(policy, planned, planned.replayed)[None]
    levels = algorithm.process.count(window) if algorithm.stacked else 1
    wanted = {"latents", "target", *algorithm.requires}
    kept = {
        name: latents.new_zeros((levels, *(latents.shape[1:3] if name == OLD_LOG_PROB else latents.shape[1:])))
        for name in algorithm.process.keeps
        if name in wanted
    }
    samples = np.zeros((*latents.shape[1:3], 0), np.uint8)
    return Rollout(_prompts(policy), samples, Window(0, len(window)), kept, seeds=(0,) * latents.shape[1])


def _replay(policy: FlowPolicy, planned: Planned) -> Tensor:
    """Replay one trained step: forward, loss and backward."""
    loss = _level_loss(policy, planned).per_sample.mean()
    loss.backward()
    return loss.detach()


def _level_loss(policy: FlowPolicy, planned: Planned) -> Loss:
    """Compute the loss of one trained step; on return, only what the backward pass needs is alive."""
    rollout, algorithm = _rollout(policy, planned), planned.algorithm
    advantages = torch.zeros(len(rollout), rollout.group_size, device=policy.generator.device)
    indices = range(algorithm.process.count(rollout.window)) if algorithm.stacked else (0,)
    replayed = replay(
        policy,
        rollout,
        indices,
        advantages=advantages,
        needs=algorithm.requires,
        guidance=algorithm.guidance,
    )
    return algorithm.objective(replayed)
