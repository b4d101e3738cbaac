"""Randomize which candidate of a pair is shown first, with a seeded coin per row, since public data favors one side."""

from __future__ import annotations

import hashlib
import json

from flexgym.data.schema import PreferencePair

ORDERS = ("both", "given", "shuffled")
"""Orders in which pairs are judged: both orders, the order of the file, or one drawn by a seeded coin."""


def is_swapped(pair: PreferencePair, seed: int) -> bool:
    """Return True if a fair coin, seeded per row, exchanges the candidates of a pair.

    The result depends only on the seed and on the row's content (id, source, prompt and file names), not on its
    position, on other rows, or on the folder of the files.

    Args:
        pair: the pair in the order of its data file.
        seed: seed of the coin.
    """
    about = [
        pair.source,
        pair.id,
        pair.prompt,
        [[file.identity for file in side] for side in (pair.first, pair.second)],
    ]
    digest = hashlib.blake2b(json.dumps([seed, about]).encode(), digest_size=1).digest()
    return bool(digest[0] & 1)


def shuffle_sides(pair: PreferencePair, seed: int) -> PreferencePair:
    """Exchange the candidates and labels of a pair if the coin says so.

    Args:
        pair: the pair in the order of its data file.
        seed: seed of the coin, see `is_swapped`.
    """
    return pair.swapped() if is_swapped(pair, seed) else pair


def in_orders(pair: PreferencePair, orders: str, seed: int) -> tuple[PreferencePair, ...]:
    """Return the pair in the one or two orders in which it is judged.

    Args:
        pair: the pair in the order of its data file.
        orders: one of `ORDERS`.
        seed: seed of the coin, see `is_swapped`.
    """
    if orders == "both":
        return pair, pair.swapped()
    return (shuffle_sides(pair, seed),) if orders == "shuffled" else (pair,)
