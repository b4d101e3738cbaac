"""Find rewards by name; the module of a reward is imported when it is asked for."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Mapping
from typing import Any

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.modules import import_named
from flexgym.reward import Reward
from flexgym.reward import check as check_settings
from flexgym.reward.building import build
from flexgym.reward.names import name_key, registered

SHIPPED = {
    "Aesthetic": "aesthetic",
    "CLIPScore": "clip_score",
    "Diversity": "diversity",
    "DynamicDegree": "dynamic_degree",
    "HPSv2": "hpsv2",
    "ImageReward": "image_reward",
    "JPEGCompressibility": "jpeg_compressibility",
    "MP4Compressibility": "mp4_compressibility",
    "OCR": "ocr",
    "PickScore": "pick_score",
    "Remote": "remote",
    "Rubric": "rubric",
    "ShapesMatch": "shapes_match",
    "ShapesOracle": "shapes_oracle",
    "ShapesVerifier": "shapes_verifier",
    "TemporalConsistency": "temporal_consistency",
    "UnifiedReward": "unified_reward",
    "UnifiedRewardFlex": "unified_reward_flex",
    "UnifiedRewardPair": "unified_reward_pair",
    "UnifiedRewardThink": "unified_reward_think",
    "VQAScore": "vqa_score",
}
"""Module of each reward of this package by class name. After a change, ``python -m tools.stubs`` updates the types."""


def names() -> list[str]:
    """Return the class names of all rewards of this package and of those registered elsewhere, sorted."""
    return sorted({*SHIPPED, *(cls.__name__ for cls in registered().values())})


def is_shipped(cls: type[Reward]) -> bool:
    """Return True for a reward of this package."""
    return cls.__module__ == f"{__package__}.{SHIPPED.get(cls.__name__)}"


def make(reward: str | type[Reward], **settings: Any) -> Reward:
    """Build a reward without an environment around it.

    Args:
        reward: name, path or class, see `reward_class`.
        **settings: keyword arguments of the reward, and those of every reward, see `flexgym.reward.build`.

    Raises:
        UnknownNameError: for an unknown reward or setting; the message names the nearest one.
        ConfigError: for a setting that cannot work.
    """
    return build(reward_class(reward), settings)


def check(reward: str | type[Reward], settings: Mapping[str, Any]) -> None:
    """Validate the settings of a reward without building it: names, types, ranges, and nested settings.

    Args:
        reward: name, path or class, see `reward_class`.
        settings: keyword arguments as for `make`.

    Raises:
        UnknownNameError: for an unknown reward or setting; the message names the nearest one.
        ConfigError: for a setting that cannot work.
    """
    check_settings(reward_class(reward), settings)


def reward_class(reward: str | type[Reward]) -> type[Reward]:
    """Return the class of a reward, imported if need be.

    Args:
        reward: a class name in `names` (``"CLIPScore"``, or ``"clip_score"``); the path of a class that is a `Reward`,
            ``"mymodule:MyReward"`` or ``"package.mymodule.MyReward"``; or the class. Every process that scores imports
            the module of a path; agents look for it in the folders in which the process that started training does.

    Raises:
        UnknownNameError: if no reward has the name; the message names the nearest one.
        ConfigError: if the module cannot be imported, or holds no reward of that name.
    """
    if isinstance(reward, type) and issubclass(reward, Reward):
        return reward
    if not isinstance(reward, str):
        raise ConfigError(
            f"reward: expected a name, path or class, such as 'CLIPScore' or 'mymodule:MyReward', got {reward!r}"
        )
    if ":" in reward or "." in reward:
        return _class_at(reward)
    key = name_key(reward)
    if key in registered():
        return registered()[key]
    shipped = next((name for name in SHIPPED if name_key(name) == key), None)
    if shipped is None:
        raise unknown_name("reward", reward, names(), key=name_key)
    module = importlib.import_module(f"{__package__}.{SHIPPED[shipped]}")
    found: type[Reward] = getattr(module, shipped)
    return found


def _class_at(path: str) -> type[Reward]:
    """Return the class at a path such as ``"package.module:Class"``."""
    module_name, _, class_name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        module = import_named(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"reward {path!r}: the module {module_name!r} cannot be imported ({error}). Expected the path of a class,"
            f" such as 'mymodule:MyReward', or one of {', '.join(names())}"
        ) from error
    try:
        found = operator.attrgetter(class_name)(module)
    except AttributeError:
        known = [name for name, value in vars(module).items() if _is_reward_of(value, module_name)]
        if known:
            raise unknown_name(f"reward of {module_name}", class_name, known) from None
        found = None
    if not (isinstance(found, type) and issubclass(found, Reward)):
        raise ConfigError(f"reward {path!r}: expected a class derived from rewards.Reward, got {found!r}")
    return found


def _is_reward_of(value: Any, module_name: str) -> bool:
    return isinstance(value, type) and issubclass(value, Reward) and value.__module__ == module_name
