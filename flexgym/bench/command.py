"""The command ``flexgym bench``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flexgym.core.terminal import teaching_errors, terminal


def bench(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="overrides of the recipe, such as rollout.group_size=8")
    ] = None,
    *,
    config: Annotated[
        str, typer.Option(help="recipe that trains a generator: a file, or the name of a shipped recipe")
    ] = "pref_grpo_shapes_t2i",
    seconds: Annotated[float, typer.Option(help="time for everything; a round that has begun is finished")] = 600.0,
    repeats: Annotated[int, typer.Option(help="rounds at most, of which medians are shown")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write the figures to this file, for --compare")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="list the slowest operators of rollout and update")
    ] = False,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights",
            help="random weights and texts, built-in prompts and a reward by rules: no download and no judge",
        ),
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="measure nothing: print the ratios of two files of --json", metavar="A.json B.json"),
    ] = None,
) -> None:
    """Measure sampling, decoding, judge and update of a recipe on this machine, and its memory against the plan."""
    with teaching_errors():
        if compare is not None:
            _compare(*compare)
            return
        _quiet_profiler()
        from flexgym.bench.report import show
        from flexgym.bench.result import check_target, write_result
        from flexgym.bench.run import Options, run_bench

        options = Options(
            config,
            overrides=tuple(overrides or ()),
            seconds=seconds,
            rounds=repeats,
            profile=profile,
            random_weights=random_weights,
        )
        if json_file is not None:
            check_target(json_file)
        progress = terminal(stderr=True)
        result = run_bench(options, lambda line: progress.print(line, soft_wrap=True))
        if json_file is not None:
            write_result(result, json_file)
        show(result)


def _quiet_profiler() -> None:
    """Keep the profiler's own messages from the terminal; it reads these variables when PyTorch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _compare(first: Path, second: Path) -> None:
    from flexgym.bench.compare import differences, ratios
    from flexgym.bench.report import show_comparison
    from flexgym.bench.result import read_result

    one, other = read_result(first), read_result(second)
    show_comparison(ratios(one, other), differences(one, other))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(bench)
