"""HPSv2 and HPSv2.1 (arXiv 2306.09341): human preferences between pictures of one prompt, by a fine-tuned CLIP."""

from __future__ import annotations

import torch

from rewards.clip import ClipReward, Matches


class HPSv2(ClipReward):
    """Cosine of prompt and picture, typically 0.2 to 0.35; tables of the authors show it times 100.

    The two versions differ in their weights alone. Unlike the other CLIP scorers the whole picture is seen: its longest
    side is reduced to the model's size and the rest is padded with black. The published files are those of open_clip;
    ``python -m rewards.convert hpsv2 HPS_v2.1_compressed.pt folder`` makes a folder of them. For videos the mean over
    frames.

    Args:
        model: such a folder, or a hub id of one.
        num_frames: uniformly spaced frames of a video that are scored.
        processor: a folder or hub id with tokenizer and image processor, where the model has none.
        device: by default the first GPU where there is one.
        dtype: of the weights.
        batch_size: pictures in one forward pass.
    """

    name = "hpsv2"
    pad = True
    no_model = (
        "download HPS_v2.1_compressed.pt from xswu/HPSv2 and make a folder of it with"
        " `python -m rewards.convert hpsv2 HPS_v2.1_compressed.pt folder`"
    )

    def formula(self, matches: Matches) -> torch.Tensor:
        """The cosines."""
        return matches.cosines
