"""Text to image: ``FlexT2I-v0`` and ``FlexT2IControl-v0``."""

from __future__ import annotations

from envs.control import ControlEnv, ControlVectorEnv
from envs.single import GroupEnv
from envs.vector import GroupVectorEnv


class FlexT2I(GroupEnv):
    """A group of pictures for one prompt, one denoising step at a time. See `GroupEnv`."""

    name = "FlexT2I-v0"
    modality = "image"


class FlexT2IVector(GroupVectorEnv):
    """Several groups of pictures in one batch. See `GroupVectorEnv`."""

    name = "FlexT2I-v0"
    modality = "image"


class FlexT2IControl(ControlEnv):
    """A group of pictures for one prompt, whose guidance and noise are chosen. See `ControlEnv`."""

    name = "FlexT2IControl-v0"
    modality = "image"


class FlexT2IControlVector(ControlVectorEnv):
    """Several groups of pictures whose guidance and noise are chosen. See `ControlVectorEnv`."""

    name = "FlexT2IControl-v0"
    modality = "image"
