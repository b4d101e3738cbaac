"""The velocity of a family: guidance, known latents and packing around the calls of its transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.generators.conditioning import KNOWN, Conditioning, stack_rows, with_known, without_known
from flexgym.generators.family import Family


def predict(
    family: Family, latents: Tensor, time: Tensor, *, conditioning: Conditioning, held: torch.dtype | None = None
) -> Tensor:
    """Predict the velocity ``noise - clean`` of rows that share a forward.

    Args:
        family: how the pipeline does it.
        latents: ``[B, ...]``.
        time: time step of the scheduler for each row, float32 ``[B]``, see `flexgym.generators.levels.time_steps`.
        conditioning: B rows.
        held: precision of the latents of the pipeline's own call; None is that of the transformer.

    Returns:
        float32 ``[B, ...]``; 0 for latents that are known.

    Raises:
        ConfigError: the prompts were encoded without the unconditional branch, and guidance needs it.
    """
    images, prompts = conditioning.images, conditioning.prompts
    if images:
        latents = with_known(latents, conditioning)
        images = {name: tensor for name, tensor in images.items() if name != KNOWN}
        prompts = {**prompts, **images}
    hidden, timestep = family.pack(latents.to(family.dtype)), family.timestep(time, held or family.dtype)
    if not family.guided:
        packed = family.forward(hidden, timestep, prompts)
    elif not conditioning.empty:
        raise ConfigError(
            "these prompts were encoded without guidance: encode them with this generator's condition(), with the"
            " same guidance"
        )
    else:
        empty = {**conditioning.unconditional(), **images}
        conditional, unconditional = _branches(family, hidden, timestep, prompts=prompts, empty=empty)
        if family.full_precision is True:
            conditional, unconditional = conditional.float(), unconditional.float()
        packed = family.combine(conditional, unconditional, timestep)
    velocity = family.unpack(packed).float()
    return without_known(velocity, conditioning) if conditioning.images else velocity


def _branches(
    family: Family, hidden: Tensor, timestep: Tensor, *, prompts: Mapping[str, Tensor], empty: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Compute the conditional and the unconditional velocity."""
    if family.joint_guidance is None:
        return family.forward(hidden, timestep, prompts), family.forward(hidden, timestep, empty)
    one, other = (prompts, empty) if family.joint_guidance == "conditional first" else (empty, prompts)
    both = {name: stack_rows([one[name], other[name]]) for name in prompts}
    twice = hidden.repeat(2, *(1,) * (hidden.ndim - 1))
    first, second = family.forward(twice, timestep.repeat(2), both).chunk(2)
    return (first, second) if family.joint_guidance == "conditional first" else (second, first)


def check_effect(family: Family, given: Mapping[str, Any]) -> None:
    """Reject settings that have no effect because guidance is off.

    Args:
        family: under the resolved settings.
        given: settings that a user asked for, by name.

    Raises:
        ConfigError: naming the setting and the one that turns guidance on.
    """
    scale = "true_cfg_scale" if family.embedded_guidance else "guidance_scale"
    for name in ("guidance_scale_2", "negative_prompt"):
        if given.get(name) and not family.guided:
            raise ConfigError(
                f"{name}={given[name]!r} has no effect without classifier-free guidance: set {scale} above 1 (it is"
                f" {getattr(family.settings, scale)} now), or leave {name} out"
            )
