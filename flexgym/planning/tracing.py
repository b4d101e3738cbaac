"""Measure memory and arithmetic of real code on tensors without data.

A module on the meta device computes nothing but shapes, so a transformer of any size runs forward and backward within
seconds. `trace` counts the storages that are alive at the same time and the matrix operations. Tensors saved by
autograd, freed by checkpointing or returned by kernels are thus measured in the code itself, not estimated by a
formula.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from flexgym.planning.shapes import ShapeMemory

_aten = torch.ops.aten
_FLOPS = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}


@dataclass(frozen=True)
class Trace:
    """Memory and arithmetic of a piece of work.

    Attributes:
        peak: maximum number of bytes alive at once, beyond those alive before.
        kept: number of bytes alive at the end.
        flops: floating-point operations of matrix products, convolutions and attention; two for a multiply-add.
    """

    peak: int = 0
    kept: int = 0
    flops: int = 0


class Meter(TorchDispatchMode):
    """Counts the arithmetic of operations, and the bytes of new storages until their last tensor is freed.

    The formulas are those of `torch.utils.flop_counter`, whose own mode uses module hooks that keep alive what
    checkpointing frees.

    Args:
        before: existing tensors, which do not count.

    Attributes:
        live: current number of bytes.
        peak: maximum number of bytes.
        flops: number of operations so far.
    """

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._shapes = ShapeMemory()
        self._sizes: dict[int, int] = {tensor.untyped_storage()._cdata: 0 for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, *inputs: Any) -> Any:
        """Run an operation and count the new storages of its outputs."""
        args, kwargs = _arguments(*inputs)
        out = self._shapes.run(func, args, kwargs)
        formula = _FLOPS.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        for leaf in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._subtract, key)

    def _subtract(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def _arguments(args: Any = (), kwargs: Any = None) -> tuple[Any, dict[str, Any]]:
    """Return the arguments that PyTorch passes to a mode, both of which may be missing."""
    return args, kwargs or {}


class _NoData(TorchFunctionMode):
    """Treats a condition on data of the meta device as false, and a mask as selecting everything.

    In Wan 2.2, with its two equal transformers, the second one then runs. Texts have the maximum length, so a mask
    selects everything and its inverse nothing.
    """

    def __torch_function__(self, func: Any, types: Any, *inputs: Any) -> Any:
        """Run a function unless it needs data that do not exist."""
        args, kwargs = _arguments(*inputs)
        if func is Tensor.__bool__ and args[0].is_meta:
            return False
        if func is Tensor.__getitem__ and _is_mask(args[1]):
            return args[0][:0] if getattr(args[1], "selects_nothing", False) else args[0].clone()
        out = func(*args, **kwargs)
        if func is Tensor.__invert__ and _is_mask(out):
            out.selects_nothing = True
        return out


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta and value.dtype == torch.bool


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, *further: Any, **options: Any) -> Tensor:
    """Compute attention with a fused kernel that stores no scores, as devices do.

    On the meta device PyTorch uses products that store all scores; of the fused kernels, the one for the CPU works
    there.
    """
    if not query.is_meta or further or options.get("enable_gqa"):
        return scaled_dot_product_attention(query, key, value, *further, **options)
    options.pop("enable_gqa", None)
    mask = options.pop("attn_mask", None)
    if mask is not None and (mask.dtype == torch.bool or not mask.is_meta):
        mask = mask.to(query)  # as scores, which the kernel expects
    return _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=mask, **options)[0]


def trace(work: Callable[[], Any], before: Iterable[Tensor] = ()) -> Trace:
    """Run some work and measure its memory and arithmetic.

    Args:
        work: work on tensors of the meta device or of a real one.
        before: existing tensors, such as weights, which do not count.
    """
    meter = Meter(before)
    # Patched, since PyTorch disables modes while the backward pass recomputes blocks.
    with patch.object(functional, "scaled_dot_product_attention", _fused_attention), _NoData(), meter:
        kept = work()
    still = meter.live
    del kept
    return Trace(meter.peak, still, meter.flops)
