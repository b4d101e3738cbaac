"""The ``flexgym`` command: check a machine, plan a training, list recipes, export weights, and run or check a judge."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from flexgym.commands.judge import app as judge_app
from flexgym.config.command import app as config_app
from flexgym.core.terminal import say, teaching_errors, terminal
from flexgym.planning.command import plan
from flexgym.runs.export import export_generator

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(judge_app, name="judge")
app.add_typer(config_app, name="config")
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
    with teaching_errors():
        exported = export_generator(run, out)
        lines = [f"Generator of iteration {exported.iteration}: {exported.folder}", *exported.loading]
        say(*lines)


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
