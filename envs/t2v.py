"""Text to video: ``FlexT2V-v0`` and ``FlexT2VControl-v0``."""

from __future__ import annotations

from envs.control import ControlEnv, ControlVectorEnv
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


class FlexT2VControl(ControlEnv):
    """A group of videos for one prompt, whose guidance and noise are chosen. See `ControlEnv`."""

    name = "FlexT2VControl-v0"
    modality = "video"


class FlexT2VControlVector(ControlVectorEnv):
    """Several groups of videos whose guidance and noise are chosen. See `ControlVectorEnv`."""

    name = "FlexT2VControl-v0"
    modality = "video"
