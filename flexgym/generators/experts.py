"""Rows of a batch that belong to different transformers, such as the two experts of Wan 2.2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Rows = Tensor | slice
"""A mask ``[B]``, or all rows."""


def rows_of_experts(first: Tensor) -> list[tuple[int, Rows]]:
    """Return the number of each expert that is needed, 0 or 1, with its rows.

    Args:
        first: mask ``[B]`` of the rows of the first expert.
    """
    if bool(first.all()):
        return [(0, slice(None))]
    return [(0, first), (1, ~first)] if bool(first.any()) else [(1, slice(None))]


def join_rows(parts: Sequence[tuple[Rows, Tensor]], like: Tensor) -> Tensor:
    """Put the rows of several experts back in their order; those of a single one are returned as they are.

    Args:
        parts: rows with their values.
        like: tensor of the shape of all rows together.
    """
    if len(parts) == 1:
        return parts[0][1]
    joined = torch.empty_like(like)
    for rows, part in parts:
        joined[rows] = part
    return joined
