"""CLIPScore (arXiv 2104.08718): how well an image matches its prompt, by CLIP."""

from __future__ import annotations

import torch

from rewards.clip import ClipReward, Matches


class CLIPScore(ClipReward):
    """Cosine similarity of prompt and image by CLIP, typically 0.15 to 0.4.

    CLIP-S in the paper (arXiv 2104.08718, equation 1) is 2.5 times this, clipped at 0; the plain cosine also ranks
    samples that CLIP-S clips. The score of a video is the mean over frames.

    Args:
        model: folder or hub id; ``openai/clip-vit-large-patch14`` by default.
        num_frames: number of uniformly spaced frames per video to score.
        processor: folder or hub id with tokenizer and image processor, if the model has none.
        device: device of the model; by default the first GPU if there is one.
        dtype: data type of the weights.
        batch_size: number of images per forward pass.
    """

    default_model = "openai/clip-vit-large-patch14"

    def formula(self, matches: Matches) -> torch.Tensor:
        """Return the cosine similarities unchanged."""
        return matches.cosines
