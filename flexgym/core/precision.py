"""Floating-point precisions of weights and latents, by name."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch

from flexgym.core.errors import unknown_name

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_named(name: str | torch.dtype, what: str = "dtype") -> torch.dtype:
    """Return a precision by name.

    Args:
        name: a name such as ``"bfloat16"``; a dtype is returned unchanged.
        what: name of the setting in the error message.

    Raises:
        UnknownNameError: the name is unknown; the message suggests the nearest valid one.
    """
    if isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise unknown_name(what, str(name), DTYPES)
    return DTYPES[name]


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return a context with arithmetic in another precision than that of the weights; None for theirs.

    Args:
        device: of the tensors.
        dtype: the precision.
    """
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
