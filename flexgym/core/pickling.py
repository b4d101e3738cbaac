"""Modules of transformers and diffusers in a form that pickle can save."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

_CAPTURING = "transformers.utils.output_capturing"
_INSTALLED = "_output_capturing_hooks_installed"
_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


def drop_capturing_hooks(module: nn.Module) -> None:
    """Remove the hooks that transformers puts on a model at its first forward pass, which pickle cannot save.

    They only record hidden states on request. Transformers installs them again at the next forward pass.

    Args:
        module: any module; one without such hooks is left as it is.
    """
    for part in module.modules():
        found = [key for key, hook in part._forward_hooks.items() if getattr(hook, "__module__", None) == _CAPTURING]
        for key in found:
            for name in _HOOKS:
                getattr(part, name).pop(key, None)
        if getattr(part, _INSTALLED, False):
            setattr(part, _INSTALLED, False)


def recomputed(block: nn.Module, *args: Any) -> Any:
    """Run a block whose activations are computed again in the backward pass, see `torch.utils.checkpoint.checkpoint`.

    Pickle finds it by its name, unlike the function that diffusers would put on its modules instead.
    """
    return checkpoint(block, *args, use_reentrant=False)
