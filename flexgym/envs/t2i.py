"""Text-to-image environments ``FlexT2I-v0`` and ``FlexT2IControl-v0``."""

from __future__ import annotations

from flexgym.envs.control import ControlEnv, ControlVectorEnv
from flexgym.envs.single import GroupEnv
from flexgym.envs.vector import GroupVectorEnv


class FlexT2I(GroupEnv):
    """Generate a group of images for one prompt, one denoising step at a time. See `GroupEnv`."""

    name = "FlexT2I-v0"
    modality = "image"


class FlexT2IVector(GroupVectorEnv):
    """Generate several groups of images in one batch. See `GroupVectorEnv`."""

    name = "FlexT2I-v0"
    modality = "image"


class FlexT2IControl(ControlEnv):
    """Control guidance and noise while a group of images is generated for one prompt. See `ControlEnv`."""

    name = "FlexT2IControl-v0"
    modality = "image"


class FlexT2IControlVector(ControlVectorEnv):
    """Control guidance and noise of several groups of images in one batch. See `ControlVectorEnv`."""

    name = "FlexT2IControl-v0"
    modality = "image"
