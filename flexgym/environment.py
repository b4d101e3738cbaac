"""Environments by their Gymnasium id: registration of FlexGym's own, and the modality of any."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.modules import import_named

ENVIRONMENTS = {
    "FlexT2I-v0": ("flexgym.envs.t2i:FlexT2I", "flexgym.envs.t2i:FlexT2IVector"),
    "FlexT2V-v0": ("flexgym.envs.t2v:FlexT2V", "flexgym.envs.t2v:FlexT2VVector"),
    "FlexT2IControl-v0": ("flexgym.envs.t2i:FlexT2IControl", "flexgym.envs.t2i:FlexT2IControlVector"),
    "FlexT2VControl-v0": ("flexgym.envs.t2v:FlexT2VControl", "flexgym.envs.t2v:FlexT2VControlVector"),
}
"""Classes of the single and of the vector environment by id."""
MODALITIES = ("image", "video")


def register_environments() -> None:
    """Register FlexGym's environments with Gymnasium; their modules are imported when one is made."""
    for name, (single, vector) in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=single, vector_entry_point=vector)


def environment_modality(env: str) -> str:
    """Return whether an environment makes images or videos, without making the environment or loading weights.

    Args:
        env: a registered id; ``"mymodule:MyEnv-v0"`` imports a module that registers it first.

    Returns:
        ``"image"`` or ``"video"``: the attribute ``modality`` of the environment's class.

    Raises:
        UnknownNameError: for an id that is not registered; the message names the nearest one.
        ConfigError: if the module cannot be imported, or the class has no such attribute.
    """
    creator = environment_creator(env)
    modality = getattr(creator, "modality", None)
    if modality not in MODALITIES:
        raise ConfigError(
            f"environment {env!r}: expected the class attribute modality = 'image' or modality = 'video' on"
            f" {creator!r}, got {modality!r}. Set it, or derive the class from flexgym.envs.t2i.FlexT2I or"
            " flexgym.envs.t2v.FlexT2V"
        )
    return str(modality)


def environment_creator(env: str) -> Any:
    """Return the class or function that makes an environment, or its vector environment where there is no other.

    Args:
        env: a registered id; ``"mymodule:MyEnv-v0"`` imports a module that registers it first.

    Raises:
        UnknownNameError: for an id that is not registered; the message names the nearest one.
        ConfigError: if the module cannot be imported.
    """
    name = _registered_name(env)
    spec = gymnasium.registry[name]
    return _creator(name, spec.entry_point if spec.entry_point is not None else spec.vector_entry_point)


def _registered_name(env: str) -> str:
    module, _, name = env.rpartition(":")
    if module:
        _import(env, module)
    if name not in gymnasium.registry:
        raise unknown_name("environment", name, [known for known in gymnasium.registry if not _is_gymnasiums(known)])
    return name


def _is_gymnasiums(name: str) -> bool:
    """Return True for an environment that Gymnasium registers itself."""
    entry_point = gymnasium.registry[name].entry_point
    module = entry_point if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")
    return module.startswith(("gymnasium.", "shimmy."))


def _creator(name: str, entry_point: Any) -> Any:
    if not isinstance(entry_point, str):
        return entry_point
    _import(name, entry_point.partition(":")[0])
    return load_env_creator(entry_point)


def _import(env: str, module: str) -> None:
    try:
        import_named(module)
    except ImportError as error:
        raise ConfigError(f"environment {env!r}: the module {module!r} cannot be imported ({error})") from error
