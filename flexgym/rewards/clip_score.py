"""CLIPScore (arXiv 2104.08718): how well an image matches its prompt, by CLIP."""

from __future__ import annotations

import torch

from flexgym.rewards.clip import ClipReward, Matches


class CLIPScore(ClipReward):
    """Cosine of prompt and image by CLIP, typically 0.15 to 0.4.

    CLIP-S of the paper (arXiv 2104.08718, equation 1) is 2.5 times this, clipped at 0; the plain cosine also orders
    samples that CLIP-S clips. Image and prompt are prepared as in the published code, but its words ``A photo depicts``
    are not put before the prompt. Videos score the mean over frames.

    Args:
        model: a folder or hub id; ``openai/clip-vit-large-patch14`` by default.
        num_frames: number of uniformly spaced frames of a video that are scored.
        processor: a folder or hub id with tokenizer and image processor, if the model has none.
        device: name of a torch device; by default the first GPU if there is one.
        dtype: precision of the weights.
        batch_size: maximum number of images in one forward pass.
    """

    default_model = "openai/clip-vit-large-patch14"

    def formula(self, matches: Matches) -> torch.Tensor:
        """Return the cosines of text and image embeddings as rewards."""
        return matches.cosines
