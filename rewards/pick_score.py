"""PickScore (arXiv 2305.01569): human preferences between pictures of one prompt, by a fine-tuned CLIP."""

from __future__ import annotations

import torch

from rewards.clip import ClipReward, Matches


class PickScore(ClipReward):
    """Cosine of prompt and picture times the model's scale (arXiv 2305.01569, equation 1), typically 15 to 25.

    For videos the mean over frames.

    Args:
        model: a folder or hub id; ``yuvalkirstain/PickScore_v1`` by default.
        num_frames: uniformly spaced frames of a video that are scored.
        processor: a folder or hub id with tokenizer and image processor; that of the CLIP model which PickScore was
            trained from when the model is the default.
        device: by default the first GPU where there is one.
        dtype: of the weights.
        batch_size: pictures in one forward pass.
    """

    default_model = "yuvalkirstain/PickScore_v1"
    default_processor = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

    def formula(self, matches: Matches) -> torch.Tensor:
        """The scaled cosines."""
        return matches.scale * matches.cosines
