"""Print a plan to the terminal."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from flexgym.planning.devices import GIB
from flexgym.planning.plan import PARTS, Plan


def show(plan: Plan, *, title: str) -> None:
    """Print the table of a plan: GiB by part and phase, and time.

    Args:
        plan: plan to print.
        title: name of what is planned.
    """
    device = plan.device
    table = Table("GiB", title=f"{title} on {device.name}: each learner")
    for phase in plan.phases:
        table.add_column(phase.name, justify="right")
    for part in PARTS:
        if any(phase.parts[part] for phase in plan.phases):
            table.add_row(part, *(f"{phase.parts[part] / GIB:.2f}" for phase in plan.phases))
    table.add_section()
    table.add_row(f"all, of {device.usable / GIB:.1f}", *(f"{phase.bytes / GIB:.2f}" for phase in plan.phases))
    table.add_row("10^12 operations", *(f"{phase.flops / 1e12:,.3g}" for phase in plan.phases))
    table.add_row("seconds", *(f"{phase.seconds:,.3g}" for phase in plan.phases))
    console = Console(soft_wrap=True)
    console.print(table)
    for line in _lines(plan):
        console.print(line)


def _lines(plan: Plan) -> list[str]:
    """Return the lines below the table."""
    settings, device = plan.settings, plan.device
    rate = device.tflops[settings.dtype] * device.efficiency
    dtype = str(settings.dtype).removeprefix("torch.")
    trained = f"trains {plan.trained:,} parameters of an adapter to {plan.parameters:,} frozen ones"
    if settings.mode == "full":
        trained = f"trains all {plan.trained:,} parameters"
    host = ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in plan.host.items())
    if settings.latents_dtype == torch.float32:
        host += " (rollout.latents_dtype=bfloat16 halves the stored latents)"
    return [
        f"{trained}, in {dtype}",
        f"an iteration takes {plan.seconds:,.3g} s at {rate:,.3g} x 10^12 operations per second, without judging and"
        " verification",
        f"memory of the host: {host}",
    ]
