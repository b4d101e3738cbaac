"""The launchers of ``python -m agents.NAME``: files in a folder whose name other packages use too."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

ENTRY = "flexgym train NAME"
"""The entry that no other package can hide."""


def hidden_by(name: str = "pref_grpo") -> str | None:
    """Return what ``python -m agents.NAME`` finds in place of a launcher of FlexGym; None if it finds that.

    Args:
        name: of the agent.
    """
    spec = find_spec("agents")
    if spec is None:
        return "no package agents"
    places = list(spec.submodule_search_locations or ())
    for path in (Path(place) / f"{name}.py" for place in places):
        if path.is_file():
            ours = "from flexgym.agents.launch import" in path.read_text(encoding="utf-8", errors="replace")
            return None if ours else str(path)
    return spec.origin or next(iter(places), "a package without files")


def explain_hidden_launcher() -> None:
    """Warn where the words ``python -m agents.NAME`` have started a module of somebody else's.

    Their package `agents` imports FlexGym then; without this, Python only says that it has no such module.
    """
    words = sys.orig_argv
    name = next((second for first, second in zip(words, words[1:], strict=False) if first == "-m"), "")
    package, _, name = name.partition(".")
    commands = Path(__file__).resolve().parents[1] / "agents"
    if package == "agents" and (commands / f"{name}.py").is_file() and (other := hidden_by(name)):
        warnings.warn(
            f"python -m agents.{name} finds {other}, which hides the launchers of FlexGym: run `flexgym train {name}`",
            stacklevel=3,
        )
