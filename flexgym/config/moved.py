"""Settings of earlier recipes under their present names, and options of RLlib that nothing reads here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flexgym.core.problems import Problem, dotted

MOVED = {
    "debugging.seed": "run.seed",
    "training.seed": "run.seed",
    "environment.env_config": "environment.settings",
    "generator.settings.dtype": "generator.dtype",
    "generator.settings.channels_last": "generator.channels_last",
    "rollout.noise": "algorithm.noise",
    "rollout.eta": "algorithm.eta",
    "rollout.window": "algorithm.window",
    "training.clip_range": "algorithm.clip_range",
    "training.kl_coeff": "algorithm.kl_coeff",
    "training.grad_clip_by": "rllib.grad_clip_by",
    "framework.torch_ddp_kwargs": "rllib.torch_ddp_kwargs",
}
"""Dotted names, old to new."""
_MOVED_SECTIONS = {
    "generator.settings": ("generator.sampling",),
    "learners": ("resources", "rllib"),
    "env_runners": ("resources", "rllib"),
    "fault_tolerance": ("rllib",),
}
"""Sections whose keys kept their names, and where these are now."""
RLLIB_SECTIONS = frozenset(
    {
        "api_stack",
        "callbacks",
        "checkpointing",
        "debugging",
        "env_runners",
        "evaluation",
        "experimental",
        "fault_tolerance",
        "framework",
        "learners",
        "multi_agent",
        "offline_data",
        "python_environment",
        "reporting",
        "rl_module",
    }
)
"""Sections of RLlib's configs that are not FlexGym's."""
RLLIB_TRAINING = frozenset(
    {
        "gamma",
        "learner_class",
        "learner_connector",
        "minibatch_size",
        "model",
        "num_epochs",
        "optimizer",
        "shuffle_batch_per_epoch",
        "train_batch_size",
        "train_batch_size_per_learner",
    }
)
"""Options of RLlib's section ``training`` that nothing reads here."""


def explained(problem: Problem, value: Any, *, known: Collection[str]) -> Iterator[Problem]:
    """Yield what became of an unknown setting; the problem itself where it never was one.

    Args:
        problem: of a setting that does not exist.
        value: that was given. Of a mapping that held settings of their own, each is explained.
        known: dotted names of all present settings.
    """
    name = dotted(problem.path)
    if (name in _MOVED_SECTIONS or name in RLLIB_SECTIONS) and isinstance(value, Mapping) and value:
        for key in value:
            yield _explained(problem.under(), (*problem.path, key), known)
        return
    yield _explained(problem, problem.path, known)


def _explained(problem: Problem, path: tuple[str | int, ...], known: Collection[str]) -> Problem:
    name, key = dotted(path), path[-1]
    section = dotted(path[:-1])
    homes = [MOVED[name]] if name in MOVED else [f"{home}.{key}" for home in _MOVED_SECTIONS.get(section, ())]
    new = next((home for home in homes if home in known), None)
    if new is not None:
        return Problem(path, f"is now {new}", unknown=True)
    if (path[0] in RLLIB_SECTIONS or (section == "training" and key in RLLIB_TRAINING)) and "rllib" in known:
        options = sorted(option.partition(".")[2] for option in known if option.startswith("rllib."))
        message = f"has no effect here. The options of RLlib that have one are in section rllib: {', '.join(options)}."
        return Problem(path, message, unknown=True)
    return Problem(path, problem.message, unknown=True)
