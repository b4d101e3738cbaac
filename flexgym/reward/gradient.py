"""Rewards with gradients to pixels: which ones there are, and the error for others."""

from __future__ import annotations

from flexgym.core.errors import ConfigError

WITH_GRADIENTS = ("Aesthetic", "CLIPScore", "HPSv2", "ImageReward", "PickScore")
"""Rewards of FlexGym that override `flexgym.reward.Reward.gradient_scores`."""


def no_gradient_scores(name: str) -> ConfigError:
    """Return the error for a reward that has no gradients to pixels.

    Args:
        name: name of the reward.
    """
    return ConfigError(
        f"{name}: expected a reward with gradients to pixels ({', '.join(WITH_GRADIENTS)}, or a class of your own that"
        " defines gradient_scores), got one that only scores finished samples: choose another reward, or an algorithm"
        " that needs no gradients of it"
    )
