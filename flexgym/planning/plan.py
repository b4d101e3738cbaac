"""Plan a training: the memory of each device by phase and part, and the time of an iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from flexgym.algorithm.base import CURRENT, EMA
from flexgym.algorithm.replay import OLD
from flexgym.algorithm.reward_steps import RewardSteps
from flexgym.algorithm.rollout import KEPT
from flexgym.core.precision import dtype_named
from flexgym.flow import Replays, Steps
from flexgym.generators.base import FlowGenerator
from flexgym.generators.conditioning import CACHE_BYTES
from flexgym.planning.devices import Device
from flexgym.planning.phases import Rehearsal, Work, bytes_of, train
from flexgym.planning.planned import Planned
from flexgym.planning.skeleton import build_skeleton, config_folder
from flexgym.planning.tracing import Trace
from flexgym.reward.process import PROCESS_BYTES

PARTS = (
    "weights",
    "adapter",
    "reference",
    "gradients",
    "optimizer",
    "EMA",
    "weight copies",
    "gathered blocks",
    "activations",
    "encoded prompts",
    "text encoders",
    "VAE",
)
"""Parts of the memory of a device, in the order of a table."""
_DECODES = ("decoding", "reward gradient", "encoding samples")
"""Phases for which an offloaded autoencoder comes to the device."""


@dataclass(frozen=True)
class Phase:
    """One phase of an iteration on one device.

    Attributes:
        name: ``"encoding"`` (only where text encoders are released or offloaded), ``"sampling"`` and ``"decoding"``, or
            ``"encoding samples"`` of a data set, ``"reward gradient"`` (only where the algorithm needs it),
            ``"update"`` or ``"verification"`` (only where the training verifies).
        parts: bytes by name, see `PARTS`.
        flops: floating-point operations of the phase in an iteration.
        seconds: time of these operations.
    """

    name: str
    parts: Mapping[str, int]
    flops: int = 0
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """Bytes of all parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """Memory and time that a training needs.

    Attributes:
        planned: the training.
        device: device that it is planned for.
        phases: phases in the order of an iteration.
        host: bytes in host memory for each learner, by content.
        trained: number of trainable parameters.
        parameters: number of parameters of the transformers.
    """

    planned: Planned
    device: Device
    phases: tuple[Phase, ...]
    host: Mapping[str, int]
    trained: int
    parameters: int

    @property
    def peak(self) -> Phase:
        """The phase that needs the most memory."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def fits(self) -> bool:
        """True where the device has room for every phase."""
        return self.peak.bytes <= self.device.usable

    @property
    def seconds(self) -> float:
        """Seconds of an iteration, without rewards, verification, and all that is not a matrix operation."""
        return sum(phase.seconds for phase in self.phases)


@dataclass(frozen=True)
class Sizes:
    """Bytes that stay the same throughout a phase, unsharded.

    Attributes:
        weights: the transformers, without an adapter.
        buffers: the buffers among them, which are never sharded.
        adapter: the adapter.
        reference: the copy of the weights before full training.
        gradients: gradients of the trainable parameters; each weight copy takes as much.
        gathered: weights that one learner holds unsharded at once where the transformer is sharded, see `_gathered`.
        gathered_gradients: gradients that one learner holds unsharded at once.
        encoders: the text encoders.
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
        """Bytes that a learner loads before it keeps its shard."""
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
    """Return the bytes of a sharded model that are unsharded at once, see `flexgym.core.sharding.shard`.

    They are the tensors outside all blocks, and twice the largest block: FSDP2 sends a block through a buffer of its
    size.
    """
    from flexgym.core.sharding import blocks_of

    blocks = [list(tensors(block)) for block in blocks_of(module)]
    inside = {id(tensor) for block in blocks for tensor in block}
    outside = bytes_of(tensor for tensor in tensors(module) if id(tensor) not in inside)
    return outside + 2 * max(map(bytes_of, blocks), default=0)


def _numbers(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


class Planner:
    """Makes plans for one device; plans that differ in some settings share the traces that these do not change.

    Args:
        device: device to plan for.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._rehearsals: dict[Any, Rehearsal] = {}
        self._decoded: dict[Any, dict[Any, Trace]] = {}

    def plan(self, planned: Planned) -> Plan:
        """Plan a training.

        Raises:
            CheckpointError: the configs of the generator cannot be read.
            GeneratorError: the pipeline cannot be trained or planned.
            ConfigError: a setting is not valid for this generator.
        """
        rehearsal = self._rehearse(planned)
        sizes, work = Sizes.of(rehearsal.generator), rehearsal.work(planned)
        return _Accounts(planned, self.device, sizes, work=work, generator=rehearsal.generator).plan()

    def _rehearse(self, planned: Planned) -> Rehearsal:
        settings = planned.settings.generator
        model = (settings.source, planned.modality, settings.dtype, settings.sampling)
        lora = settings.lora if settings.mode == "lora" else None
        trains = (
            model,
            settings.mode,
            lora,
            settings.adapter,
            settings.adapter_as,
            planned.keeps_reference,
            planned.asked,
            planned.settings.algorithm.guidance,
        )
        if trains not in self._rehearsals:
            with config_folder(settings.source, planned.modality) as folder:
                generator = build_skeleton(folder, planned.dtype, planned.sampling)
            train(generator, planned)
            decoded = self._decoded.setdefault(model, {})
            # foreach is the optimizer's choice on a GPU
            self._rehearsals[trains] = Rehearsal(generator, planned, foreach=True, decoded=decoded)
        return self._rehearsals[trains]


def make_plan(planned: Planned, device: Device) -> Plan:
    """Make a single plan, see `Planner.plan`."""
    return Planner(device).plan(planned)


def _share(size: int, shares: int) -> int:
    """Return the bytes of the largest of equal shards."""
    return -(-size // shares)


@dataclass(frozen=True)
class _Accounts:
    """Adds up `Sizes` and `Work` to a plan."""

    planned: Planned
    device: Device
    sizes: Sizes
    work: Work
    generator: FlowGenerator

    @property
    def window(self) -> Steps:
        """The trained steps of an iteration."""
        return self.planned.window(self.generator.settings.num_steps)

    def plan(self) -> Plan:
        generator = self.generator
        phases = (
            *self._encoding(),
            *self._making(),
            self._update(self._replays()),
            *self._verification(),
        )
        trained = _numbers(generator.weights.trained().values())
        everything = sum(_numbers(module.parameters()) for module in generator.denoisers.values())
        parameters = everything - (trained if generator.weights.mode == "lora" else 0)
        return Plan(self.planned, self.device, phases, self._host(), trained, parameters)

    def _making(self) -> list[Phase]:
        """Return the phases that make samples, or those of a data set that encode them before they are cached."""
        planned, work, generator = self.planned, self.work, self.generator
        if work.encoding is not None:
            return [self._phase("encoding samples", work.encoding.peak, planned.samples * work.encoding.flops)]
        rollout, steps = planned.settings.rollout, generator.settings.num_steps
        repeats = 1.0 + (1.0 / rollout.reference_interval if rollout.reference_interval else 0.0)
        chunks = math.ceil(rollout.group_size / work.decoded) * planned.samples // rollout.group_size
        shared = planned.learners / planned.runners if planned.runners else 1.0
        sampled = shared * repeats * steps * planned.forwards * work.step.flops
        decoded = shared * repeats * chunks * work.decoding.flops
        return [
            self._sampling(sampled, shared),
            self._phase("decoding", work.decoding.peak, decoded, trains=not planned.runners),
            *self._differentiation(shared),
        ]

    def _sampling(self, flops: float, shared: float) -> Phase:
        """Return the phase of denoising; steps that are not trained may have their own precision and solver.

        Autocast casts each trained weight once in a forward, and a solver of second order keeps two predictions of each
        sample. Other activations take what they take in the precision of the weights, or less.
        """
        planned, rollout = self.planned, self.planned.settings.rollout
        predictions = 0 if rollout.solver == "euler" else 2
        kept = predictions * 4 * math.prod(self.generator.latent_shape) * math.ceil(shared * planned.samples)
        cast = self.sizes.gradients // 2 if rollout.compute_dtype else 0
        phase = self._phase("sampling", self.work.step.peak + kept + cast, flops, trains=not planned.runners)
        dtype = dtype_named(rollout.compute_dtype) if rollout.compute_dtype else planned.dtype
        free = self._free_share() * flops
        seconds = self.device.seconds(flops - free, planned.dtype) + self.device.seconds(free, dtype)
        return replace(phase, seconds=seconds)

    def _free_share(self) -> float:
        """Return the share of the denoising steps that training does not depend on."""
        steps, is_free = range(self.generator.settings.num_steps), self.planned.algorithm.process.is_free
        return sum(is_free(step, self.window) for step in steps) / len(steps)

    def _phase(self, name: str, activations: int, flops: float, *, trains: bool = True) -> Phase:
        sizes, planned, generator = self.sizes, self.planned, self.planned.settings.generator
        sharded = generator.shards and (trains or not planned.runners)  # env runners hold all of it
        shares = planned.learners if sharded else 1
        prompts_over = planned.learners if trains else planned.runners  # each sees its own share of the prompts
        # learners that hold all gradients exchange them through buckets, which hold them once more
        exchanged = 2 if planned.learners > 1 and not sharded else 1
        # all prompts of a run where they are encoded at its start, else those that a device has seen
        prompts = planned.settings.run.iterations * planned.settings.rollout.prompts_per_iteration
        prompts //= 1 if generator.release_text_encoders else prompts_over
        copies = self._copies(host=False) if trains else {}
        parts = {
            "weights": sizes.buffers + _share(sizes.weights - sizes.buffers, shares),
            "adapter": _share(sizes.adapter, shares),
            "reference": _share(sizes.reference, shares),
            "gradients": _share(exchanged * sizes.gradients, shares) if trains else 0,
            "optimizer": _share(self.work.optimizer_state, shares) if trains else 0,
            "EMA": _share(copies.get("EMA", 0), shares),
            "weight copies": _share(copies.get("weight copies", 0), shares),
            "gathered blocks": sizes.gathered if sharded and name in ("sampling", "verification") else 0,
            "activations": activations,
            "encoded prompts": min(CACHE_BYTES, self.work.text * prompts),
            "text encoders": 0 if generator.release_text_encoders or generator.offload else sizes.encoders,
            "VAE": 0 if generator.offload and name not in _DECODES else sizes.autoencoder,
        }
        return Phase(name, parts, flops=int(flops), seconds=self.device.seconds(flops, planned.dtype))

    def _differentiation(self, shared: float) -> list[Phase]:
        """Return the phase that decodes with gradients; the reward's own memory and time are not known."""
        process, traced = self.planned.algorithm.process, self.work.differentiated
        if traced is None or not isinstance(process, RewardSteps) or not isinstance(self.window, Replays):
            return []
        scored = self.planned.samples * (1 + self.window.copies)
        flops = shared * math.ceil(scored / process.chunk) * traced.flops
        return [self._phase("reward gradient", traced.peak, flops, trains=not self.planned.runners)]

    def _verification(self) -> list[Phase]:
        """Return the larger of denoising and decoding held-out samples, on a learner; its time is in no iteration."""
        work = self.work
        if work.verified is None or work.shown is None:
            return []
        denoised = self._phase("verification", work.verified.peak, 0.0)
        decoded = replace(self._phase("decoding", work.shown.peak, 0.0), name="verification")
        return [max(denoised, decoded, key=lambda phase: phase.bytes)]

    def _copies(self, *, host: bool) -> dict[str, int]:
        """Return the bytes of the EMA and of all other weight copies, unsharded, on the host or on the device.

        A sharded copy is on the device beside the weights, whatever its schedule says.
        """
        found: dict[str, int] = {}
        for name, schedule in self.planned.copies.items():
            if (schedule.on_host and not self.planned.settings.shards) == host:
                part = "EMA" if name == EMA else "weight copies"
                found[part] = found.get(part, 0) + self.sizes.gradients
        return found

    def _update(self, flops: float) -> Phase:
        """Return the larger of replay and optimizer step, of which only the replay gathers blocks."""
        work = self.work
        if not self.planned.settings.shards:
            return self._phase("update", max(work.replay.peak, work.optimizer.peak), flops)
        gathered = self.sizes.gathered + self.sizes.gathered_gradients
        stepped = _share(work.optimizer.peak, self.planned.learners)
        if stepped > work.replay.peak + gathered:
            return self._phase("update", stepped, flops)
        phase = self._phase("update", work.replay.peak, flops)
        return replace(phase, parts={**phase.parts, "gathered blocks": gathered})

    def _encoding(self) -> list[Phase]:
        """Return the phase in which text encoders are on the device that are not there later.

        Released ones are there before training begins, offloaded ones whenever a new prompt comes.
        """
        settings = self.planned.settings.generator
        if not (settings.release_text_encoders or settings.offload):
            return []
        trains = not settings.release_text_encoders and not self.planned.runners
        phase = self._phase("encoding", 0, 0.0, trains=trains)
        return [replace(phase, parts={**phase.parts, "text encoders": self.sizes.encoders})]

    def _host(self) -> dict[str, int]:
        """Return the bytes in host memory: the rollout, weight copies, offloaded modules and processes of rewards."""
        settings = self.planned.settings.generator
        offloaded = settings.offload and not settings.release_text_encoders
        host = {
            **self._stored(),
            **self._samples(),
            **self._copies(host=True),
            "unsharded transformer, at the start": self.sizes.unsharded if settings.shards else 0,
            "text encoders": self.sizes.encoders if offloaded else 0,
            "VAE": self.sizes.autoencoder if settings.offload else 0,
            "reward processes": PROCESS_BYTES * self.planned.reward_processes,
        }
        return {name: size for name, size in host.items() if size}

    def _samples(self) -> dict[str, int]:
        """Return the bytes of the samples of an iteration, or of the latents of a data set that are cached."""
        planned = self.planned
        if planned.settings.data is None:
            return {"samples": planned.samples * math.prod(self.generator.sample_shape)}
        latents = 4 * math.prod(self.generator.latent_shape) * planned.samples  # float32
        return {"cached latents": min(CACHE_BYTES, latents * planned.settings.run.iterations)}

    def _replays(self) -> float:
        """Return the operations of all replays of an iteration."""
        planned, algorithm, training = self.planned, self.planned.algorithm, self.planned.settings.training
        levels = algorithm.process.count(self.window)
        slices = planned.settings.rollout.group_size // planned.replayed
        jobs = slices * training.passes * planned.forwards * (1 if algorithm.stacked else levels)
        flops: float = jobs * self.work.replay.flops
        if OLD in planned.copies:  # whose means the first optimizer step need not compute if the same weights sampled
            known = 1.0 / (training.num_updates * training.passes) if algorithm.acts == CURRENT else 0.0
            flops += (1.0 - known) * training.passes * levels * planned.forwards * self.work.step.flops
        return flops

    def _stored(self) -> dict[str, int]:
        """Return the bytes that the rollouts of an iteration keep for replay, see `Rollout`."""
        planned, window, steps = self.planned, self.window, self.generator.settings.num_steps
        numbers, algorithm = math.prod(self.generator.latent_shape), planned.algorithm
        moves = sum(algorithm.process.records(step, window, steps) for step in range(steps))
        names = algorithm.process.keeps
        latents = moves * len({*names} & {*KEPT}) * numbers * planned.latents_dtype.itemsize
        kept = {*names} & algorithm.requires
        old = moves * 4 * (numbers * ("old_mean" in kept) + ("old_log_prob" in kept))  # float32
        scored = 1 + window.copies if isinstance(window, Replays) else 0
        return {
            "stored latents": latents * planned.samples,
            "stored means and densities": old * planned.samples,
            "stored gradients of the reward": 4 * scored * numbers * planned.samples,
        }
