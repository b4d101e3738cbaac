"""PickScore (arXiv 2305.01569): human preferences between images of one prompt, by a fine-tuned CLIP."""

from __future__ import annotations

import torch

from rewards.clip import ClipReward, Matches


class PickScore(ClipReward):
    """Cosine similarity of prompt and image times the model's scale (arXiv 2305.01569, equation 1), typically 15 to 25.

    The score of a video is the mean over frames.

    Args:
        model: folder or hub id; ``yuvalkirstain/PickScore_v1`` by default.
        num_frames: number of uniformly spaced frames per video to score.
        processor: folder or hub id with tokenizer and image processor; for the default model, that of the CLIP model
            which PickScore was trained from.
        device: device of the model; by default the first GPU if there is one.
        dtype: data type of the weights.
        batch_size: number of images per forward pass.
    """

    default_model = "yuvalkirstain/PickScore_v1"
    default_processor = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

    def formula(self, matches: Matches) -> torch.Tensor:
        """Return the cosine similarities times the model's scale."""
        return matches.scale * matches.cosines
