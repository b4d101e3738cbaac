"""What each phase of an iteration needs, by doing it once without data.

The work is that of a learner: `FlowPolicy.transition` samples, `replay_step` and `replay_loss` replay, AdamW steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from flexgym.generators.base import FlowGenerator, decode_rows
from flexgym.planning.settings import PlanSettings
from flexgym.planning.tracing import Trace, trace
from flexgym.policy import FlowPolicy
from flexgym.replay import replay_loss, replay_step


@dataclass(frozen=True)
class Work:
    """The parts of an iteration, each done once.

    Attributes:
        text: bytes of one encoded prompt.
        step: one denoising step of the groups of one forward, without gradients.
        decoding: of as many samples as the autoencoder takes at once.
        decoded: how many those are.
        replay: one trained step of the groups of one forward, forward and backward.
        optimiser: one step of it, when its state is there already.
        optimiser_state: bytes of that state.
    """

    text: int
    step: Trace
    decoding: Trace
    decoded: int
    replay: Trace
    optimiser: Trace
    optimiser_state: int


def prepare(generator: FlowGenerator, settings: PlanSettings) -> None:
    """Say what trains, and whether blocks are computed again, as the learner's module does."""
    if settings.mode == "lora":
        generator.add_lora(**settings.lora)
    else:
        generator.train_full(keep_reference=settings.keeps_reference)
    if settings.gradient_checkpointing:
        generator.checkpoint_gradients()


def do_once(generator: FlowGenerator, settings: PlanSettings, *, foreach: bool | None = None) -> Work:
    """Each part of an iteration once.

    Args:
        generator: after `prepare`, on the meta device or on a real one.
        settings: of the training.
        foreach: whether the optimiser takes all parameters together, which needs room for one number each; None is
            PyTorch's choice for the device that the weights are on.
    """
    policy = FlowPolicy(generator, settings.noise, groups_per_forward=settings.groups_per_forward)
    generator.condition(["a prompt"])
    text = bytes_of(generator.encoded_text)
    there = [*tensors_of(generator), *generator.encoded_text]
    parameters = generator.trainable_parameters()
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    there += [parameter.grad for parameter in parameters if parameter.grad is not None]
    optimizer = torch.optim.AdamW(parameters, foreach=foreach)
    step = trace(torch.no_grad()(partial(_one_step, policy, settings)), there)
    rows = min(settings.group_size, decode_rows(generator.sample_shape))
    decoding = trace(torch.no_grad()(partial(_decode, generator, rows)), there)
    replay = trace(partial(_replay, policy, settings), there)
    optimizer.step()
    state = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    return Work(
        text=text,
        step=step,
        decoding=decoding,
        decoded=rows,
        replay=replay,
        optimiser=trace(partial(optimizer.step), [*there, *state]),
        optimiser_state=bytes_of(state),
    )


def tensors_of(generator: FlowGenerator) -> Iterable[Tensor]:
    """All parameters and buffers of a pipeline, and the weights from before training."""
    for module in generator.pipe.components.values():
        if isinstance(module, nn.Module):
            yield from module.parameters()
            yield from module.buffers()
    yield from generator.weights_before.values()


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind some tensors, each once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _latents(policy: FlowPolicy, settings: PlanSettings) -> Tensor:
    shape = (settings.groups_per_forward, settings.group_size, *policy.generator.latent_shape)
    return torch.zeros(shape, device=policy.generator.device)


def _prompts(settings: PlanSettings) -> list[str]:
    return ["a prompt"] * settings.groups_per_forward


def _one_step(policy: FlowPolicy, settings: PlanSettings) -> Tensor:
    gaussian = policy.transition(_latents(policy, settings), _prompts(settings), 0)
    after = gaussian.sample(torch.zeros_like(gaussian.mean))
    gaussian.log_prob(after)
    return after


def _decode(generator: FlowGenerator, rows: int) -> Tensor:
    return generator.decode_chunk(torch.zeros(rows, *generator.latent_shape, device=generator.device))


def _replay(policy: FlowPolicy, settings: PlanSettings) -> Tensor:
    latents = _latents(policy, settings)
    out = replay_step(
        policy,
        {
            "latents": latents,
            "next_latents": torch.zeros_like(latents),
            "prompts": _prompts(settings),
            "step": 0,
            "reference": settings.kl_coeff > 0,
        },
    )
    zeros = torch.zeros(latents.shape[:2], device=latents.device)
    replayed = replay_loss(out, zeros, zeros, clip_range=settings.clip_range, kl_coeff=settings.kl_coeff)
    replayed.loss.backward()
    return replayed.loss.detach()
