"""Several runs in one folder, each in a process of its own, so that one that fails takes no other with it.

```
<root>/recipes/<run>.yaml     what a run is started with
<root>/logs/<run>.log         what it wrote to the terminal
<root>/outcomes/<run>.json    how it ended
<root>/<run>/                 the run folder
```
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flexgym.config.recipe import load_recipe
from flexgym.core.errors import ConfigError
from flexgym.core.files import write_atomic
from flexgym.core.json_text import read_json_file
from flexgym.core.yaml_files import dump_yaml
from flexgym.runs.checkpoints import latest_checkpoint
from flexgym.runs.interrupt import SIGNALS, exit_status
from flexgym.runs.metrics import read_metrics
from flexgym.runs.processes import Ended, Workplace, work_off

Status = Literal["finished", "stopped", "failed", "waiting"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: ``finished``; ``stopped`` by a person; ``failed``; ``waiting`` when it has not begun or is at work.
        problem: why it failed, in the run's own last words.
    """

    status: Status = "waiting"
    problem: str = ""


class Series:
    """Runs of one program.

    Args:
        root: their folder; made when missing.
        program: the words that start the program, which takes ``--config`` and ``--resume`` as every agent does.
    """

    def __init__(self, root: str | Path, program: Sequence[str]) -> None:
        self.root, self.program = Path(root), tuple(program)
        for name in ("recipes", "logs", "outcomes"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """Return the names of all runs that were added, sorted."""
        return sorted(path.stem for path in (self.root / "recipes").glob("*.yaml"))

    def recipe(self, name: str) -> dict[str, Any]:
        """Load the recipe that a run is started with."""
        return dict(load_recipe(self.root / "recipes" / f"{name}.yaml"))

    def add(self, name: str, recipe: Mapping[str, Any]) -> None:
        """Add a run, or change the section ``run`` of one that was added before.

        Args:
            name: of its folder.
            recipe: its sections; root and name of its run folder are set here.

        Raises:
            ConfigError: the run was begun with other settings. Those of the section ``run`` may change, for example to
                train for longer.
        """
        run = {**(recipe.get("run") or {}), "root": str(self.root), "name": name}
        whole = {**recipe, "run": run}
        if name in self.names():
            check_unchanged(f"{self.root / name}: the run was begun with", self.recipe(name), whole)
        write_atomic(self.root / "recipes" / f"{name}.yaml", dump_yaml(whole).encode())

    def folder(self, name: str) -> Path | None:
        """Return the folder of a run, the latest where one was begun anew; None before it begins."""
        return newest_folder(self.root, name)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Read the metrics of a run so far."""
        folder = self.folder(name)
        return read_metrics(folder / "metrics.jsonl") if folder else []

    def outcome(self, name: str) -> Outcome:
        """Read how a run ended; empty unless it was started with its present settings."""
        path = self.root / "outcomes" / f"{name}.json"
        if not path.exists():
            return Outcome()
        kept = read_json_file(path)
        if kept.pop("run") != self.recipe(name)["run"]:
            return Outcome()
        return Outcome(**kept)

    def run(self, names: Sequence[str], *, parallel: int = 1, report: Callable[[str], None]) -> None:
        """Start or resume every run that is not finished. After a signal, running ones save and no more are started.

        Args:
            names: of runs that were added.
            parallel: how many are at work at a time.
            report: called with a line when a run begins and when it ends.
        """
        due = [name for name in names if self.outcome(name).status != "finished"]
        work_off([partial(self._run, name, report=report) for name in due], parallel=parallel)

    def _run(self, name: str, place: Workplace, *, report: Callable[[str], None]) -> None:
        command, log = self._command(name), self.root / "logs" / f"{name}.log"
        report(f"{name}: {'resumes' if '--resume' in command else 'begins'}, log in {log}")
        ended = place.run(command, log)
        outcome = self._judge(name, ended, interrupted=place.is_closing)
        kept = {**asdict(outcome), "run": self.recipe(name)["run"]}
        write_atomic(self.root / "outcomes" / f"{name}.json", json.dumps(kept, indent=1).encode())
        report(f"{name}: {outcome.status}{': ' if outcome.problem else ''}{outcome.problem}")

    def _command(self, name: str) -> list[str]:
        command = [*self.program, "--config", str(self.root / "recipes" / f"{name}.yaml")]
        folder = self.folder(name)
        return [*command, "--resume", str(folder)] if folder and latest_checkpoint(folder) else command

    def _judge(self, name: str, ended: Ended, *, interrupted: bool) -> Outcome:
        """Return the outcome for an exit status; an agent that Ctrl-C has stopped also exits with 0."""
        status = ended.status
        interrupted = interrupted or status in map(exit_status, SIGNALS)
        rows = self.rows(name)
        at_end = bool(rows) and rows[-1]["iteration"] >= self.recipe(name)["run"].get("iterations", 0)
        if status == 0:
            return Outcome("finished" if at_end or not interrupted else "stopped")
        return Outcome("stopped") if interrupted else Outcome("failed", ended.words or f"exit status {status}")


def newest_folder(root: Path, name: str) -> Path | None:
    """Return the folder of a run by name, the latest where one was begun anew; None where there is none."""
    numbered = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    found = [(int(match[1] or 1), path) for path in root.iterdir() if (match := numbered.fullmatch(path.name))]
    return max(found)[1] if found else None


def check_unchanged(
    what: str, before: Mapping[str, Any], now: Mapping[str, Any], *, aside: Sequence[str] = ("run",)
) -> None:
    """Check that two recipes agree.

    Args:
        what: begins the message.
        before: a recipe.
        now: another.
        aside: sections and dotted keys that may differ.

    Raises:
        ConfigError: naming what differs.
    """
    old, new = flat_settings(before), flat_settings(now)
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key) and not any(key == name or key.startswith(f"{name}.") for name in aside):
            raise ConfigError(
                f"{what} {key}={old.get(key)!r}, got {new.get(key)!r}. Take the same settings, or another folder."
            )


def flat_settings(recipe: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten settings to values by dotted key.

    Args:
        recipe: settings at any depth.
        above: begins every key.
    """
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= flat_settings(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat
