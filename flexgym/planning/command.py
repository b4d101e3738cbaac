"""The command ``flexgym plan``."""

from __future__ import annotations

from typing import Annotated

import typer

from flexgym.core.terminal import teaching_errors


def plan(
    overrides: Annotated[list[str] | None, typer.Argument(help="Overrides such as rollout.group_size=8.")] = None,
    *,
    config: Annotated[
        str, typer.Option(help="Recipe that trains a generator: a file or the name of a shipped one.")
    ] = "pref_grpo_shapes_t2i",
    device: Annotated[
        str | None, typer.Option(help="Device to plan for, such as h100 (the default) or rtx4090.")
    ] = None,
    gib: Annotated[
        float | None, typer.Option(help="Memory of the device in GiB; with --tflops, it replaces --device.")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(help="Achieved rate of the device in 10^12 operations per second.")
    ] = None,
) -> None:
    """Print the memory and time of a training run before anything is loaded; exit with status 2 if it does not fit."""
    from flexgym.config.recipe import apply_overrides, load_recipe
    from flexgym.planning.advice import does_not_fit
    from flexgym.planning.devices import choose_device
    from flexgym.planning.plan import Planner
    from flexgym.planning.report import show
    from flexgym.planning.settings import read_settings

    with teaching_errors():
        planner = Planner(choose_device(device, gib=gib, tflops=tflops))
        made = planner.plan(read_settings(apply_overrides(load_recipe(config), overrides or [])))
        show(made, title=config)
        if not made.fits:
            raise does_not_fit(planner, made)
