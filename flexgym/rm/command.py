"""The ``flexgym.rm`` command: training of the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flexgym.terminal import teaching_errors

PROGRAM = "flexgym.rm"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
train_app = typer.Typer(no_args_is_help=True, help="Train a judge.")
app.add_typer(train_app, name="train")

Overrides = Annotated[list[str] | None, typer.Argument(help="such as training.lr=1e-5 run.minutes=60")]
ConfigOption = Annotated[str, typer.Option(help="a recipe: a file, or the name of a shipped one")]
Resume = Annotated[Path | None, typer.Option(help="a run folder, or one checkpoint in it")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check data, model and memory, and stop.")]


@app.callback()
def _root() -> None:
    """Training of vision-language judges."""


@train_app.command()
def sft(
    overrides: Overrides = None,
    *,
    config: ConfigOption = "rm_sft_qwen3vl_8b.yaml",
    resume: Resume = None,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune on reasoning traces (SFTRow files)."""
    from flexgym.rm.sft import RewardSFTConfig

    with teaching_errors():
        _train(RewardSFTConfig(), overrides, config, resume=resume, dry_run=dry_run, stage="sft")


@train_app.command()
def dpo(
    overrides: Overrides = None,
    *,
    config: ConfigOption = "rm_dpo_qwen3vl_8b.yaml",
    resume: Resume = None,
    dry_run: DryRun = False,
) -> None:
    """Direct preference optimisation on pairs of traces (DPORow files)."""
    from flexgym.rm.dpo import RewardDPOConfig

    with teaching_errors():
        _train(RewardDPOConfig(), overrides, config, resume=resume, dry_run=dry_run, stage="dpo")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="a run folder, or one checkpoint in it")],
    out: Annotated[Path, typer.Argument(help="the folder to make")],
    dtype: Annotated[str, typer.Option(help="of the weights: bfloat16 or float32")] = "bfloat16",
) -> None:
    """Make a checkpoint folder for transformers and vLLM, with an adapter merged into the weights."""
    from flexgym.rllib.training_run import saved_recipe
    from flexgym.rm.saving import export_judge
    from flexgym.rm.training_run import JUDGE
    from flexgym.runs.checkpoints import resolve_checkpoint

    with teaching_errors():
        source = saved_recipe(run)["judge"]["source"]
        folder = export_judge(resolve_checkpoint(run).resolve() / JUDGE, source, out, dtype=dtype)
        Console().print(f"Judge: {folder}", markup=False, soft_wrap=True)


def _train(
    settings: Any, overrides: list[str] | None, recipe_name: str, *, resume: Path | None, dry_run: bool, stage: str
) -> None:
    from flexgym.rllib.recipe import apply_overrides, apply_recipe, load_recipe
    from flexgym.rllib.training_run import RunSettings, saved_recipe
    from flexgym.rm.plan import make_plan
    from flexgym.rm.training_run import RewardModelRun

    recipe = apply_overrides(saved_recipe(resume) if resume else load_recipe(recipe_name), overrides or [])
    run = RunSettings.parse(recipe.pop("run", None) or {})
    apply_recipe(settings, recipe)
    if dry_run:
        for line in make_plan(settings).lines():
            Console().print(line, markup=False, highlight=False, soft_wrap=True)
        return
    settings.validate()
    RewardModelRun(settings, run, resume=resume, command=[PROGRAM, "train", stage]).train()


def main() -> None:
    """Entry point of the console script."""
    app(prog_name=PROGRAM)
