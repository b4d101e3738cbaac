"""The command ``flexgym.rm``: data, training and evaluation of judges."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flexgym.commands.judge_options import JudgeOptions
from flexgym.config import DPOSettings, JudgeTrainingSettings, SFTSettings
from flexgym.config.judge import JudgeModelSettings
from flexgym.config.load import load_settings
from flexgym.config.recipe import Recipe
from flexgym.core.terminal import say, teaching_errors, with_options
from flexgym.rm.options import AskOptions, DataOptions, RefereeOptions
from flexgym.rm.replies import Asker, Cost
from flexgym.runs.command import Program, add_command

if TYPE_CHECKING:
    # Load torch and TRL, for which a command that only prints its help does not wait.
    from flexgym.rm.stage import Stage
    from flexgym.runs.loop import TrainingRun

S = TypeVar("S", bound=JudgeTrainingSettings)
PROGRAM = "flexgym.rm"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
train_app = typer.Typer(no_args_is_help=True, help="Train a judge.")
app.add_typer(train_app, name="train")

PairFiles = Annotated[list[Path], typer.Argument(help="preference pairs, JSON Lines or Parquet")]


@app.callback()
def _root() -> None:
    """Train, evaluate and export vision-language judges."""


def _stage(name: str) -> Stage[Any]:
    """Return the stage ``"sft"`` or ``"dpo"``; loads TRL, for which a wrong recipe does not wait."""
    if name == "sft":
        from flexgym.rm.sft import SFT

        return SFT()
    from flexgym.rm.dpo import DPO

    return DPO()


def _program(name: str, kind: type[S]) -> Program[S]:
    """Return the program that trains a stage.

    Args:
        name: ``"sft"`` or ``"dpo"``.
        kind: class of its settings.
    """

    def load(recipe: Recipe) -> S:
        return load_settings(kind, recipe)

    def make_run(settings: S, resume: Path | None, command: Sequence[str]) -> TrainingRun:
        from flexgym.rm.build import check_devices, judge_config
        from flexgym.rm.trainable import JudgeTrainable
        from flexgym.runs.loop import TrainingRun

        check_devices(settings)
        config = judge_config(settings, _stage(name))
        return TrainingRun(JudgeTrainable(config), settings.run, resume=resume, command=command)

    def dry_run(settings: S) -> list[str]:
        from flexgym.rm.plan import make_plan

        return make_plan(settings, _stage(name)).lines()

    return Program(
        f"{PROGRAM} train {name}",
        f"rm_{name}_qwen3vl_8b.yaml",
        load=load,
        make_run=make_run,
        kind=lambda: kind,
        dry_run=dry_run,
        small_recipe=f"rm_{name}_shapes.yaml",
    )


add_command(
    train_app, _program("sft", SFTSettings), name="sft", summary="Fine-tune on reasoning traces (SFTRow files)."
)
add_command(
    train_app,
    _program("dpo", DPOSettings),
    name="dpo",
    summary="Direct preference optimization on pairs of traces (DPORow files).",
)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="a run folder, or one checkpoint in it")],
    out: Annotated[Path, typer.Argument(help="folder to create")],
    dtype: Annotated[
        str | None, typer.Option(help="precision of the weights, bfloat16 or float32; by default that of the training")
    ] = None,
) -> None:
    """Export a judge to a checkpoint folder for transformers and vLLM, with an adapter merged into the weights."""
    from flexgym.rm.saving import JUDGE, export_judge
    from flexgym.runs.checkpoints import resolve_checkpoint
    from flexgym.runs.export import files_of
    from flexgym.runs.recipe import saved_recipe
    from flexgym.runs.storage import local_run

    with teaching_errors():
        judge = {"dtype": JudgeModelSettings.model_fields["dtype"].default, **saved_recipe(run)["judge"]}
        chosen = dtype or judge["dtype"]
        with local_run(run) as copy:
            checkpoint = resolve_checkpoint(copy)
            files_of(checkpoint, JUDGE)
            folder = export_judge(checkpoint / JUDGE, judge["source"], out, dtype=chosen)
        say(f"Judge: {folder} ({chosen})")


@app.command()
@with_options(asked=AskOptions, data=DataOptions)
def distill(
    files: PairFiles,
    *,
    teacher: Annotated[list[str], typer.Option(help="server addresses, a folder, a hub id, or oracle")],
    keep_ties: Annotated[bool, typer.Option(help="also ask about pairs without a winner")] = False,
    asked: AskOptions,
    data: DataOptions,
) -> None:
    """Ask a teacher about pairs and keep its correct traces (SFTRow file)."""
    from flexgym.rm.distill import distill as distill_traces

    with teaching_errors():
        items = data.items(files, asked, teacher, ties=keep_ties)
        with asked.opened(teacher) as opened, data.reply_file() as kept:
            asker = Asker(opened, kept)
            try:
                decoding = asked.decoding(teacher)
                report = distill_traces(asker, items, data.out, decoding=decoding, overwrite=data.overwrite)
                say(*report.lines())
            finally:
                _print_cost("teacher", asker.cost, asked.price)


@app.command()
@with_options(referee=RefereeOptions, asked=AskOptions, data=DataOptions)
def pairs(
    files: PairFiles,
    *,
    judge: Annotated[list[str], typer.Option(help="server addresses, a folder or a hub id")],
    temperature: Annotated[float, typer.Option(help="temperature of the two traces, whose seeds are 0 and 1")] = 0.7,
    referee: RefereeOptions,
    asked: AskOptions,
    data: DataOptions,
) -> None:
    """Ask a judge twice about each pair and pair a better trace with a worse one (DPORow file)."""
    from flexgym.rm.pairs import PairMaker, TraceSampling

    with teaching_errors():
        items = data.items(files, asked, judge)
        sampling = TraceSampling(temperature, max_tokens=asked.decoding(judge).max_tokens)
        with contextlib.ExitStack() as stack:
            kept = stack.enter_context(data.reply_file())
            other = stack.enter_context(referee.opened(asked, kept))
            asker = Asker(stack.enter_context(asked.opened(judge)), kept)
            try:
                maker = PairMaker(asker, other.judge, sampling=sampling)
                say(*maker.write(items, data.out, overwrite=data.overwrite).lines())
            finally:
                _print_cost("judge", asker.cost, asked.price)
                _print_cost("trajectory judge", other.cost, asked.price)


@app.command()
@with_options(asked=JudgeOptions)
def evaluate(
    files: Annotated[list[Path], typer.Argument(help="files of a benchmark, or preference pairs")],
    *,
    out: Annotated[Path, typer.Option(help="folder of the report")],
    asked: JudgeOptions,
    benchmark: Annotated[
        str, typer.Option(help="benchmark that the files belong to, such as genai_bench_image or mmrb2")
    ] = "pairs",
    orders: Annotated[
        str, typer.Option(help="which candidate is shown first: both in turn, given, or shuffled")
    ] = "both",
    media: Annotated[Path | None, typer.Option(help="folder of images and videos; by default that of the file")] = None,
    batch: Annotated[int, typer.Option(help="pairs per batch of questions")] = 16,
) -> None:
    """Measure the agreement of a judge with labeled pairs, each asked in both orders."""
    from flexgym.rm.evaluation_run import EvaluationRun

    with teaching_errors():
        run = EvaluationRun(files, out, benchmark=benchmark, orders=orders, media=media, batch=batch)
        with asked.opened() as opened:
            summary = run.write(opened, asked)
        say(*run.lines(summary))


def _print_cost(who: str, cost: Cost | None, price: tuple[float, float] | None) -> None:
    """Print the cost of a model, unless it was never asked."""
    if cost and (cost.requests or cost.reused):
        say(f"{who}: {cost.describe(price)}")


def main() -> None:
    """Run the console script."""
    app(prog_name=PROGRAM)
