"""Stable-Baselines3 on FlexGym's control environments: adapter, callbacks and runs."""

from __future__ import annotations

from flexgym.sb3.held_out import HeldOut, SampleGridCallback
from flexgym.sb3.vec_env import SB3VecEnv

__all__ = ["HeldOut", "SB3VecEnv", "SampleGridCallback"]
