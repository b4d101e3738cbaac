"""Show a plan at the terminal."""

from __future__ import annotations

import torch
from rich.table import Table

from flexgym.algorithm.effects import effect_notes
from flexgym.core.terminal import terminal
from flexgym.core.units import GIB
from flexgym.planning.plan import PARTS, Plan


def show(plan: Plan, *, title: str) -> None:
    """Print the table of a plan: GiB by part and phase, and time.

    Args:
        plan: plan to print.
        title: name of the training.
    """
    device = plan.device
    table = Table("GiB", title=f"{title} on {device.name}: each learner")
    for phase in plan.phases:
        table.add_column(phase.name, justify="right")
    for part in PARTS:
        if any(phase.parts[part] for phase in plan.phases):
            table.add_row(part, *(f"{phase.parts[part] / GIB:.2f}" for phase in plan.phases))
    table.add_section()
    table.add_row(f"sum, of {device.usable / GIB:.1f}", *(f"{phase.bytes / GIB:.2f}" for phase in plan.phases))
    table.add_row("10^12 operations", *(f"{phase.flops / 1e12:,.3g}" for phase in plan.phases))
    table.add_row("seconds", *(f"{phase.seconds:,.3g}" for phase in plan.phases))
    console = terminal(soft_wrap=True)
    console.print(table)
    for line in _lines(plan):
        console.print(line)


def _lines(plan: Plan) -> list[str]:
    """Return the lines below the table."""
    planned, device = plan.planned, plan.device
    rate = device.tflops[planned.dtype] * device.efficiency
    dtype = planned.settings.generator.dtype
    trained = f"trainable: an adapter of {plan.trained:,} parameters on {plan.parameters:,} frozen ones, in {dtype}"
    if planned.settings.generator.mode == "full":
        trained = f"trainable: all {plan.trained:,} parameters, in {dtype}"
    host = ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in plan.host.items() if size >= GIB / 200)
    host = host or "less than 0.01 GiB"
    if planned.latents_dtype == torch.float32:
        host += " (rollout.latents_dtype=bfloat16 halves the stored latents)"
    return [
        trained,
        f"an iteration takes {plan.seconds:,.3g} s at {rate:,.3g} x 10^12 operations per second, without rewards and"
        " verification",
        f"in host memory: {host}",
        *effect_notes(planned.algorithm, planned.settings.training),
    ]
