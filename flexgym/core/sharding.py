"""Shard models over the learners with FSDP2, for models that do not fit on one device."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flexgym.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

SHARDINGS = ("none", "fsdp")


def is_sharded(value: Tensor) -> TypeIs[DTensor]:
    """Return True if a tensor is the shard of this learner, not a complete tensor."""
    # Importing distributed tensors takes a second. If nothing has imported them, there are none.
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(value, distributed.DTensor)


def over_learners(device: torch.device, learners: int) -> DeviceMesh:
    """Create the mesh of all learners; each of them must call it."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (learners,))


def shard(model: Any, mesh: DeviceMesh, *, compute_dtype: torch.dtype | None = None) -> None:
    """Shard each parameter over the learners, on the device of the mesh.

    A block of layers is gathered for its own forward and backward only; the other parameters are gathered for those of
    the entire model. Blocks move to the device one after the other.

    Args:
        model: model of transformers or diffusers, or of peft around one; unsharded, and equal on all learners.
        mesh: mesh of the learners.
        compute_dtype: precision of gathered parameters, with gradients reduced over the learners in float32; None for
            the precision of each parameter.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    reduce_dtype = torch.float32 if compute_dtype else None
    # Autocast determines which inputs are cast: tables of sines, for example, are not.
    precision = MixedPrecisionPolicy(compute_dtype, reduce_dtype, cast_forward_inputs=False)
    for part in blocks_of(model):
        fully_shard(part, mesh=mesh, mp_policy=precision)
    # By default the outermost module stays gathered between forward and backward, and after a forward without gradient.
    fully_shard(model, mesh=mesh, mp_policy=precision, reshard_after_forward=True)


def blocks_of(model: Any) -> list[nn.Module]:
    """Return the blocks of layers that `shard` gathers one at a time.

    Args:
        model: as for `shard`.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(base, "_no_split_modules", None) or getattr(base, "_repeated_blocks", None) or ())
    return [part for part in model.modules() if type(part).__name__ in names]


def whole(value: Tensor) -> Tensor:
    """Gather a tensor from all learners, each of which must call this; an unsharded tensor is returned unchanged."""
    return value.full_tensor() if is_sharded(value) else value


def check_gathered(values: Iterable[Tensor]) -> None:
    """Raise an error unless all values are unsharded.

    Raises:
        CheckpointError: a value is sharded.
    """
    if any(is_sharded(value) for value in values):
        raise CheckpointError(
            "expected the gathered weights of a sharded model, got the shard of one learner: get the state from the"
            " algorithm, or call gather_state on every learner"
        )


def assembled(model: Any, *, keep: bool = True) -> Any:
    """Gather a sharded diffusers model on the CPU, for saving; every learner must call it.

    Args:
        model: sharded model. If it has an adapter, the frozen weights of the result are on the meta device.
        keep: True on learners that need the result.

    Returns:
        An unsharded model; None if ``keep`` is False.
    """
    from torch.distributed.fsdp import FSDPModule

    adapters = getattr(model, "peft_config", {})
    values = model.state_dict(keep_vars=True).items()
    state = copies(((name, value) for name, value in values if value.requires_grad or not adapters), keep=keep)
    if not keep:
        return None
    plain: Any = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
    with torch.device("meta"):
        gathered = plain.from_config(model.config)
        for name, adapter in adapters.items():
            gathered.add_adapter(adapter, name)
    gathered.load_state_dict(state, strict=not adapters, assign=True)
    return gathered


def part_like(value: Tensor, model: Tensor) -> Tensor:
    """Shard a tensor as ``model`` is sharded, and return the shard of this learner; unchanged if it is unsharded."""
    if not is_sharded(model) or is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(device=model.device, dtype=model.dtype)
    # Each learner has the entire value, so nothing is sent.
    return distribute_tensor(value, model.device_mesh, model.placements, src_data_rank=None)


def local_part(value: Tensor) -> Tensor:
    """Return the shard of this learner as a plain tensor without gradient, or the tensor itself if it is unsharded."""
    with torch.no_grad():
        return value.to_local() if is_sharded(value) else value


def copies(values: Iterable[tuple[str, Tensor]], *, keep: bool = True) -> dict[str, Tensor]:
    """Copy tensors to the CPU, gathered from all learners; if any is sharded, every learner must call it.

    Args:
        values: tensors by name; a tensor with two names is copied once.
        keep: True on learners that need the copies; the result is empty on the others.
    """
    made: dict[int, Tensor] = {}
    found: dict[str, Tensor] = {}
    for name, value in values:
        together = whole(value) if id(value) not in made else value
        if keep:
            found[name] = made.setdefault(id(value), together.detach().cpu().clone())
    return found
