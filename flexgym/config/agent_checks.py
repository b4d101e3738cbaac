"""Combinations of settings that cannot work, each of which is valid on its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flexgym.config.generator import GeneratorSettings
from flexgym.core.problems import Problem

if TYPE_CHECKING:
    from flexgym.config.agent import AgentSettings

_EMBEDDED = Path(__file__).parents[1] / "shapes" / "checkpoints" / "t2i"


def agent_problems(settings: AgentSettings) -> Iterator[Problem]:
    """Yield what cannot work together in the settings of an agent."""
    yield from _precision_problems(settings)
    yield from _sharding_problems(settings)
    yield from _division_problems(settings)
    num_steps = known_num_steps(settings.generator)
    if num_steps is not None and (message := settings.algorithm.window.misfit(num_steps)):
        yield Problem(("algorithm", "window"), message)
    for section, entries in (("reward", settings.reward.monitors), ("verification", settings.verification.rewards)):
        titles = [entry.title for entry in entries]
        if len(set(titles)) < len(titles):
            key = "monitors" if section == "reward" else "rewards"
            yield Problem((section, key), f"expected a name of its own for each reward, got {titles}")


def known_num_steps(generator: GeneratorSettings) -> int | None:
    """Return the denoising steps of a generator from its settings or local files; None where neither has them."""
    if generator.sampling.num_steps is not None:
        return generator.sampling.num_steps
    folder = _EMBEDDED if generator.source is None else Path(generator.source).expanduser()
    try:
        steps = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("num_steps")
    except (OSError, ValueError, AttributeError):
        return None  # a hub id, or a folder that loading the generator will reject
    return steps if isinstance(steps, int) else None


def _precision_problems(settings: AgentSettings) -> Iterator[Problem]:
    if settings.is_half and settings.generator.mode == "full":
        yield Problem(
            ("generator", "dtype"),
            "expected bfloat16 or float32 with generator.mode=full, got float16, where optimizer steps are lost"
            " and gradients cannot be scaled back; or train an adapter, which is float32, with generator.mode=lora",
        )


def _sharding_problems(settings: AgentSettings) -> Iterator[Problem]:
    if not settings.shards:
        return
    resources = settings.resources
    if resources.num_learners < 2:
        yield Problem(
            ("resources", "num_learners"),
            "generator.sharding=fsdp shards the transformer over learners: expected num_learners of at least 2, got"
            f" {resources.num_learners}; generator.sharding=none leaves it unsharded",
        )
    if resources.num_env_runners:
        yield Problem(
            ("resources", "num_env_runners"),
            "generator.sharding=fsdp: an env runner would hold the unsharded transformer, so the learners sample;"
            f" expected num_env_runners=0, got {resources.num_env_runners}",
        )
    if settings.is_half:
        yield Problem(
            ("generator", "dtype"),
            "generator.sharding=fsdp: expected bfloat16 or float32, got float16, where an overflow on one learner would"
            " have to stop all of them; bfloat16 needs no loss scale",
        )


def _division_problems(settings: AgentSettings) -> Iterator[Problem]:
    """Yield the first number that the groups of an iteration do not divide into."""
    rollout, learners, updates = settings.rollout, settings.num_shards, settings.training.num_updates
    groups, per_forward = rollout.prompts_per_iteration, rollout.groups_per_forward
    divisors = {
        "the learners (resources.num_learners)": learners,
        "learners times training.num_updates": learners * updates,
        "learners times training.num_updates times rollout.groups_per_forward": learners * updates * per_forward,
        "the env runners times rollout.groups_per_forward": settings.resources.num_env_runners * per_forward,
    }
    for what, count in divisors.items():
        if count and groups % count:
            nearest = max(count, groups - groups % count)
            yield Problem(
                ("rollout", "prompts_per_iteration"),
                f"expected a multiple of {what}, {count}, so that groups stay together; got {groups}, the nearest is"
                f" {nearest}",
            )
            return
