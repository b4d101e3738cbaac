"""The precisions that weights and latents can have, by name."""

from __future__ import annotations

from typing import Final

import torch

from flexgym.core.errors import unknown_name

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_named(name: str | torch.dtype, what: str = "dtype") -> torch.dtype:
    """A precision by name.

    Args:
        name: such as ``"bfloat16"``; a dtype stays what it is.
        what: whose precision it is, for the message.

    Raises:
        UnknownNameError: no such name, with the nearest valid one.
    """
    if isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise unknown_name(what, str(name), DTYPES)
    return DTYPES[name]
