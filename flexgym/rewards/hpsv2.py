"""HPSv2 and HPSv2.1 (arXiv 2306.09341): human preferences between images of one prompt, by a fine-tuned CLIP."""

from __future__ import annotations

import torch

from flexgym.rewards.clip import ClipReward, Matches
from flexgym.rewards.clip_text import OPEN_CLIP_MARKS
from flexgym.rewards.preprocessing import TensorPadding


class HPSv2(ClipReward):
    """Cosine of prompt and image by HPSv2, typically 0.2 to 0.35; the authors' tables show it times 100.

    The two versions differ only in their weights. Unlike the other CLIP scorers this one sees the uncropped image: the
    longest side is resized to the model's size, as a float tensor with antialiasing, and the rest is padded with black.
    Prompts are cleaned as published, with ftfy and ``html.unescape``. The published files are those of
    open_clip; ``python -m flexgym.rewards.convert hpsv2 HPS_v2.1_compressed.pt folder`` converts them. Videos score the
    mean over frames.

    Args:
        model: a folder made by ``rewards.convert``, or a hub id of one.
        num_frames: number of uniformly spaced frames of a video that are scored.
        processor: a folder or hub id with tokenizer and image processor, if the model has none.
        device: name of a torch device; by default the first GPU if there is one.
        dtype: precision of the weights.
        batch_size: maximum number of images in one forward pass.
    """

    name = "hpsv2"
    preprocessor = TensorPadding
    marks = OPEN_CLIP_MARKS
    no_model = (
        "download HPS_v2.1_compressed.pt from xswu/HPSv2 and convert it with"
        " `python -m flexgym.rewards.convert hpsv2 HPS_v2.1_compressed.pt folder`"
    )

    def formula(self, matches: Matches) -> torch.Tensor:
        """Return the cosines of text and image embeddings as rewards."""
        return matches.cosines
