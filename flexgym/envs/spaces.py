"""Spaces of the environments, and what Gymnasium must know of them: batches, shared memory and flattening."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Space
from gymnasium.spaces.utils import flatten, flatten_space, unflatten
from gymnasium.vector import utils as vector_utils
from numpy.typing import NDArray

from flexgym.core.conversion import keep_unconverted
from flexgym.core.seeds import checked_seed
from flexgym.types import Prompt

MAX_PROMPT_LENGTH = 2048
"""Maximum number of characters of a prompt; the text encoders in use read at most 512 tokens."""

NO_CHARACTER = sys.maxunicode + 1
"""Padding of a flattened prompt."""

_CODES = "utf-32-le"


class FloatBox(gymnasium.spaces.Box):
    """Float32 numbers of a shape, all within the same bounds; also takes integers of NumPy as a seed.

    Args:
        low: lower bound of every number.
        high: upper bound of every number.
        shape: shape of the arrays.
        seed: seed of `sample`.
    """

    def __init__(
        self, low: Any, high: Any, shape: Sequence[int] | None = None, *, seed: int | np.random.Generator | None = None
    ) -> None:
        super().__init__(low, high, shape, np.float32, seed=_seed_of_space(seed))

    def seed(self, seed: int | None = None) -> Any:
        """Seed `sample`, see `gymnasium.spaces.Space.seed`."""
        return super().seed(checked_seed(seed))


class PromptSpace(gymnasium.spaces.Text):
    """Any text up to a length, in any script; Gymnasium's own `Text` has a fixed set of characters.

    `gymnasium.spaces.flatten` gives the code points, int32 ``[max_length]``, padded with `NO_CHARACTER`.

    Args:
        max_length: maximum number of characters.
        seed: seed of `sample`.
    """

    def __init__(self, max_length: int = MAX_PROMPT_LENGTH, *, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length, min_length=1, seed=_seed_of_space(seed))

    def seed(self, seed: int | None = None) -> Any:
        """Seed `sample`, see `gymnasium.spaces.Space.seed`."""
        return super().seed(checked_seed(seed))

    def contains(self, x: Any) -> bool:
        """Return True for a text of a fitting length."""
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PromptSpace) and self.max_length == other.max_length

    def __repr__(self) -> str:
        return f"PromptSpace({self.max_length})"


def _seed_of_space(seed: Any) -> Any:
    return seed if isinstance(seed, np.random.Generator) else checked_seed(seed)


# --- flattening ------------------------------------------------------------------------------------------------------


@flatten_space.register(PromptSpace)
def _flatten_prompt_space(space: PromptSpace) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(0, NO_CHARACTER, (space.max_length,), np.int32)


@flatten.register(PromptSpace)
def _flatten_prompt(space: PromptSpace, x: str) -> NDArray[np.int32]:  # type: ignore[misc]
    codes = np.full(space.max_length, NO_CHARACTER, np.int32)
    codes[: len(x)] = [ord(character) for character in x]
    return codes


@unflatten.register(PromptSpace)
def _unflatten_prompt(space: PromptSpace, x: NDArray[Any]) -> str:  # type: ignore[misc]
    return "".join(chr(int(code)) for code in x if code < NO_CHARACTER)


# --- batches ---------------------------------------------------------------------------------------------------------


@vector_utils.batch_space.register(FloatBox)
def _batch_numbers(space: FloatBox, n: int = 1) -> FloatBox:
    low, high = (np.repeat(bound[None], n, axis=0) for bound in (space.low, space.high))
    return FloatBox(low, high, seed=deepcopy(space.np_random))


@vector_utils.batch_differing_spaces.register(FloatBox)
def _batch_differing_numbers(spaces: Any) -> Space[Any]:  # type: ignore[misc]
    plain = [gymnasium.spaces.Box(space.low, space.high, dtype=np.float32) for space in spaces]
    return vector_utils.batch_differing_spaces(plain)


@vector_utils.batch_differing_spaces.register(PromptSpace)
def _batch_differing_prompts(spaces: Any) -> gymnasium.spaces.Tuple:  # type: ignore[misc]
    return gymnasium.spaces.Tuple([deepcopy(space) for space in spaces], seed=deepcopy(spaces[0].np_random))


# --- shared memory ---------------------------------------------------------------------------------------------------


class SharedPrompts(tuple[str, ...]):
    """Prompts of P environments in shared memory: a tuple of P texts that always shows the current ones.

    `gymnasium.vector.AsyncVectorEnv` reads its memory once and expects what it reads to follow later writes, as arrays
    do. A copy by `copy.deepcopy` or pickle is a plain tuple of the texts as they are then.

    Args:
        codes: int32 ``[P, 1 + max_length]``: length and code points of each prompt.
    """

    _codes: NDArray[np.int32]

    def __new__(cls, codes: NDArray[np.int32]) -> SharedPrompts:
        """Make a tuple of the right length; its own items are never read."""
        prompts = super().__new__(cls, [""] * len(codes))
        prompts._codes = codes
        return prompts

    def __iter__(self) -> Iterator[str]:
        return (_text_in(row) for row in self._codes)

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index]

    def __contains__(self, text: object) -> bool:
        return text in tuple(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return tuple, (tuple(self),)


def _text_in(row: NDArray[np.int32]) -> str:
    return row[1 : 1 + row[0]].tobytes().decode(_CODES, "surrogatepass")


@vector_utils.create_shared_memory.register(PromptSpace)
def _create_shared_prompts(space: PromptSpace, n: int = 1, ctx: Any = multiprocessing) -> Any:
    return ctx.Array("i", n * (1 + space.max_length))


@vector_utils.read_from_shared_memory.register(PromptSpace)
def _read_shared_prompts(space: PromptSpace, shared_memory: Any, n: int = 1) -> SharedPrompts:
    return SharedPrompts(np.frombuffer(shared_memory.get_obj(), np.int32).reshape(n, 1 + space.max_length))


@vector_utils.write_to_shared_memory.register(PromptSpace)
def _write_shared_prompt(  # noqa: PLR0917 (Gymnasium passes all by position)
    space: PromptSpace, index: int, value: str, shared_memory: Any
) -> None:
    row = np.frombuffer(shared_memory.get_obj(), np.int32).reshape(-1, 1 + space.max_length)[index]
    codes = np.frombuffer(value.encode(_CODES, "surrogatepass"), np.int32)
    row[1 : 1 + len(codes)] = codes
    row[0] = len(codes)


keep_unconverted(Prompt)
