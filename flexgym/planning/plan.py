"""Memory of each device by phase and part, and time of an iteration."""

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
    "optimiser",
    "moving average",
    "gathered blocks",
    "activations",
    "encoded prompts",
    "text encoders",
    "VAE",
)
"""What fills the memory of a device, in the order of a table."""


@dataclass(frozen=True)
class Phase:
    """One phase of an iteration on one device.

    Attributes:
        name: ``"encoding"`` (only where text encoders come and go), ``"sampling"``, ``"decoding"`` or ``"update"``.
        parts: bytes by name, see `PARTS`.
        flops: of all of it in an iteration.
        seconds: that they take.
    """

    name: str
    parts: Mapping[str, int]
    flops: int = 0
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """Of all parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """What a training will need.

    Attributes:
        settings: of the training.
        device: it is planned for.
        phases: in the order of an iteration.
        host: bytes in the memory of the host for each learner, by what they are.
        trained: parameters that train.
        parameters: of everything that predicts the velocity.
    """

    settings: PlanSettings
    device: Device
    phases: tuple[Phase, ...]
    host: Mapping[str, int]
    trained: int
    parameters: int

    @property
    def peak(self) -> Phase:
        """The phase that needs most memory."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def fits(self) -> bool:
        """Whether the device has room for every phase."""
        return self.peak.bytes <= self.device.usable

    @property
    def seconds(self) -> float:
        """Of an iteration, without judging, verification, and whatever is no matrix operation."""
        return sum(phase.seconds for phase in self.phases)


@dataclass(frozen=True)
class Sizes:
    """Bytes of what stays.

    Attributes:
        weights: of what predicts the velocity, without an adapter.
        buffers: those of the weights that are no parameters, and whole where these are cut.
        adapter: of the adapter.
        reference: weights from before full training.
        gradients: of what trains.
        gathered: weights that one learner holds whole at once where the transformer is cut, see `_gathered`.
        gathered_gradients: the same of their gradients.
        encoders: of what encodes prompts.
        autoencoder: of the autoencoder.
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
    def whole(self) -> int:
        """What a learner loads before it keeps its part."""
        return self.weights + self.adapter + self.reference

    @classmethod
    def of(cls, generator: FlowGenerator) -> Sizes:
        """Of a generator after `train`."""
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
    """Bytes of a model that is cut by `flexgym.core.sharding.shard` that are whole at once.

    They are those outside all blocks, and twice the largest block: FSDP2 sends a block through a buffer of its size.
    """
    from flexgym.core.sharding import blocks_of

    blocks = [list(tensors(block)) for block in blocks_of(module)]
    inside = {id(tensor) for block in blocks for tensor in block}
    outside = bytes_of(tensor for tensor in tensors(module) if id(tensor) not in inside)
    return outside + 2 * max(map(bytes_of, blocks), default=0)


def _numbers(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


class Planner:
    """Makes plans, and remembers the work that it did for one of them for those that differ in something else.

    Args:
        device: to plan for.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._rehearsals: dict[str, Rehearsal] = {}
        self._decoded: dict[str, dict[Any, Trace]] = {}

    def plan(self, settings: PlanSettings) -> Plan:
        """The plan of a training.

        Raises:
            CheckpointError: when the generator's configs cannot be read.
            GeneratorError: when its pipeline cannot serve.
            ConfigError: for settings that cannot work.
            UnknownNameError: for names that do not exist.
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
            # foreach is the optimiser's choice on a GPU
            self._rehearsals[trains] = Rehearsal(generator, foreach=True, decoded=decoded)
        return self._rehearsals[trains]


def make_plan(settings: PlanSettings, device: Device) -> Plan:
    """One plan, see `Planner.plan`."""
    return Planner(device).plan(settings)


def _share(size: int, shares: int) -> int:
    """Bytes of the largest of equal parts."""
    return -(-size // shares)


@dataclass(frozen=True)
class _Accounts:
    """Adds up what `Sizes` and `Work` say."""

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
        sharded = settings.shards and (trains or not settings.runners)  # runners hold all of it
        shares = settings.learners if sharded else 1
        cut = settings.learners if trains else settings.runners  # each sees its own part of the prompts
        # learners that hold all gradients exchange them through buckets, which hold them once more
        exchanged = 2 if settings.learners > 1 and not sharded else 1
        # all prompts of a run where they are encoded at its start, else those that a device has met
        prompts = settings.iterations * settings.groups // (1 if settings.release_text_encoders else cut)
        parts = {
            "weights": sizes.buffers + _share(sizes.weights - sizes.buffers, shares),
            "adapter": _share(sizes.adapter, shares),
            "reference": _share(sizes.reference, shares) if trains else 0,
            "gradients": _share(exchanged * sizes.gradients, shares) if trains else 0,
            "optimiser": _share(self.work.optimiser_state, shares) if trains else 0,
            "moving average": _share(sizes.gradients, shares) if trains and sharded and settings.ema else 0,
            "gathered blocks": sizes.gathered if sharded and name == "sampling" else 0,
            "activations": activations,
            "encoded prompts": min(CACHE_BYTES, self.work.text * prompts),
            "text encoders": 0 if settings.release_text_encoders or settings.offload else sizes.encoders,
            "VAE": 0 if settings.offload and name != "decoding" else sizes.autoencoder,
        }
        return Phase(name, parts, flops=int(flops), seconds=self.device.seconds(flops, settings.dtype))

    def _update(self, flops: float) -> Phase:
        """The larger of replay and optimiser, of which only the first puts blocks together."""
        settings, work = self.settings, self.work
        if not settings.shards:
            return self._phase("update", max(work.replay.peak, work.optimiser.peak), flops)
        gathered = self.sizes.gathered + self.sizes.gathered_gradients
        stepped = _share(work.optimiser.peak, settings.learners)
        if stepped > work.replay.peak + gathered:
            return self._phase("update", stepped, flops)
        phase = self._phase("update", work.replay.peak, flops)
        return replace(phase, parts={**phase.parts, "gathered blocks": gathered})

    def _encoding(self) -> list[Phase]:
        """When text encoders are there that are away later: before anything trains, or whenever a new prompt comes."""
        settings = self.settings
        if not (settings.release_text_encoders or settings.offload):
            return []
        phase = self._phase("encoding", 0, 0.0, trains=not settings.release_text_encoders and not settings.runners)
        shares = settings.learners if settings.shards and not settings.runners else 1
        kept = {"reference": _share(self.sizes.reference, shares)} if settings.release_text_encoders else {}
        return [replace(phase, parts={**phase.parts, **kept, "text encoders": self.sizes.encoders})]

    def _host(self) -> dict[str, int]:
        """Trajectories, samples and the moving average stay in the memory of the host, and so do parts that rest."""
        settings, generator = self.settings, self.generator
        samples = settings.groups // settings.learners * settings.group_size
        latents = settings.latents_dtype.itemsize * math.prod(generator.latent_shape)
        rests = settings.offload and not settings.release_text_encoders
        host = {
            "stored latents": 2 * settings.window * latents * samples,
            "samples": samples * math.prod(generator.sample_shape),
            "moving average": self.sizes.gradients if settings.ema and not settings.shards else 0,
            "whole transformer, at the start": self.sizes.whole if settings.shards else 0,
            "text encoders": self.sizes.encoders if rests else 0,
            "VAE": self.sizes.autoencoder if settings.offload else 0,
        }
        return {name: size for name, size in host.items() if size}
