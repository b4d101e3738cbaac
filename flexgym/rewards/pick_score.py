"""PickScore (arXiv 2305.01569): human preferences between images of one prompt, by a fine-tuned CLIP."""

from __future__ import annotations

import torch

from flexgym.rewards.clip import ClipReward, Matches
from flexgym.rewards.preprocessing import CheckpointCrop


class PickScore(ClipReward):
    """Cosine of prompt and image times the model's scale (arXiv 2305.01569, equation 1), typically 15 to 25.

    Images and prompts are prepared by the processors of transformers, as published. Videos score the mean over frames.

    Args:
        model: a folder or hub id; ``yuvalkirstain/PickScore_v1`` by default.
        num_frames: number of uniformly spaced frames of a video that are scored.
        processor: a folder or hub id with tokenizer and image processor; with the default model that of the CLIP
            model which PickScore was fine-tuned from.
        device: name of a torch device; by default the first GPU if there is one.
        dtype: precision of the weights.
        batch_size: maximum number of images in one forward pass.
    """

    default_model = "yuvalkirstain/PickScore_v1"
    preprocessor = CheckpointCrop
    marks = None
    default_processor = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

    def formula(self, matches: Matches) -> torch.Tensor:
        """Return the scaled cosines."""
        return matches.scale * matches.cosines
