"""CLIPScore (arXiv 2104.08718): how well a picture matches its prompt, by CLIP."""

from __future__ import annotations

import torch

from rewards.clip import ClipReward, Matches


class CLIPScore(ClipReward):
    """Cosine of prompt and picture by CLIP, typically 0.15 to 0.4.

    The paper's CLIP-S (arXiv 2104.08718, equation 1) is 2.5 times this, and 0 where it is negative; the plain cosine
    keeps the order of samples that CLIP-S makes equal. For videos the mean over frames.

    Args:
        model: a folder or hub id; ``openai/clip-vit-large-patch14`` by default.
        num_frames: uniformly spaced frames of a video that are scored.
        processor: a folder or hub id with tokenizer and image processor, where the model has none.
        device: by default the first GPU where there is one.
        dtype: of the weights.
        batch_size: pictures in one forward pass.
    """

    default_model = "openai/clip-vit-large-patch14"

    def formula(self, matches: Matches) -> torch.Tensor:
        """The cosines."""
        return matches.cosines
