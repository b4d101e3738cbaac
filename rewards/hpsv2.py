"""HPSv2 and HPSv2.1 (arXiv 2306.09341): human preferences between images of one prompt, by a fine-tuned CLIP."""

from __future__ import annotations

import torch

from rewards.clip import ClipReward, Matches


class HPSv2(ClipReward):
    """Cosine similarity of prompt and image, typically 0.2 to 0.35; the authors' tables show it times 100.

    The two versions differ only in their weights. Unlike other CLIP scorers, the model sees the whole image: its
    longest side is resized to the model's size, and the rest is padded with black. The published files are in the
    open_clip format; convert them with ``python -m rewards.convert hpsv2 HPS_v2.1_compressed.pt folder``. The score of
    a video is the mean over frames.

    Args:
        model: folder created by the conversion, or hub id of one.
        num_frames: number of uniformly spaced frames per video to score.
        processor: folder or hub id with tokenizer and image processor, if the model has none.
        device: device of the model; by default the first GPU if there is one.
        dtype: data type of the weights.
        batch_size: number of images per forward pass.
    """

    name = "hpsv2"
    pad = True
    no_model = (
        "download HPS_v2.1_compressed.pt from xswu/HPSv2 and convert it with"
        " `python -m rewards.convert hpsv2 HPS_v2.1_compressed.pt folder`"
    )

    def formula(self, matches: Matches) -> torch.Tensor:
        """Return the cosine similarities unchanged."""
        return matches.cosines
