"""The command ``flexgym plan``."""

from __future__ import annotations

from typing import Annotated

import typer

from flexgym.core.terminal import teaching_errors


def plan(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="overrides of the recipe, such as rollout.group_size=8")
    ] = None,
    *,
    config: Annotated[
        str, typer.Option(help="recipe that trains a generator: a file, or the name of a shipped recipe")
    ] = "pref_grpo_shapes_t2i",
    device: Annotated[
        str | None, typer.Option(help="device to plan for, such as h100 (the default) or rtx4090")
    ] = None,
    gib: Annotated[
        float | None, typer.Option(help="memory of the device in GiB; with --tflops in place of --device")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(help="rate that the device reaches, in 10^12 operations per second")
    ] = None,
) -> None:
    """Plan memory and time of a training before anything is loaded; exit with status 2 if it cannot fit."""
    from flexgym.config.recipe import apply_overrides, load_recipe
    from flexgym.planning.advice import refusal
    from flexgym.planning.devices import choose_device
    from flexgym.planning.plan import Planner
    from flexgym.planning.planned import Planned
    from flexgym.planning.report import show

    with teaching_errors():
        planner = Planner(choose_device(device, gib=gib, tflops=tflops))
        made = planner.plan(Planned.read(apply_overrides(load_recipe(config), overrides or [])))
        show(made, title=config)
        if not made.fits:
            raise refusal(planner, made)
