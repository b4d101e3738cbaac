"""Settings of earlier recipes under their present names, and options of RLlib that nothing reads here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flexgym.core.problems import Problem, dotted, unknown_setting

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
    "training.kl_coeff": "algorithm.penalties.reference.coeff",
    "algorithm.kl_coeff": "algorithm.penalties.reference.coeff",
    "algorithm.kl_form": "algorithm.penalties.reference.form",
    "training.grad_clip_by": "rllib.grad_clip_by",
    "framework.torch_ddp_kwargs": "rllib.torch_ddp_kwargs",
}
"""Dotted names, old to new."""
_ELSEWHERE = {
    "training.trainer.bf16": "judge.compute_dtype",
    "training.trainer.fp16": "judge.compute_dtype",
    "training.trainer.gradient_accumulation_steps": "training.batch_size",
    "training.trainer.gradient_checkpointing": "training.gradient_checkpointing",
    "training.trainer.learning_rate": "training.lr",
    "training.trainer.max_grad_norm": "training.grad_clip",
    "training.trainer.max_length": "data.max_length",
    "training.trainer.max_steps": "run.iterations",
    "training.trainer.num_train_epochs": "run.iterations",
    "training.trainer.output_dir": "run.root",
    "training.trainer.per_device_train_batch_size": "training.micro_batch_size",
    "training.trainer.seed": "run.seed",
    "training.trainer.weight_decay": "training.weight_decay",
}
"""Options of TRL, and the settings that determine them."""
_MOVED_VALUES = {("rollout.noise", "matching"): "algorithm.name=matching"}
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
    if isinstance(value, str) and (name, value) in _MOVED_VALUES:
        yield Problem(problem.path, f"{value} is now {_MOVED_VALUES[name, value]}", unknown=True)
        return
    if (name in _MOVED_SECTIONS or name in RLLIB_SECTIONS) and isinstance(value, Mapping) and value:
        for key in value:
            yield _explained(problem.under(), (*problem.path, key), known)
        return
    yield _explained(problem, problem.path, known)


def _explained(problem: Problem, path: tuple[str | int, ...], known: Collection[str]) -> Problem:
    name, key, section = dotted(path), str(path[-1]), dotted(path[:-1])
    homes = _MOVED_SECTIONS.get(section, ())
    candidates = [MOVED[name]] if name in MOVED else [f"{home}.{key}" for home in homes]
    new = next((home for home in candidates if _exists(home, known)), None)
    if new is not None:
        return Problem(path, f"is now {new}", unknown=True)
    if name in _ELSEWHERE and _ELSEWHERE[name] in known:
        return Problem(path, f"is determined by {_ELSEWHERE[name]}", unknown=True)
    if (path[0] in RLLIB_SECTIONS or (section == "training" and key in RLLIB_TRAINING)) and "rllib" in known:
        options = ", ".join(_keys("rllib", known))
        message = f"has no effect here. The options of RLlib that have one are in section rllib: {options}."
        return Problem(path, message, unknown=True)
    if homes:
        message = unknown_setting(key, (), elsewhere=[full for home in homes for full in _names_in(home, known)])
        return Problem(path, f"{message} The settings of {section} are now in {' and '.join(homes)}.", unknown=True)
    return Problem(path, problem.message, unknown=True)


def _exists(name: str, known: Collection[str]) -> bool:
    """Return whether a setting exists, where a mapping with free names may hold it."""
    return name in known or any(name.startswith(f"{each}.") and not _names_in(each, known) for each in known)


def _names_in(section: str, known: Collection[str]) -> list[str]:
    return [name for name in known if name.startswith(f"{section}.")]


def _keys(section: str, known: Collection[str]) -> list[str]:
    return sorted(name.removeprefix(f"{section}.") for name in _names_in(section, known))
