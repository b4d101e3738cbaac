"""Encoded prompts as inputs of the transformer, and their cache in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

Embedding = Mapping[str, Tensor]
"""Encoded text or images of one prompt: tensors with a leading dimension of 1, named as the transformer's arguments."""

KNOWN = "known_latents"
"""Name of the latents of conditioning images that are part of the sample; no argument of the transformer."""

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, one row each.

    Attributes:
        prompts: transformer arguments by name, each ``[rows, ...]``.
        empty: the same for the unconditional branch of guidance, each ``[1, ...]``; empty without guidance.
        images: encoded conditioning images by name, each ``[rows, ...]``, for both branches; under `KNOWN` the latents
            that are not generated. Empty for generators from text alone.
    """

    prompts: Mapping[str, Tensor]
    empty: Mapping[str, Tensor] = field(default_factory=dict)
    images: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.prompts.values())))

    def repeat(self, count: int) -> Conditioning:
        """Repeat every row ``count`` times, from P prompts to the P*G rows of their groups."""
        return Conditioning(_repeated(self.prompts, count), self.empty, _repeated(self.images, count))

    def index(self, rows: slice | Tensor | Sequence[int]) -> Conditioning:
        """Select rows in the given order; a slice is taken without a copy."""
        where = rows if isinstance(rows, slice | Tensor) else torch.as_tensor(rows, dtype=torch.long)
        prompts, images = (
            {name: tensor[where] for name, tensor in mapping.items()} for mapping in (self.prompts, self.images)
        )
        return Conditioning(prompts, self.empty, images)

    def unconditional(self) -> dict[str, Tensor]:
        """Return the unconditional arguments with as many rows as there are prompts."""
        return _repeated(self.empty, len(self))


def with_known(latents: Tensor, conditioning: Conditioning) -> Tensor:
    """Put known latents in their place, where there are any; other latents come back unchanged.

    Args:
        latents: ``[B, C, F, H, W]``.
        conditioning: B rows.
    """
    known = conditioning.images.get(KNOWN)
    if known is None:
        return latents
    return torch.cat([known.to(latents), latents[:, :, known.shape[2] :]], 2)


def without_known(velocity: Tensor, conditioning: Conditioning) -> Tensor:
    """Set the velocity of known latents to 0: nothing moves them, and there is nothing to learn.

    Args:
        velocity: ``[B, C, F, H, W]``.
        conditioning: B rows.
    """
    known = conditioning.images.get(KNOWN)
    if known is None:
        return velocity
    return torch.cat([torch.zeros_like(known, dtype=velocity.dtype), velocity[:, :, known.shape[2] :]], 2)


def _repeated(rows: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: tensor.repeat_interleave(count, dim=0) for name, tensor in rows.items()}


def stack_rows(blocks: Sequence[Tensor]) -> Tensor:
    """Concatenate rows; where texts differ in length, pad the shorter ones with zeros.

    Args:
        blocks: each ``[rows, ...]``, or ``[rows, length, ...]`` with lengths of their own.

    Returns:
        ``[rows of all, ...]``.
    """
    if len({block.shape[1:] for block in blocks}) == 1:
        return torch.cat(list(blocks))
    length = max(block.shape[1] for block in blocks)
    padded = [block.new_zeros(len(block), length, *block.shape[2:]) for block in blocks]
    for target, block in zip(padded, blocks, strict=True):
        target[:, : block.shape[1]] = block
    return torch.cat(padded)


def trim_padding(text: Mapping[str, Tensor], mask: str) -> dict[str, Tensor]:
    """Remove the padding that all rows share, so that what is computed for them depends on no other rows.

    Args:
        text: transformer arguments by name, each ``[rows, length, ...]``.
        mask: name of the mask ``[rows, length]`` among them, 1 for tokens and 0 for padding at the end. It is left out
            when no row is padded, as pipelines do.

    Returns:
        The arguments, ``[rows, longest text, ...]`` each.
    """
    length = int(text[mask].sum(1).max())
    trimmed = {name: tensor[:, :length] for name, tensor in text.items()}
    if bool(trimmed[mask].all()):
        del trimmed[mask]
    return trimmed


CACHE_BYTES = 1 << 30
"""Memory that encoded prompts take at most."""


class EmbeddingCache:
    """Cache of the most recently used embeddings, by the request that each one encodes.

    Args:
        max_bytes: memory for the embeddings; the least recently used are dropped first, the newest never.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[Hashable, Embedding] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def tensors(self) -> list[Tensor]:
        """Return all tensors that the cache holds."""
        return [tensor for entry in self._entries.values() for tensor in entry.values()]

    def get(self, key: _Key, encode: Callable[[_Key], Embedding]) -> Embedding:
        """Return the embedding of a key, and compute it by ``encode`` when it is not cached."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        entry = encode(key)
        self._entries[key] = entry
        self._bytes += _size(entry)
        while self._bytes > self._max_bytes and len(self._entries) > 1:
            _, dropped = self._entries.popitem(last=False)
            self._bytes -= _size(dropped)
        return entry

    def clear(self) -> None:
        """Remove every embedding from the cache."""
        self._entries.clear()
        self._bytes = 0


def _size(entry: Embedding) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in entry.values())
