"""A model cut over the learners by FSDP2, for those that one device cannot hold."""

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
    """Return whether a value is one learner's part of a sharded one."""
    # Importing distributed tensors takes a second, and where nobody has there are none.
    distributed = sys.modules.get("torch.distributed.tensor")
    return distributed is not None and isinstance(value, distributed.DTensor)


def over_learners(device: torch.device, learners: int) -> DeviceMesh:
    """The mesh of all learners; every one of them must call it."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (learners,))


def shard(model: Any, mesh: DeviceMesh, *, compute_dtype: torch.dtype | None = None) -> None:
    """Leave each learner its part of every parameter, on the device of the mesh.

    A block of layers is put together for its own forward and backward only, the rest of the model for those of the
    whole. Parts move to the device one after the other.

    Args:
        model: of transformers or diffusers, or of peft around it; whole, and the same on all learners.
        mesh: the learners.
        compute_dtype: that parameters are put together in; each one's own when None. Gradients are then added up over
            the learners in float32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    reduce_dtype = torch.float32 if compute_dtype else None
    # Autocast decides what inputs are cast: tables of sines, for one, are not.
    precision = MixedPrecisionPolicy(compute_dtype, reduce_dtype, cast_forward_inputs=False)
    for part in blocks_of(model):
        fully_shard(part, mesh=mesh, mp_policy=precision)
    # The outermost one would else stay whole between forward and backward, and after a forward without gradients.
    fully_shard(model, mesh=mesh, mp_policy=precision, reshard_after_forward=True)


def blocks_of(model: Any) -> list[nn.Module]:
    """The blocks of layers that `shard` puts together one at a time.

    Args:
        model: see `shard`.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(base, "_no_split_modules", None) or getattr(base, "_repeated_blocks", None) or ())
    return [part for part in model.modules() if type(part).__name__ in names]


def whole(value: Tensor) -> Tensor:
    """A value put together from the parts of all learners; every one of them must call it. Other values stay."""
    return value.full_tensor() if is_sharded(value) else value


def check_gathered(values: Iterable[Tensor]) -> None:
    """Refuse parts where whole values are asked for.

    Raises:
        CheckpointError: any of the values is cut over the learners.
    """
    if any(is_sharded(value) for value in values):
        raise CheckpointError(
            "expected the weights of a sharded model to be gathered from all learners, and they were not: ask the"
            " algorithm for its state, or call gather_state on every learner"
        )


def assembled(model: Any, *, keep: bool = True) -> Any:
    """A model of diffusers put together on the CPU, to be saved; every learner must call it.

    Args:
        model: cut over the learners. Of one with an adapter, the frozen weights stay without memory.
        keep: whether this learner wants it.

    Returns:
        A model of the plain class; None where it is not wanted.
    """
    from torch.distributed.fsdp import FSDPModule

    adapters = getattr(model, "peft_config", {})
    values = model.state_dict(keep_vars=True).items()
    state = copies(((name, value) for name, value in values if value.requires_grad or not adapters), keep=keep)
    if not keep:
        return None
    plain: Any = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
    with torch.device("meta"):
        whole_model = plain.from_config(model.config)
        for name, adapter in adapters.items():
            whole_model.add_adapter(adapter, name)
    whole_model.load_state_dict(state, strict=not adapters, assign=True)
    return whole_model


def part_like(value: Tensor, model: Tensor) -> Tensor:
    """This learner's part of a whole value, cut as ``model`` is; the value itself where that is not cut."""
    if not is_sharded(model) or is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(device=model.device, dtype=model.dtype)
    # Each learner has the whole value: nobody needs to be sent a part.
    return distribute_tensor(value, model.device_mesh, model.placements, src_data_rank=None)


def local_part(value: Tensor) -> Tensor:
    """The memory of this learner's part of a value; the value itself where it is not cut. Without gradients."""
    with torch.no_grad():
        return value.to_local() if is_sharded(value) else value


def copies(values: Iterable[tuple[str, Tensor]], *, keep: bool = True) -> dict[str, Tensor]:
    """Whole values as copies on the CPU; where any is cut, every learner must call it.

    Args:
        values: by name; one that stands under two names stays one.
        keep: whether this learner wants them; where not, the result is empty.
    """
    made: dict[int, Tensor] = {}
    found: dict[str, Tensor] = {}
    for name, value in values:
        together = whole(value) if id(value) not in made else value
        if keep:
            found[name] = made.setdefault(id(value), together.detach().cpu().clone())
    return found
