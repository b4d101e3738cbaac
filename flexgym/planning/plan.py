"""Compute the memory of each device by phase and part, and the time of an iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from flexgym.generators.base import FlowGenerator
from flexgym.generators.conditioning import CACHE_BYTES
from flexgym.planning.devices import Device
from flexgym.planning.phases import Rehearsal, Work, bytes_of, train
from flexgym.planning.settings import PlanSettings
from flexgym.planning.skeleton import build_skeleton, config_folder
from flexgym.planning.tracing import Trace

PARTS = (
    "weights",
    "adapter",
    "reference",
    "gradients",
    "optimizer",
    "EMA",
    "gathered blocks",
    "activations",
    "encoded prompts",
    "text encoders",
    "VAE",
)
"""Parts of the memory of a device, in the order of the table."""


@dataclass(frozen=True)
class Phase:
    """One phase of an iteration on one device.

    Attributes:
        name: ``"encoding"`` (only with released or offloaded text encoders), ``"sampling"``, ``"decoding"`` or
            ``"update"``.
        parts: bytes by name, see `PARTS`.
        flops: number of operations in an iteration.
        seconds: time that they take.
    """

    name: str
    parts: Mapping[str, int]
    flops: int = 0
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """Return the bytes of all parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """Memory and time of a training run.

    Attributes:
        settings: settings of the run.
        device: device that it is planned for.
        phases: phases in the order of an iteration.
        host: bytes in the memory of the host for each learner, by name.
        trained: number of trainable parameters.
        parameters: number of parameters of all denoisers.
    """

    settings: PlanSettings
    device: Device
    phases: tuple[Phase, ...]
    host: Mapping[str, int]
    trained: int
    parameters: int

    @property
    def peak(self) -> Phase:
        """Return the phase that needs the most memory."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def fits(self) -> bool:
        """Return True if every phase fits on the device."""
        return self.peak.bytes <= self.device.usable

    @property
    def seconds(self) -> float:
        """Return the time of the matrix operations of an iteration, without judging and verification."""
        return sum(phase.seconds for phase in self.phases)


@dataclass(frozen=True)
class Sizes:
    """Bytes of permanent parts.

    Attributes:
        weights: denoisers without an adapter.
        buffers: part of ``weights`` that is not parameters, and therefore never sharded.
        adapter: weights of the adapter.
        reference: copy of the initial weights in full training.
        gradients: gradients of the trainable parameters.
        gathered: weights that one learner gathers at once if the transformer is sharded, see `_gathered`.
        gathered_gradients: gradients that one learner gathers at once.
        encoders: text and image encoders.
        autoencoder: the autoencoder.
    """

    weights: int
    buffers: int
    adapter: int
    reference: int
    gradients: int
    gathered: int
    gathered_gradients: int
    encoders: int
    autoencoder: int

    @property
    def unsharded(self) -> int:
        """Return the bytes that a learner loads before sharding."""
        return self.weights + self.adapter + self.reference

    @classmethod
    def of(cls, generator: FlowGenerator) -> Sizes:
        """Measure a generator after `train`."""
        modules = list(generator.denoisers.values())
        trained = list(generator.weights.trained().values())
        everything = bytes_of(tensor for module in modules for tensor in _tensors(module))
        adapter = bytes_of(trained) if generator.weights.mode == "lora" else 0
        return cls(
            weights=everything - adapter,
            buffers=bytes_of(buffer for module in modules for buffer in module.buffers()),
            adapter=adapter,
            reference=bytes_of(generator.weights.kept.get("reference", {}).values()),
            gradients=bytes_of(trained),
            gathered=max(_gathered(module, nn.Module.parameters) for module in modules),
            gathered_gradients=max(_gathered(module, _trained) for module in modules),
            encoders=sum(bytes_of(_tensors(part)) for part in generator.placement.encoders().values()),
            autoencoder=bytes_of(_tensors(generator.pipe.vae)),
        )


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _trained(module: nn.Module) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _gathered(module: nn.Module, tensors: Callable[[nn.Module], Iterable[Tensor]]) -> int:
    """Return the bytes that a model sharded by `flexgym.core.sharding.shard` gathers at once.

    These are the tensors outside all blocks, and twice the largest block, since FSDP2 uses a buffer of its size.
    """
    from flexgym.core.sharding import blocks_of

    blocks = [list(tensors(block)) for block in blocks_of(module)]
    inside = {id(tensor) for block in blocks for tensor in block}
    outside = bytes_of(tensor for tensor in tensors(module) if id(tensor) not in inside)
    return outside + 2 * max(map(bytes_of, blocks), default=0)


def _numbers(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


class Planner:
    """Makes plans, and reuses measurements between plans whose settings do not affect them.

    Args:
        device: device to plan for.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._rehearsals: dict[str, Rehearsal] = {}
        self._decoded: dict[str, dict[Any, Trace]] = {}

    def plan(self, settings: PlanSettings) -> Plan:
        """Plan a training run.

        Raises:
            CheckpointError: the configs of the generator cannot be read.
            GeneratorError: the pipeline is not supported.
            ConfigError: the settings cannot work.
            UnknownNameError: a name does not exist.
        """
        rehearsal = self._rehearse(settings)
        sizes, work = Sizes.of(rehearsal.generator), rehearsal.work(settings)
        return _Accounts(settings, self.device, sizes, work=work, generator=rehearsal.generator).plan()

    def _rehearse(self, settings: PlanSettings) -> Rehearsal:
        model = repr((settings.source, settings.modality, settings.dtype, sorted(settings.sampling.items())))
        lora = sorted(settings.lora.items()) if settings.mode == "lora" else []
        trains = repr((model, settings.mode, lora, settings.keeps_reference))
        if trains not in self._rehearsals:
            with config_folder(settings.source, settings.modality) as folder:
                generator = build_skeleton(folder, settings.dtype, settings.sampling)
            train(generator, settings)
            decoded = self._decoded.setdefault(model, {})
            # The optimizer uses foreach on a GPU.
            self._rehearsals[trains] = Rehearsal(generator, foreach=True, decoded=decoded)
        return self._rehearsals[trains]


def make_plan(settings: PlanSettings, device: Device) -> Plan:
    """Plan one training run, see `Planner.plan`."""
    return Planner(device).plan(settings)


def _share(size: int, shares: int) -> int:
    """Return the bytes of the largest of equal parts."""
    return -(-size // shares)


@dataclass(frozen=True)
class _Accounts:
    """Sums of `Sizes` and `Work` over the phases."""

    settings: PlanSettings
    device: Device
    sizes: Sizes
    work: Work
    generator: FlowGenerator

    def plan(self) -> Plan:
        steps = self.generator.settings.num_steps
        settings, work = self.settings, self.work
        repeats = 1.0 + (1.0 / settings.reference_interval if settings.reference_interval else 0.0)
        noised = settings.window if settings.noise.to_clean else 0
        samples = settings.groups // settings.learners * settings.group_size
        chunks = math.ceil(settings.group_size / work.decoded) * samples // settings.group_size
        shared = settings.learners / settings.runners if settings.runners else 1.0
        sampled = shared * (repeats * steps + noised) * settings.forwards * work.step.flops
        decoded = shared * repeats * chunks * work.decoding.flops
        phases = (
            *self._encoding(),
            self._phase("sampling", work.step.peak, sampled, trains=not settings.runners),
            self._phase("decoding", work.decoding.peak, decoded, trains=not settings.runners),
            self._update(settings.window * settings.forwards * work.replay.flops),
        )
        trained = _numbers(list(self.generator.weights.trained().values()))
        everything = sum(_numbers(module.parameters()) for module in self.generator.denoisers.values())
        parameters = everything - (trained if self.generator.weights.mode == "lora" else 0)
        return Plan(settings, self.device, phases, self._host(), trained, parameters)

    def _phase(self, name: str, activations: int, flops: float, *, trains: bool = True) -> Phase:
        sizes, settings = self.sizes, self.settings
        sharded = settings.shards and (trains or not settings.runners)  # runners are not sharded
        shares = settings.learners if sharded else 1
        devices = settings.learners if trains else settings.runners  # each encodes its own part of the prompts
        # Learners with unsharded gradients exchange them through buckets of the same size.
        exchanged = 2 if settings.learners > 1 and not sharded else 1
        # All prompts of a run if they are encoded at its start, otherwise those that one device has encoded.
        prompts = settings.iterations * settings.groups // (1 if settings.release_text_encoders else devices)
        parts = {
            "weights": sizes.buffers + _share(sizes.weights - sizes.buffers, shares),
            "adapter": _share(sizes.adapter, shares),
            "reference": _share(sizes.reference, shares) if trains else 0,
            "gradients": _share(exchanged * sizes.gradients, shares) if trains else 0,
            "optimizer": _share(self.work.optimizer_state, shares) if trains else 0,
            "EMA": _share(sizes.gradients, shares) if trains and sharded and settings.ema else 0,
            "gathered blocks": sizes.gathered if sharded and name == "sampling" else 0,
            "activations": activations,
            "encoded prompts": min(CACHE_BYTES, self.work.text * prompts),
            "text encoders": 0 if settings.release_text_encoders or settings.offload else sizes.encoders,
            "VAE": 0 if settings.offload and name != "decoding" else sizes.autoencoder,
        }
        return Phase(name, parts, flops=int(flops), seconds=self.device.seconds(flops, settings.dtype))

    def _update(self, flops: float) -> Phase:
        """Return the larger of replay and optimizer step, of which only the first gathers blocks."""
        settings, work = self.settings, self.work
        if not settings.shards:
            return self._phase("update", max(work.replay.peak, work.optimizer.peak), flops)
        gathered = self.sizes.gathered + self.sizes.gathered_gradients
        stepped = _share(work.optimizer.peak, settings.learners)
        if stepped > work.replay.peak + gathered:
            return self._phase("update", stepped, flops)
        phase = self._phase("update", work.replay.peak, flops)
        return replace(phase, parts={**phase.parts, "gathered blocks": gathered})

    def _encoding(self) -> list[Phase]:
        """Return the phase in which text encoders are on the device if they are released or offloaded otherwise."""
        settings = self.settings
        if not (settings.release_text_encoders or settings.offload):
            return []
        phase = self._phase("encoding", 0, 0.0, trains=not settings.release_text_encoders and not settings.runners)
        shares = settings.learners if settings.shards and not settings.runners else 1
        kept = {"reference": _share(self.sizes.reference, shares)} if settings.release_text_encoders else {}
        return [replace(phase, parts={**phase.parts, **kept, "text encoders": self.sizes.encoders})]

    def _host(self) -> dict[str, int]:
        """Return the memory of the host: trajectories, samples, the EMA and offloaded modules."""
        settings, generator = self.settings, self.generator
        samples = settings.groups // settings.learners * settings.group_size
        latents = settings.latents_dtype.itemsize * math.prod(generator.latent_shape)
        offloads_text = settings.offload and not settings.release_text_encoders
        host = {
            "stored latents": 2 * settings.window * latents * samples,
            "samples": samples * math.prod(generator.sample_shape),
            "EMA": self.sizes.gradients if settings.ema and not settings.shards else 0,
            "unsharded transformer, at the start": self.sizes.unsharded if settings.shards else 0,
            "text encoders": self.sizes.encoders if offloads_text else 0,
            "VAE": self.sizes.autoencoder if settings.offload else 0,
        }
        return {name: size for name, size in host.items() if size}
