"""Facts about the agents that ``--help`` shows, kept in a file, so that help does not wait for PyTorch.

The settings of an algorithm are declared beside its loss, and loading that takes seconds. ``python -m tools.stubs``
writes the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexgym.config import AgentSettings
from flexgym.config.describe import HelpSection, help_sections
from flexgym.core.json_text import read_json_file

_FILE = Path(__file__).with_name("shown.json")


def shown_agents() -> dict[str, dict[str, Any]]:
    """Return the arguments of each `flexgym.agents.base.Agent` by its name."""
    agents: dict[str, dict[str, Any]] = read_json_file(_FILE)["agents"]
    return agents


def shown_sections(algorithm: str) -> list[HelpSection] | None:
    """Return what ``--help`` lists for a shipped algorithm, without loading it; None for any other."""
    facts = read_json_file(_FILE)["algorithms"].get(algorithm)
    if facts is None:
        return None
    return [HelpSection(**facts) if each.name == "algorithm" else each for each in help_sections(AgentSettings)]
