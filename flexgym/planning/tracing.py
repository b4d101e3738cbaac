"""Measure memory and arithmetic of real code on tensors without data.

A module on the meta device computes nothing but shapes, so a transformer of any size runs forward and backward within
seconds. `trace` runs it and counts the storages that are alive at the same time and the matrix operations. The tensors
that autograd saves, that checkpointing drops and that kernels return then follow from the code itself, not from a
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
        peak: largest number of bytes alive at once, beyond those that were there before.
        kept: bytes still alive at the end.
        flops: floating-point operations of matrix products, convolutions and attention; two for a multiply-add.
    """

    peak: int = 0
    kept: int = 0
    flops: int = 0


class Meter(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, while they are alive, and the arithmetic.

    The formulas come from `torch.utils.flop_counter`; its own mode follows modules by hooks, which keep tensors alive
    that checkpointing frees.

    Args:
        before: tensors that exist already and do not count.

    Attributes:
        live: bytes alive now.
        peak: largest number of bytes alive at once.
        flops: floating-point operations so far.
    """

    def __init__(self, before: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._shapes = ShapeMemory()
        self._sizes: dict[int, int] = {tensor.untyped_storage()._cdata: 0 for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, *inputs: Any) -> Any:
        """Run an operation and count the new storages among its outputs."""
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
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def _arguments(args: Any = (), kwargs: Any = None) -> tuple[Any, dict[str, Any]]:
    """Return the inputs that PyTorch passes to a mode, which may leave out both kinds."""
    return args, kwargs or {}


class _NoData(TorchFunctionMode):
    """Makes conditions on data of the meta device false, since there is no data, and lets masks select everything.

    In Wan 2.2, whose two transformers have the same shape, the second one then acts. Texts have the largest length, so
    a mask selects all tokens and its inverse none.
    """

    def __torch_function__(self, func: Any, types: Any, *inputs: Any) -> Any:
        """Run a function, unless it reads data that do not exist."""
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
    """Compute attention by one kernel that keeps no scores, as GPUs do.

    On the meta device, PyTorch uses matrix products that keep all scores; the fused kernel for the CPU works there too.
    """
    if not query.is_meta or further or options.get("enable_gqa"):
        return scaled_dot_product_attention(query, key, value, *further, **options)
    options.pop("enable_gqa", None)
    mask = options.pop("attn_mask", None)
    if mask is not None and (mask.dtype == torch.bool or not mask.is_meta):
        mask = mask.to(query)  # the kernel takes masks as scores
    return _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=mask, **options)[0]


def trace(work: Callable[[], Any], before: Iterable[Tensor] = ()) -> Trace:
    """Run some work and measure it.

    Args:
        work: function that computes on tensors of the meta device, or of a real one.
        before: tensors that exist already, such as weights.

    Returns:
        Memory and arithmetic of the work.
    """
    meter = Meter(before)
    # not a mode, which PyTorch leaves while the backward pass recomputes blocks
    with patch.object(functional, "scaled_dot_product_attention", _fused_attention), _NoData(), meter:
        kept = work()
    still = meter.live
    del kept
    return Trace(meter.peak, still, meter.flops)
