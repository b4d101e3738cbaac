"""Text-to-video environments ``FlexT2V-v0`` and ``FlexT2VControl-v0``."""

from __future__ import annotations

from flexgym.envs.control import ControlEnv, ControlVectorEnv
from flexgym.envs.single import GroupEnv
from flexgym.envs.vector import GroupVectorEnv


class FlexT2V(GroupEnv):
    """Generate a group of videos for one prompt, one denoising step at a time. See `GroupEnv`."""

    name = "FlexT2V-v0"
    modality = "video"


class FlexT2VVector(GroupVectorEnv):
    """Generate several groups of videos in one batch. See `GroupVectorEnv`."""

    name = "FlexT2V-v0"
    modality = "video"


class FlexT2VControl(ControlEnv):
    """Control guidance and noise while a group of videos is generated for one prompt. See `ControlEnv`."""

    name = "FlexT2VControl-v0"
    modality = "video"


class FlexT2VControlVector(ControlVectorEnv):
    """Control guidance and noise of several groups of videos in one batch. See `ControlVectorEnv`."""

    name = "FlexT2VControl-v0"
    modality = "video"
