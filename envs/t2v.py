"""Text to video: ``FlexT2V-v0``."""

from __future__ import annotations

from envs.single import GroupEnv
from envs.vector import GroupVectorEnv


class FlexT2V(GroupEnv):
    """A group of videos for one prompt, one denoising step at a time. See `GroupEnv`."""

    name = "FlexT2V-v0"
    modality = "video"


class FlexT2VVector(GroupVectorEnv):
    """Several groups of videos in one batch. See `GroupVectorEnv`."""

    name = "FlexT2V-v0"
    modality = "video"
