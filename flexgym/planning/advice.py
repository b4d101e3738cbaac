"""Find settings that would make a training fit, by planning it again with each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flexgym.core.errors import ConfigError, GeneratorError
from flexgym.core.units import GIB
from flexgym.generators.weights import DEFAULT_RANK
from flexgym.planning.devices import DEVICES
from flexgym.planning.plan import PARTS, Phase, Plan, Planner
from flexgym.planning.planned import Planned

_SMALLEST_RANK = 8
_OF_TRAINING = ("gradients", "optimizer", "EMA", "weight copies", "gathered blocks")
_LEARNERS = (2, 4, 8, 16, 32)
"""Numbers of learners that are tried where sharding the transformer could make a training fit."""


@dataclass(frozen=True)
class Change:
    """One setting of a recipe with another value.

    Attributes:
        overrides: overrides as they are typed behind the command.
        price: disadvantage, in a few words.
        leaves: smallest share of each part of the memory that can remain, by name; other parts stay as they are.
        phase: name of the only phase that changes; None where all change.
    """

    overrides: tuple[str, ...]
    price: str
    leaves: Mapping[str, float]
    phase: str | None = None

    def least(self, phase: Phase) -> dict[str, float]:
        """Return the smallest number of bytes of each part that can remain of a phase."""
        changes = self.phase in (None, phase.name)
        return {part: size * (self.leaves.get(part, 1.0) if changes else 1.0) for part, size in phase.parts.items()}


@dataclass(frozen=True)
class Remedy:
    """Changes that together make a training fit.

    Attributes:
        changes: one or more changes.
        plan: plan with all of them.
    """

    changes: tuple[Change, ...]
    plan: Plan

    def describe(self) -> str:
        """Return overrides, memory, time and price in one line."""
        overrides = " ".join(override for change in self.changes for override in change.overrides)
        prices = ", ".join(dict.fromkeys(change.price for change in self.changes))
        return f"{overrides}: {self.plan.peak.bytes / GIB:.1f} GiB, {self.plan.seconds:.3g} s per iteration ({prices})"


# --- the changes of one setting each, from the mildest to the strongest ----------------------------------------------


def _release(planned: Planned) -> list[Change]:
    settings = planned.settings.generator
    if settings.release_text_encoders:
        return []
    overrides = ["generator.release_text_encoders=true"]
    if not settings.text_cache:  # what exceeds the cache in memory has to be read from somewhere
        overrides.append("generator.text_cache=text_cache")
    return [Change(tuple(overrides), "all prompts are encoded at the start", {"text encoders": 0.0})]


def _offload(planned: Planned) -> list[Change]:
    if planned.settings.generator.offload:
        return []
    price = "text encoders and VAE are moved to the device for each use"
    return [Change(("generator.offload=true",), price, {"text encoders": 0.0, "VAE": 0.0})]


def _tiling(planned: Planned) -> list[Change]:
    if planned.settings.generator.vae_tiling:
        return []
    price = "pixels change slightly where tiles overlap"
    return [Change(("generator.vae_tiling=true",), price, {"activations": 0.0}, "decoding")]


def _checkpointing(planned: Planned) -> list[Change]:
    if planned.settings.generator.gradient_checkpointing:
        return []
    price = "one more forward in each update"
    return [Change(("generator.gradient_checkpointing=true",), price, {"activations": 0.0}, "update")]


def _groups_per_forward(planned: Planned) -> list[Change]:
    now = planned.settings.rollout.groups_per_forward
    return [
        Change((f"rollout.groups_per_forward={size}",), "more and smaller forwards", {"activations": size / now})
        for size in range(now - 1, 0, -1)
        if now % size == 0
    ]


def _rows_per_forward(planned: Planned) -> list[Change]:
    now = planned.verified_rows
    return [
        Change(
            (f"verification.rows_per_forward={size}",),
            "more and smaller forwards in a verification",
            {"activations": size / now},
            "verification",
        )
        for size in _halves(now, 1)
    ]


def _sharding(planned: Planned) -> list[Change]:
    if planned.settings.shards:
        return []
    share = 1 / planned.learners
    parts = ("weights", "adapter", "reference", "optimizer", "weight copies", "activations")
    leaves = dict.fromkeys(parts, share)
    leaves["gradients"] = share / 2  # without the buckets through which unsharded gradients are exchanged
    price = "blocks are sent between learners, and the replay waits for all rewards"
    return [Change(("generator.sharding=fsdp",), price, leaves)]


def _precision(planned: Planned) -> list[Change]:
    settings = planned.settings.generator
    if settings.dtype != "float32":
        return []
    price = "frozen weights lose precision"
    if settings.mode == "full":
        price = "small optimizer steps are lost to rounding"
    return [Change(("generator.dtype=bfloat16",), price, dict.fromkeys(PARTS, 0.0))]


def _adapter(planned: Planned) -> list[Change]:
    if planned.settings.generator.mode == "lora":
        return []
    leaves = dict.fromkeys(("reference", "activations", *_OF_TRAINING), 0.0)
    return [Change(("generator.mode=lora",), "an adapter is trained instead of all weights", leaves)]


def _rank(planned: Planned) -> list[Change]:
    settings = planned.settings.generator
    if settings.mode != "lora" or settings.adapter and settings.adapter_as == "start":
        return []
    now, parts = settings.lora.rank or DEFAULT_RANK, ("adapter", "activations", *_OF_TRAINING)
    return [
        Change((f"generator.lora.rank={rank}",), "a smaller adapter", dict.fromkeys(parts, rank / now))
        for rank in _halves(now, _SMALLEST_RANK)
    ]


def _group_size(planned: Planned) -> list[Change]:
    now = planned.settings.rollout.group_size
    return [
        Change((f"rollout.group_size={size}",), "fewer samples to compare", {"activations": size / now})
        for size in _halves(now, 2)
    ]


def _halves(value: int, smallest: int) -> list[int]:
    """Return a value halved once, twice and so on, down to a smallest one."""
    return [value >> times for times in range(1, value.bit_length()) if value >> times >= smallest]


Ladder = Callable[[Planned], list[Change]]
_LADDERS: tuple[Ladder, ...] = (
    _release,
    _offload,
    _tiling,
    _checkpointing,
    _groups_per_forward,
    _rows_per_forward,
    _sharding,
    _precision,
    _adapter,
    _rank,
    _group_size,
)
"""Settings that save memory; those that do not affect training come first."""


def rungs(ladder: Ladder, planned: Planned) -> list[Change]:
    """Return the changes of a setting that a training would accept, from the mildest to the strongest."""
    return [change for change in ladder(planned) if _changed(planned, change)]


# --- search ----------------------------------------------------------------------------------------------------------


def advise(planner: Planner, plan: Plan) -> list[Remedy]:
    """Find what makes a training fit: each setting that does so alone, with its mildest value; else several together.

    Args:
        planner: planner that made the plan.
        plan: plan that does not fit.

    Returns:
        The remedies, best first; none when all changes together are not enough.
    """
    ladders = [found for ladder in _LADDERS if (found := rungs(ladder, plan.planned))]
    alone = [remedy for ladder in ladders if (remedy := mildest(planner, plan, ladder))]
    if alone:
        return alone
    strongest = [ladder[-1] for ladder in ladders]
    together = _together(planner, plan) if _can_fit(plan, *strongest) else None
    return [together] if together and together.plan.fits else []


def mildest(planner: Planner, plan: Plan, changes: Sequence[Change]) -> Remedy | None:
    """Return the first change that is enough alone, found by bisection; None where none is.

    Args:
        planner: planner that made the plan.
        plan: plan that does not fit.
        changes: changes of one setting, from the mildest to the strongest. Those that cannot be enough are not planned.
    """
    possible = [change for change in changes if _can_fit(plan, change)]
    best, low, high = None, 0, len(possible) - 1
    at = low  # the bound is nearly reached, so that the first is mostly enough
    while low <= high:
        found = _planned(planner, plan, possible[at])
        if found and found.fits:
            best, high = Remedy((possible[at],), found), at - 1
        elif best is None and at == len(possible) - 1:
            return None
        else:
            low = at + 1
        at = (low + high) // 2 if best else high
    return best


def _can_fit(plan: Plan, *changes: Change) -> bool:
    """Return whether changes leave little enough, if each leaves no more than its smallest shares.

    Everything that is alive at the peak of the activations either grows with the rows or stays, so fewer rows leave at
    least their share of it.
    """
    return all(_least(phase, changes) <= plan.device.usable for phase in plan.phases)


def _least(phase: Phase, changes: Sequence[Change]) -> float:
    """Return the smallest number of bytes that changes together can leave of a phase."""
    parts = [change.least(phase) for change in changes]
    return sum(math.prod(each[name] / size for each in parts) * size for name, size in phase.parts.items() if size)


def _together(planner: Planner, plan: Plan) -> Remedy:
    """Apply the strongest helpful change of each setting in turn, until the training fits."""
    remedy = Remedy((), plan)
    for ladder in _LADDERS:
        changes = rungs(ladder, remedy.plan.planned)
        peak = remedy.plan.peak
        helps = bool(changes) and sum(changes[-1].least(peak).values()) < peak.bytes
        found = _planned(planner, remedy.plan, changes[-1]) if helps else None
        if found and found.peak.bytes < remedy.plan.peak.bytes:
            remedy = Remedy((*remedy.changes, changes[-1]), found)
        if remedy.plan.fits:
            break
    return remedy


def _changed(planned: Planned, change: Change) -> Planned | None:
    """Return the training with a change; None where its settings do not work together."""
    try:
        return planned.changed(*change.overrides)
    except ConfigError:
        return None


def _planned(planner: Planner, plan: Plan, change: Change) -> Plan | None:
    """Return the plan with a change; None where the generator does not support it."""
    changed = _changed(plan.planned, change)
    try:
        return planner.plan(changed) if changed else None
    except GeneratorError:
        return None


def fewest_learners(planner: Planner, plan: Plan) -> Plan | None:
    """Return the plan with the transformer sharded over as few more learners as make it fit; None where none do.

    Args:
        planner: planner that made the plan.
        plan: plan that does not fit.
    """
    for learners in _LEARNERS:
        overrides = ("generator.sharding=fsdp", f"resources.num_learners={learners}")
        changed = _changed(plan.planned, Change(overrides, price="more devices", leaves={}))
        if changed and learners > plan.planned.learners:
            found = planner.plan(changed)
            if found.fits:
                return found
    return None


def refusal(planner: Planner, plan: Plan) -> ConfigError:
    """Make the error that says by how much a training does not fit, and what would help.

    Args:
        planner: planner that made the plan.
        plan: plan that does not fit.
    """
    device, peak = plan.device, plan.peak
    largest = sorted(PARTS, key=lambda part: -peak.parts[part])[:3]
    parts = ", ".join(f"{part} {peak.parts[part] / GIB:.1f}" for part in largest)
    lines = [
        f"expected a training that fits into the {device.usable / GIB:.1f} GiB of {device.name} (of"
        f" {device.gib:g} GiB, {device.reserve:.0%} stay free), got one whose {peak.name} needs"
        f" {peak.bytes / GIB:.1f} GiB; its largest parts are {parts}."
    ]
    remedies = advise(planner, plan)
    if remedies:
        lines += ["According to new plans, it fits with", *(f"  {remedy.describe()}" for remedy in remedies)]
    else:
        lines.append("No setting makes it fit, nor do all of them together.")
    if sharded := fewest_learners(planner, plan):
        learners = sharded.planned.learners
        lines.append(
            f"Sharded over {learners} learners, each on such a device, it fits with generator.sharding=fsdp"
            f" resources.num_learners={learners}: {sharded.peak.bytes / GIB:.1f} GiB."
        )
    larger = [name for name, other in DEVICES.items() if other.usable >= peak.bytes]
    if larger:
        lines.append(f"Unchanged, it fits on {', '.join(larger)} (--device).")
    return ConfigError("\n".join(lines))
