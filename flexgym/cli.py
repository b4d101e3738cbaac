"""The ``flexgym`` command: check a machine, plan or measure a training, evaluate, report on and export runs."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table
from typer.core import TyperCommand, TyperGroup

from flexgym.core.terminal import say, teaching_errors, terminal
from flexgym.planning.command import plan

LATER = {
    "bench": (
        "flexgym.bench.command",
        "Measure sampling, decoding, judge and update of a recipe on this machine, and its memory against the plan.",
    ),
    "config": ("flexgym.config.command", "What recipes can hold."),
    "judge": ("flexgym.commands.judge", "Compare and rank samples with a judge, calibrate a judge, or serve one."),
}
"""Module and help of the groups of commands that are loaded when they are called, since that takes a second."""


class _Commands(TyperGroup):
    """The commands, of which ``--help`` loads none."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted([*super().list_commands(ctx), *LATER])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in LATER:
            return TyperCommand(cmd_name, help=LATER[cmd_name][1])  # for the list
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, *rest = args
        return (name, load_command(name), rest) if name in LATER else super().resolve_command(ctx, args)


def load_command(name: str) -> Any:
    """Import one of `LATER`."""
    return typer.main.get_command(importlib.import_module(LATER[name][0]).app)


app = typer.Typer(cls=_Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(plan)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"flexgym {version('flexgym')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Train image and video generators with reinforcement learning."""


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": [],  # words after the name belong to the agent, --help among them
    },
    add_help_option=False,
)
def train(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="the agent, such as pref_grpo; then as for python -m agents.NAME")] = "",
) -> None:
    """Train with an agent: NAME, then --config, overrides and --help as of `python -m agents.NAME`."""
    from flexgym.commands.train import check_command, command_names, run_command

    if name in ("", "--help"):
        say(context.get_help(), f"Agents: {', '.join(command_names())}. Settings: flexgym train NAME --help.")
        return
    with teaching_errors():
        check_command(name)
    run_command(name, context.args, command=f"flexgym train {name}")


@app.command()
def recipes() -> None:
    """List the shipped recipes, which agents and `flexgym.rm train` take by name after --config."""
    from flexgym.config.recipe import load_recipe, shipped_recipes

    shipped = shipped_recipes()
    # recipes are there to be typed: the other columns give way, over several lines where they must
    whole = Column("recipe", no_wrap=True, min_width=max(map(len, shipped), default=0))
    table = Table(whole, *(Column(name, overflow="fold") for name in ("environment or judge", "reward", "what trains")))
    for name, path in shipped.items():
        recipe = load_recipe(path)
        judge, reward = recipe.get("judge", {}), recipe.get("reward", {})
        subject = recipe.get("environment", {}).get("env", judge.get("source", ""))
        mode = recipe.get("generator", judge).get("mode", "")
        table.add_row(name, subject, reward.get("name", ""), mode)
    terminal().print(table)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="a run folder, or one checkpoint in it")],
    out: Annotated[Path, typer.Argument(help="the folder to make")],
) -> None:
    """Copy the trained generator out of a run, as an adapter or a pipeline that diffusers loads."""
    from flexgym.runs.export import export_generator

    with teaching_errors():
        exported = export_generator(run, out)
        lines = [f"Generator of iteration {exported.iteration}: {exported.folder}", *exported.loading]
        say(*lines)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="a run folder, or one checkpoint in it")],
    *,
    split: Annotated[str, typer.Option(help="validation, for tuning; test, for reporting; or training")] = "validation",
    num_prompts: Annotated[
        int | None, typer.Option(help="number of prompts; by default that of the run", min=1)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="seed of prompts and first latents; by default that of the run", min=0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the row as JSON")] = False,
) -> None:
    """Verify a run on captions of the small world before and after training, and record the result in its folder."""
    from flexgym.rllib.evaluation.evaluate import Question, evaluate_and_record
    from flexgym.rllib.evaluation.report import remarks, table

    with teaching_errors():
        recorded = evaluate_and_record(run, Question(split, num_prompts=num_prompts, seed=seed))
        if as_json:
            say(json.dumps(recorded.evaluation.row(), indent=1))
            return
        terminal().print(table(recorded.evaluation))
        say(*remarks(recorded))


@app.command()
def doctor(
    *,
    root: Annotated[Path, typer.Option(help="folder of the runs, as run.root")] = Path("runs"),
    shared: Annotated[list[Path] | None, typer.Option(help="folder that other machines use too; repeatable")] = None,
    port: Annotated[list[int] | None, typer.Option(help="port that must be free on this machine; repeatable")] = None,
    connect: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT of another machine that must answer; repeatable")
    ] = None,
    judge: Annotated[
        list[str] | None, typer.Option(help="address of a judge server, such as http://host:8000/v1; repeatable")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="environment variable with the key of the judge servers")
    ] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="check every machine of the running Ray cluster")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON: a list of findings")] = False,
) -> None:
    """Check a machine or a cluster and say what to do about each finding; exit with status 1 if there is a problem."""
    from flexgym.doctor.examination import Wishes, examine
    from flexgym.doctor.report import show

    with teaching_errors():
        wishes = Wishes(
            root=root,
            shared=tuple(shared or ()),
            ports=tuple(port or ()),
            connections=tuple(connect or ()),
            judges=tuple(judge or ()),
            api_key_env=api_key_env,
        )
        if cluster:
            from flexgym.rllib.cluster_doctor import examine_cluster

            findings = examine_cluster(wishes)
        else:
            findings = examine(wishes)
        if as_json:
            say(json.dumps([vars(finding) for finding in findings], indent=1))
        else:
            show(findings)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="run folders, and folders of `flexgym.rm evaluate`", show_default=False)
    ],
    *,
    out: Annotated[Path, typer.Option(help="the HTML file to write")] = Path("report.html"),
    serve: Annotated[
        bool, typer.Option("--serve", help="show the page on this machine, live, rather than write a file")
    ] = False,
    port: Annotated[int, typer.Option(help="port of --serve; 0 takes a free one")] = 8765,
) -> None:
    """Write one HTML file about runs: settings, curves, samples, assessments, reward hacking, time and cost."""
    from flexgym.report.command import serve_report, write_report

    with teaching_errors():
        if serve:
            serve_report(runs, port)
        else:
            write_report(runs, out)


def main() -> None:
    """Run the console script."""
    app()


if __name__ == "__main__":
    main()
