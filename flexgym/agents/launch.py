"""Starts an agent by its name; ``--help`` is answered from a file, without PyTorch.

The settings of an algorithm are declared beside its loss, and loading that takes seconds. `SHOWN` holds what ``--help``
shows of them; ``python -m tools.stubs`` writes it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexgym.core.json_text import read_json_file

SHOWN = Path(__file__).with_name("shown.json")


def launch(name: str, arguments: Sequence[str] | None = None, *, command: str = "") -> None:
    """Parse the command line of an agent and train.

    Args:
        name: of the agent, one of `flexgym.commands.train.command_names`.
        arguments: words after those of the command; None takes the words of this process.
        command: words that started the program, for messages; by default ``python -m agents.<name>``.
    """
    words = sys.argv[1:] if arguments is None else arguments
    shown = read_json_file(SHOWN)["agents"] if "--help" in words else {}
    main = _shown_agent(shown[name]) if name in shown else importlib.import_module(f"flexgym.agents.{name}").main
    main(words, command=command or f"python -m agents.{name}")


def _shown_agent(facts: dict[str, Any]) -> Any:
    from flexgym.agents.base import Agent

    return Agent(**facts)
