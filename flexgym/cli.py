"""The ``flexgym`` command."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flexgym.judge.commands import app as judge_app
from flexgym.planning.command import plan

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(judge_app, name="judge")
app.command()(plan)


def _print_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"flexgym {version('flexgym')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Reinforcement learning on image and video generators."""


@app.command()
def recipes() -> None:
    """List the shipped recipes, which agents and `flexgym.rm train` take by name after --config."""
    from flexgym.rllib.recipe import load_recipe, shipped_recipes

    table = Table("recipe", "environment or judge", "reward", "what trains")
    for name, path in shipped_recipes().items():
        recipe = load_recipe(path)
        judge, reward = recipe.get("judge", {}), recipe.get("reward", {})
        subject = recipe.get("environment", {}).get("env", judge.get("source", ""))
        mode = recipe.get("generator", judge).get("mode", "")
        table.add_row(name, subject, reward.get("name", ""), mode)
    Console().print(table)


def main() -> None:
    """Entry point of the console script."""
    app()
