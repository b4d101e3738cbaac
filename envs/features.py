"""What a small policy sees of a prompt: a vector of the same size for every generator."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexgym.generators.base import FlowGenerator

PROMPT_FEATURES = 64
"""Numbers E that describe a prompt; linear probes tell the categories of the small world's captions from them."""


def prompt_features(generator: FlowGenerator, text: str) -> NDArray[np.float32]:
    """A prompt as its own generator reads it, in few numbers.

    The mean over the tokens that the transformer is given, less that of the empty prompt (which is the padding and what
    all prompts share), projected at random: that keeps distances (Johnson and Lindenstrauss, 1984) and is the same in
    every process.

    Args:
        generator: whose text encoders read it.
        text: the prompt.

    Returns:
        float32 ``[E]`` with a root mean square of 1, so each number is within ``-sqrt(E)`` and ``sqrt(E)``.
    """
    added = _mean_token(generator, text) - _mean_token(generator, "")
    few = added @ _projection(len(added))
    return (few / few.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).eps)).numpy()


def _mean_token(generator: FlowGenerator, text: str) -> Tensor:
    """The first argument that the transformer is given of a text, averaged over its tokens."""
    tokens = next(iter(generator.text.encode_text(text).values()))
    return tokens.float().cpu().flatten(0, -2).mean(0)


@cache
def _projection(width: int) -> Tensor:
    return torch.randn(width, PROMPT_FEATURES, generator=torch.Generator().manual_seed(0)) / width**0.5
