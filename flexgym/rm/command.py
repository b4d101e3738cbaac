"""The ``flexgym.rm`` command: training of the judge."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flexgym.commands.judge_options import JudgeOptions
from flexgym.config.recipe import Recipe
from flexgym.core.terminal import teaching_errors, with_options
from flexgym.rm.options import AskOptions, DataOptions, RefereeOptions
from flexgym.rm.replies import Asker, Cost
from flexgym.runs.settings import RunSettings

if TYPE_CHECKING:
    from flexgym.runs.loop import TrainingRun

PROGRAM = "flexgym.rm"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
train_app = typer.Typer(no_args_is_help=True, help="Train a judge.")
app.add_typer(train_app, name="train")

PairFiles = Annotated[list[Path], typer.Argument(help="preference pairs, JSON Lines or Parquet")]
STAGES = {
    "sft": "Fine-tune on reasoning traces (SFTRow files).",
    "dpo": "Direct preference optimization on pairs of traces (DPORow files).",
}


@app.callback()
def _root() -> None:
    """Training of vision-language judges."""


def _stage(name: str) -> Any:
    """Return the settings of a stage, ``"sft"`` or ``"dpo"``, as they are by default."""
    if name == "sft":
        from flexgym.rm.sft import RewardSFTConfig

        return RewardSFTConfig()
    from flexgym.rm.dpo import RewardDPOConfig

    return RewardDPOConfig()


def _make_run(recipe: Recipe, resume: Path | None, command: Sequence[str], *, stage: str) -> TrainingRun:
    from flexgym.rllib.recipe import apply_recipe
    from flexgym.rm.trainable import JudgeTrainable
    from flexgym.runs.loop import TrainingRun

    settings = RunSettings.parse(recipe.pop("run", None) or {})
    config = apply_recipe(_stage(stage), recipe)
    config.validate()
    config.check_devices()
    return TrainingRun(JudgeTrainable(config), settings, resume=resume, command=command)


def _plan(recipe: Recipe, *, stage: str) -> list[str]:
    from flexgym.rllib.recipe import apply_recipe
    from flexgym.rm.plan import make_plan

    RunSettings.parse(recipe.pop("run", None) or {})
    return make_plan(apply_recipe(_stage(stage), recipe)).lines()


for _name, _summary in STAGES.items():
    train_app.command(_name)(
        training_command(
            partial(_make_run, stage=_name),
            default_recipe=f"rm_{_name}_qwen3vl_8b.yaml",
            program=f"{PROGRAM} train {_name}",
            summary=_summary,
            dry_run=partial(_plan, stage=_name),
        )
    )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="a run folder, or one checkpoint in it")],
    out: Annotated[Path, typer.Argument(help="the folder to make")],
    dtype: Annotated[str, typer.Option(help="of the weights: bfloat16 or float32")] = "bfloat16",
) -> None:
    """Make a checkpoint folder for transformers and vLLM, with an adapter merged into the weights."""
    from flexgym.rm.saving import JUDGE, export_judge
    from flexgym.runs.checkpoints import resolve_checkpoint
    from flexgym.runs.recipe import saved_recipe

    with teaching_errors():
        source = saved_recipe(run)["judge"]["source"]
        folder = export_judge(resolve_checkpoint(run).resolve() / JUDGE, source, out, dtype=dtype)
        Console().print(f"Judge: {folder}", markup=False, soft_wrap=True)


@app.command()
@with_options(asked=AskOptions, data=DataOptions)
def distill(
    files: PairFiles,
    *,
    teacher: Annotated[list[str], typer.Option(help="server addresses, a folder, a hub id, or oracle")],
    keep_ties: Annotated[bool, typer.Option(help="ask about pairs without a winner, too")] = False,
    asked: AskOptions,
    data: DataOptions,
) -> None:
    """Ask a teacher about pairs and keep the traces that can be trusted (SFTRow file)."""
    from flexgym.judge.backends.base import Decoding
    from flexgym.rm.distill import distill as distill_traces

    with teaching_errors():
        items = data.items(files, asked.question, ties=keep_ties)
        with asked.opened(teacher) as opened, data.reply_file() as kept:
            asker = Asker(opened, kept)
            try:
                decoding = Decoding(max_tokens=asked.max_tokens)
                report = distill_traces(asker, items, data.out, decoding=decoding, overwrite=data.overwrite)
                _tell(report.lines())
            finally:
                _tell_cost("teacher", asker.cost, asked.price)


@app.command()
@with_options(referee=RefereeOptions, asked=AskOptions, data=DataOptions)
def pairs(
    files: PairFiles,
    *,
    judge: Annotated[list[str], typer.Option(help="server addresses, a folder or a hub id")],
    temperature: Annotated[float, typer.Option(help="of the two traces, whose seeds are 0 and 1")] = 0.7,
    referee: RefereeOptions,
    asked: AskOptions,
    data: DataOptions,
) -> None:
    """Ask a judge twice about each pair and pair a better trace with a worse one (DPORow file)."""
    from flexgym.rm.pairs import PairMaker, TraceSampling

    with teaching_errors():
        items = data.items(files, asked.question)
        sampling = TraceSampling(temperature, max_tokens=asked.max_tokens)
        with contextlib.ExitStack() as stack:
            kept = stack.enter_context(data.reply_file())
            other = stack.enter_context(referee.opened(asked, kept))
            asker = Asker(stack.enter_context(asked.opened(judge)), kept)
            try:
                maker = PairMaker(asker, other.judge, sampling=sampling)
                _tell(maker.write(items, data.out, overwrite=data.overwrite).lines())
            finally:
                _tell_cost("judge", asker.cost, asked.price)
                _tell_cost("trajectory judge", other.cost, asked.price)


@app.command()
@with_options(asked=JudgeOptions)
def evaluate(
    files: Annotated[list[Path], typer.Argument(help="of the benchmark, or preference pairs")],
    *,
    out: Annotated[Path, typer.Option(help="the folder of the report")],
    asked: JudgeOptions,
    benchmark: Annotated[str, typer.Option(help="whose files they are, such as genai_bench_image or mmrb2")] = "pairs",
    orders: Annotated[str, typer.Option(help="both, given or shuffled")] = "both",
    media: Annotated[Path | None, typer.Option(help="folder of images and videos; by default that of the file")] = None,
    batch: Annotated[int, typer.Option(help="pairs asked at a time")] = 16,
) -> None:
    """Measure how well a judge agrees with labelled pairs, each asked in both orders."""
    from flexgym.rm.evaluation_run import EvaluationRun

    with teaching_errors():
        run = EvaluationRun(files, out, benchmark=benchmark, orders=orders, media=media, batch=batch)
        with asked.opened() as opened:
            summary = run.write(opened, asked)
        _tell(run.lines(summary))


def _tell(lines: list[str]) -> None:
    for line in lines:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)


def _tell_cost(who: str, cost: Cost | None, price: tuple[float, float] | None) -> None:
    """Also after an interruption; nothing where nobody was asked."""
    if cost and (cost.requests or cost.reused):
        _tell([f"{who}: {cost.describe(price)}"])


def main() -> None:
    """Entry point of the console script."""
    app(prog_name=PROGRAM)
