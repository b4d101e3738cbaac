"""Values that Gymnasium's conversions to other array libraries pass on as they are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NO_NUMBERS = "OSU"


def keep_unconverted(*kinds: type) -> None:
    """Let `gymnasium.wrappers.NumpyToTorch` and its kin pass on values that no other array library knows.

    Texts and arrays of objects are passed on as well. The wrappers need ``array-api-compat``, which Gymnasium does not
    install by itself; nothing happens without it.

    Args:
        *kinds: classes of such values.
    """
    if find_spec("array_api_compat") is None:
        return
    from gymnasium.wrappers.array_conversion import array_conversion

    _keep_texts()
    for kind in kinds:
        array_conversion.register(kind, _unchanged)


@cache
def _keep_texts() -> None:
    from gymnasium.wrappers.array_conversion import array_conversion

    of_arrays = array_conversion.dispatch(Iterable)

    def of_numbers(value: NDArray[Any], xp: Any, device: Any = None) -> Any:
        return value if value.dtype.kind in _NO_NUMBERS else of_arrays(value, xp, device)

    for kind in (str, bytes):
        array_conversion.register(kind, _unchanged)
    array_conversion.register(np.ndarray, of_numbers)


def _unchanged(value: Any, xp: Any, device: Any = None) -> Any:
    return value
