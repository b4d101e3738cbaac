"""FlexGym: reinforcement learning for image and video generators.

Importing this package registers the environments with Gymnasium and loads nothing heavy: each public name is imported
when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flexgym.core.launchers import explain_hidden_launcher
from flexgym.environment import register_environments

if TYPE_CHECKING:
    from flexgym.algorithm.policy import FlowPolicy
    from flexgym.core.errors import FlexGymError
    from flexgym.environment import environment_modality
    from flexgym.generators import FlowGenerator, load_generator
    from flexgym.types import FirstFrame, GroupScores, Prompt, SampleGroup

__all__ = [
    "FirstFrame",
    "FlexGymError",
    "FlowGenerator",
    "FlowPolicy",
    "GroupScores",
    "Prompt",
    "SampleGroup",
    "environment_modality",
    "load_generator",
]

_MODULES = {
    "FirstFrame": "flexgym.types",
    "FlexGymError": "flexgym.core.errors",
    "FlowGenerator": "flexgym.generators",
    "FlowPolicy": "flexgym.algorithm.policy",
    "GroupScores": "flexgym.types",
    "Prompt": "flexgym.types",
    "SampleGroup": "flexgym.types",
    "environment_modality": "flexgym.environment",
    "load_generator": "flexgym.generators",
}
"""Module of each public name."""

register_environments()
explain_hidden_launcher()


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # type checkers see the imports above, so they find misspelled names

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            from flexgym.core.errors import nearest_name

            raise AttributeError(f"module {__name__!r} has no attribute {name!r}. {nearest_name(name, __all__)}")
        return getattr(importlib.import_module(_MODULES[name]), name)
