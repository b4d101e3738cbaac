"""Starts an agent by its name; ``--help`` is answered without PyTorch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any


def launch(name: str, arguments: Sequence[str] | None = None, *, command: str = "") -> None:
    """Parse the command line of an agent and train.

    Args:
        name: of the agent, one of `flexgym.commands.train.command_names`.
        arguments: words after those of the command; None takes the words of this process.
        command: words that started the program, for messages; by default ``python -m agents.<name>``.
    """
    words = sys.argv[1:] if arguments is None else arguments
    main = (_shown_agent(name) if "--help" in words else None) or importlib.import_module(f"flexgym.agents.{name}").main
    main(words, command=command or f"python -m agents.{name}")


def _shown_agent(name: str) -> Any:
    """Return an agent that is made for ``--help`` alone; None if the file of what is shown has no such agent."""
    from flexgym.agents.base import Agent
    from flexgym.agents.shown import shown_agents

    facts = shown_agents().get(name)
    return Agent(**facts) if facts else None
