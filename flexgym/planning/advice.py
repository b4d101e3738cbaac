"""Find the settings with which a training run would fit, by planning it again with each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from flexgym.core.errors import ConfigError, GeneratorError
from flexgym.planning.devices import DEVICES, GIB
from flexgym.planning.plan import PARTS, Phase, Plan, Planner
from flexgym.planning.settings import PlanSettings

_SMALLEST_RANK = 8
_OF_TRAINING = ("gradients", "optimizer", "EMA", "gathered blocks")
_LEARNERS = (2, 4, 8, 16, 32)
"""Numbers of learners that are tried for a sharded transformer."""


@dataclass(frozen=True)
class Change:
    """Change of one setting of a recipe.

    Attributes:
        override: the change as an argument of the command.
        price: description of its cost.
        values: fields of `PlanSettings` that it sets.
        leaves: smallest share of each part that can remain, by name; parts without a name do not change.
        phase: the only phase that it changes; None if it changes all.
    """

    override: str
    price: str
    values: Mapping[str, Any]
    leaves: Mapping[str, float]
    phase: str | None = None

    def least(self, phase: Phase) -> dict[str, float]:
        """Return the smallest number of bytes of each part of a phase that can remain."""
        changes = self.phase in (None, phase.name)
        return {part: size * (self.leaves.get(part, 1.0) if changes else 1.0) for part, size in phase.parts.items()}


@dataclass(frozen=True)
class Remedy:
    """Changes that together make a training run fit.

    Attributes:
        changes: one or more changes.
        plan: plan with all of them.
    """

    changes: tuple[Change, ...]
    plan: Plan

    def describe(self) -> str:
        """Format overrides, memory, time and price in one line."""
        overrides = " ".join(change.override for change in self.changes)
        prices = ", ".join(dict.fromkeys(change.price for change in self.changes))
        return f"{overrides}: {self.plan.peak.bytes / GIB:.1f} GiB, {self.plan.seconds:.3g} s an iteration ({prices})"


def _release(settings: PlanSettings) -> list[Change]:
    if settings.release_text_encoders:
        return []
    name, price = "release_text_encoders", "all prompts are encoded at the start"
    override, values = f"generator.{name}=true", {name: True}
    if not settings.text_cache:  # prompts that do not fit the cache in memory are read from the disk
        override, values = f"{override} generator.text_cache=text_cache", {**values, "text_cache": True}
    return [Change(override, price, values, {"text encoders": 0.0})]


def _offload(settings: PlanSettings) -> list[Change]:
    if settings.offload:
        return []
    price = "text encoders and autoencoder are moved when they are used"
    return [Change("generator.offload=true", price, {"offload": True}, {"text encoders": 0.0, "VAE": 0.0})]


def _tiling(settings: PlanSettings) -> list[Change]:
    if settings.vae_tiling:
        return []
    price = "pixels change a little where tiles overlap"
    return [Change("generator.vae_tiling=true", price, {"vae_tiling": True}, {"activations": 0.0}, "decoding")]


def _checkpointing(settings: PlanSettings) -> list[Change]:
    if settings.gradient_checkpointing:
        return []
    name, price = "gradient_checkpointing", "one more forward in each update"
    return [Change(f"generator.{name}=true", price, {name: True}, {"activations": 0.0}, "update")]


def _groups_per_forward(settings: PlanSettings) -> list[Change]:
    now = settings.groups_per_forward
    sizes = [size for size in range(now - 1, 0, -1) if now % size == 0]
    name, price = "groups_per_forward", "smaller forwards, more of them"
    return [Change(f"rollout.{name}={size}", price, {name: size}, {"activations": size / now}) for size in sizes]


def _sharding(settings: PlanSettings) -> list[Change]:
    if settings.shards or settings.learners < 2 or not _can_be_sharded(settings):
        return []
    share = 1 / settings.learners
    leaves = dict.fromkeys(("weights", "adapter", "reference", "optimizer", "activations"), share)
    leaves["gradients"] = share / 2  # without the buckets through which unsharded gradients are exchanged
    price = "blocks are sent between learners, replay waits for all rewards"
    return [Change("generator.sharding=fsdp", price, {"shards": True}, leaves)]


def _can_be_sharded(settings: PlanSettings) -> bool:
    """Return True if the settings allow sharding, apart from the number of learners."""
    return not settings.runners and settings.dtype != torch.float16


def _precision(settings: PlanSettings) -> list[Change]:
    if settings.dtype != torch.float32:
        return []
    price = "half the digits of the frozen weights"
    if settings.mode == "full":
        price = "small steps of the optimizer are lost to rounding in bfloat16"
    return [Change("generator.settings.dtype=bfloat16", price, {"dtype": torch.bfloat16}, dict.fromkeys(PARTS, 0.0))]


def _adapter(settings: PlanSettings) -> list[Change]:
    if settings.mode == "lora":
        return []
    leaves = dict.fromkeys(("reference", "activations", *_OF_TRAINING), 0.0)
    return [Change("generator.mode=lora", "an adapter is trained instead of all weights", {"mode": "lora"}, leaves)]


def _rank(settings: PlanSettings) -> list[Change]:
    if settings.mode != "lora":
        return []
    now = int(settings.lora.get("rank", 32))
    return [
        Change(
            f"generator.lora.rank={rank}",
            "a smaller adapter",
            {"lora": {**settings.lora, "rank": rank}},
            dict.fromkeys(("adapter", "activations", *_OF_TRAINING), rank / now),
        )
        for rank in _halves(now, _SMALLEST_RANK)
    ]


def _group_size(settings: PlanSettings) -> list[Change]:
    name, price, now = "group_size", "fewer samples to compare", settings.group_size
    return [
        Change(f"rollout.{name}={size}", price, {name: size}, {"activations": size / now}) for size in _halves(now, 2)
    ]


def _halves(value: int, smallest: int) -> list[int]:
    """Return the value halved once, twice and so on."""
    return [value >> times for times in range(1, value.bit_length()) if value >> times >= smallest]


_LADDERS: tuple[Callable[[PlanSettings], list[Change]], ...] = (
    _release,
    _offload,
    _tiling,
    _checkpointing,
    _groups_per_forward,
    _sharding,
    _precision,
    _adapter,
    _rank,
    _group_size,
)
"""Changes of one setting each, from the mildest to the strongest; those that do not affect learning come first."""


def advise(planner: Planner, plan: Plan) -> list[Remedy]:
    """Find remedies for a training run that does not fit: single settings if any suffices, otherwise a combination.

    Args:
        planner: planner of the plan.
        plan: plan that does not fit.

    Returns:
        The remedies, best first, each with the mildest value; empty if all of them together are not enough.
    """
    alone = [remedy for ladder in _LADDERS if (remedy := _mildest(planner, plan, ladder(plan.settings)))]
    if alone:
        return alone
    strongest = [rungs[-1] for ladder in _LADDERS if (rungs := ladder(plan.settings))]
    together = _together(planner, plan) if _can_fit(plan, *strongest) else None
    return [together] if together and together.plan.fits else []


def _mildest(planner: Planner, plan: Plan, rungs: list[Change]) -> Remedy | None:
    """Find the first sufficient change by bisection, without changes that cannot suffice."""
    possible = [rung for rung in rungs if _can_fit(plan, rung)]
    best, low, high = None, 0, len(possible) - 1
    at = low  # the bound is tight, so the first is mostly sufficient
    while low <= high:
        found = _changed(planner, plan, possible[at])
        if found and found.fits:
            best, high = Remedy((possible[at],), found), at - 1
        elif best is None and at == len(possible) - 1:
            return None
        else:
            low = at + 1
        at = (low + high) // 2 if best else high
    return best


def _can_fit(plan: Plan, *changes: Change) -> bool:
    """Return False if the changes cannot suffice even where each leaves the smallest share that it can.

    All tensors alive at the peak of the activations either grow with the number of rows or are constant, so fewer rows
    leave at least their share of it.
    """
    return all(_least(phase, changes) <= plan.device.usable for phase in plan.phases)


def _least(phase: Phase, changes: Sequence[Change]) -> float:
    """Return the smallest number of bytes of a phase that can remain after all changes."""
    parts = [change.least(phase) for change in changes]
    return sum(math.prod(each[name] / size for each in parts) * size for name, size in phase.parts.items() if size)


def _together(planner: Planner, plan: Plan) -> Remedy:
    """Apply the strongest helpful change of each setting until they suffice."""
    remedy = Remedy((), plan)
    for ladder in _LADDERS:
        rungs = ladder(remedy.plan.settings)
        peak = remedy.plan.peak
        helps = bool(rungs) and sum(rungs[-1].least(peak).values()) < peak.bytes
        found = _changed(planner, remedy.plan, rungs[-1]) if helps else None
        if found and found.peak.bytes < remedy.plan.peak.bytes:
            remedy = Remedy((*remedy.changes, rungs[-1]), found)
        if remedy.plan.fits:
            break
    return remedy


def _changed(planner: Planner, plan: Plan, change: Change) -> Plan | None:
    """Return the plan with a change; None if the generator does not support it."""
    try:
        return planner.plan(replace(plan.settings, **change.values))
    except GeneratorError:
        return None


def fewest_learners(planner: Planner, plan: Plan) -> Plan | None:
    """Return the plan with the smallest number of learners over which a sharded run fits; None if there is none.

    Args:
        planner: planner of the plan.
        plan: plan that does not fit.
    """
    settings = plan.settings
    if not _can_be_sharded(settings):
        return None
    least = settings.updates * settings.groups_per_forward  # groups per learner
    for learners in _LEARNERS:
        if learners > settings.learners and settings.groups % (learners * least) == 0:
            found = planner.plan(replace(settings, shards=True, learners=learners))
            if found.fits:
                return found
    return None


def does_not_fit(planner: Planner, plan: Plan) -> ConfigError:
    """Build the error that reports by how much a training run does not fit, and settings with which it would.

    Args:
        planner: planner of the plan.
        plan: plan that does not fit.
    """
    device, peak = plan.device, plan.peak
    largest = sorted(PARTS, key=lambda part: -peak.parts[part])[:3]
    parts = ", ".join(f"{part} {peak.parts[part] / GIB:.1f}" for part in largest)
    lines = [
        f"expected a training run that fits into the {device.usable / GIB:.1f} GiB of {device.name} (of"
        f" {device.gib:g} GiB, {device.reserve:.0%} are reserved), got one whose {peak.name} needs"
        f" {peak.bytes / GIB:.1f} GiB; the largest parts are {parts}."
    ]
    remedies = advise(planner, plan)
    if remedies:
        lines += ["It would fit with one of", *(f"  {remedy.describe()}" for remedy in remedies)]
    else:
        lines.append("No setting makes it fit, and neither do all of them together.")
    if sharded := fewest_learners(planner, plan):
        lines.append(
            f"Sharded over {sharded.settings.learners} learners, each on such a device, it fits with"
            f" generator.sharding=fsdp learners.num_learners={sharded.settings.learners}:"
            f" {sharded.peak.bytes / GIB:.1f} GiB."
        )
    larger = [name for name, other in DEVICES.items() if other.usable >= peak.bytes]
    if larger:
        lines.append(f"Unchanged, it fits on {', '.join(larger)} (--device).")
    return ConfigError("\n".join(lines))
