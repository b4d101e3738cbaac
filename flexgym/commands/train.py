"""The commands of the agents: their names, and the words that start one in a process of its own."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from flexgym.core.errors import unknown_name

_HAS_COMMAND = re.compile(r"^(main = |def main\()", re.MULTILINE)


def command_names() -> list[str]:
    """Return the names of the agents that have a command, sorted: modules of `flexgym.agents` with a ``main``."""
    files = sorted((Path(__file__).resolve().parents[1] / "agents").glob("*.py"))
    return [path.stem for path in files if _HAS_COMMAND.search(path.read_text(encoding="utf-8"))]


def check_command(name: str) -> None:
    """Check the name of an agent.

    Raises:
        UnknownNameError: no agent has it; the message names the nearest one.
    """
    if name not in command_names():
        raise unknown_name("agent", name, command_names())


def train_words(name: str) -> list[str]:
    """Return the words that start an agent in a new process, from a checkout and from a wheel alike.

    Args:
        name: of the agent, such as ``"pref_grpo"``.

    Raises:
        UnknownNameError: no agent has the name; the message names the nearest one.
    """
    check_command(name)
    return [sys.executable, "-m", "flexgym.cli", "train", name]


def run_command(name: str, arguments: Sequence[str], *, command: str) -> None:
    """Parse the command line of an agent and train.

    Modules in the working folder, such as rewards of your own, are found, as with ``python -m agents.NAME``.

    Args:
        name: of the agent, one of `command_names`.
        arguments: words of the command line after the name.
        command: words that started the program, for messages.
    """
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)  # a command that pip installed has only its own folder there
    importlib.import_module("flexgym.agents.launch").launch(name, arguments, command=command)
