"""Which candidate stands first: drawn for each row from a seed, since public sets put the winner in front."""

from __future__ import annotations

import hashlib
import json

from flexgym.rm.data.schema import PreferencePair

ORDERS = ("both", "given", "shuffled")
"""Both orders of each pair, the one in the file, or one by a seeded coin."""


def is_swapped(pair: PreferencePair, seed: int) -> bool:
    """Whether the sides of a pair are exchanged under a seed: a fair coin of the row's own.

    It depends on the seed and on what the row is about (its id and source, or its prompt and the names of its files),
    and on nothing else: not on the place of the row, on rows before it, or on the folder in which the files lie.

    Args:
        pair: in the order of its data file.
        seed: another one is another coin.
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
    """The pair, with its sides exchanged where the coin says so; the labels follow.

    Args:
        pair: in the order of its data file.
        seed: see `is_swapped`.
    """
    return pair.swapped() if is_swapped(pair, seed) else pair


def in_orders(pair: PreferencePair, orders: str, seed: int) -> tuple[PreferencePair, ...]:
    """The pair in the order or the two orders in which it is asked about.

    Args:
        pair: in the order of its data file.
        orders: one of `ORDERS`.
        seed: of the coin, see `is_swapped`.
    """
    if orders == "both":
        return pair, pair.swapped()
    return (shuffle_sides(pair, seed),) if orders == "shuffled" else (pair,)
