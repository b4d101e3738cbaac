"""``flexgym config``: what recipes can hold."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from flexgym.config.agent import AgentSettings
from flexgym.config.describe import settings_schema
from flexgym.config.judge import DPOSettings, SFTSettings
from flexgym.config.sb3 import SB3Settings
from flexgym.core.settings import Settings
from flexgym.core.terminal import say, teaching_errors

KINDS: dict[str, type[Settings]] = {"rm_sft": SFTSettings, "rm_dpo": DPOSettings, "sb3": SB3Settings}
"""The settings of recipes that are not those of an agent, by name."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help="What recipes can hold.")


@app.callback()
def _root() -> None:
    """Show what recipes can hold."""


@app.command()
def schema(
    agent: Annotated[
        str, typer.Option(help="an algorithm such as grpo or 'package.module:Class', or rm_sft, rm_dpo or sb3")
    ] = "grpo",
) -> None:
    """Print the JSON Schema of recipes, from which editors complete and check them.

    Write it to a file and name that in the first line of a recipe: # yaml-language-server: $schema=FILE
    """
    with teaching_errors():
        text = json.dumps(settings_schema(settings_kind(agent)), indent=2, ensure_ascii=False)
        say(text)


def settings_kind(agent: str) -> type[Settings]:
    """Return the settings of the recipes of an agent.

    Args:
        agent: name of an algorithm, or of `KINDS`.

    Raises:
        UnknownNameError: no such agent; the message names the nearest one.
    """
    if agent in KINDS:
        return KINDS[agent]
    from flexgym.algorithm.base import algorithm_class

    return AgentSettings.with_algorithm(algorithm_class(agent).Settings)
