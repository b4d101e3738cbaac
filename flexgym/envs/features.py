"""Prompt features for small policies: a vector of the same size for every generator."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexgym.generators.base import FlowGenerator

PROMPT_FEATURES = 64
"""Number of features of a prompt, E; linear probes separate the categories of the small world's captions by them."""


def prompt_features(generator: FlowGenerator, text: str) -> NDArray[np.float32]:
    """Compute features of a prompt from the text embeddings of its generator.

    The features are the mean over the tokens that the transformer receives, minus that of the empty prompt (the padding
    and what all prompts share), under a fixed random projection. The projection approximately preserves distances
    (Johnson and Lindenstrauss, 1984).

    Args:
        generator: generator whose text encoders read the prompt.
        text: the prompt.

    Returns:
        float32 ``[E]`` with a root mean square of 1, so each feature is within ``-sqrt(E)`` and ``sqrt(E)``.
    """
    added = _mean_token(generator, text) - _mean_token(generator, "")
    few = added @ _projection(len(added))
    return (few / few.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).eps)).numpy()


def _mean_token(generator: FlowGenerator, text: str) -> Tensor:
    """Average the first text embedding that the transformer receives over its tokens."""
    tokens = next(iter(generator.text.encode_text(text).values()))
    return tokens.float().cpu().flatten(0, -2).mean(0)


@cache
def _projection(width: int) -> Tensor:
    return torch.randn(width, PROMPT_FEATURES, generator=torch.Generator().manual_seed(0)) / width**0.5
