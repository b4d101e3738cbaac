"""FlexGym: a reinforcement-learning environment toolkit for visual generation.

Importing this package registers the environments with Gymnasium and loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from flexgym.policy import FlowPolicy

__all__ = ["FlowPolicy"]

_ENVIRONMENTS = {
    "FlexT2I-v0": ("envs.t2i:FlexT2I", "envs.t2i:FlexT2IVector"),
    "FlexT2V-v0": ("envs.t2v:FlexT2V", "envs.t2v:FlexT2VVector"),
    "FlexT2IControl-v0": ("envs.t2i:FlexT2IControl", "envs.t2i:FlexT2IControlVector"),
    "FlexT2VControl-v0": ("envs.t2v:FlexT2VControl", "envs.t2v:FlexT2VControlVector"),
}

for _name, (_single, _vector) in _ENVIRONMENTS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(_name, entry_point=_single, vector_entry_point=_vector)


def __getattr__(name: str) -> Any:
    if name == "FlowPolicy":
        from flexgym.policy import FlowPolicy

        return FlowPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
