"""Facts about runs as rows of tables: settings, versions, results, time, cost and failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from flexgym.report.grouping import Band, RunGroup
from flexgym.report.lines import number, text
from flexgym.report.reading import Run, section
from flexgym.runs.alarm import Sign, signs_of_hacking

NONE = "–"
"""Cell of a table without a value."""
_COUNTED = {
    "judge/requests": "requests to the judge",
    "judge/prompt_tokens": "prompt tokens of the judge",
    "judge/completion_tokens": "reply tokens of the judge",
    "reward/failures": "failed judgments or scores",
}
_AVERAGED = {
    "reward/unscored_share": "samples without a score",
    "reward/dead_groups": "groups without a difference in reward",
    "judge/failure_share": "judgments that failed",
}
_LABELS = {
    "eval/accuracy": "held-out accuracy",
    "eval/verifier_score": "held-out score of the verifier",
    "eval/diversity": "diversity of held-out samples",
    "reward/mean": "mean reward",
    "reward/win_rate_vs_reference": "win rate against the reference",
    "penalty/reference": "KL to the reference",
}
_RESULTS = ("eval/accuracy", "eval/audit", "eval/diversity")


@dataclass(frozen=True)
class TableRow:
    """A row of a table with one cell per group.

    Attributes:
        name: heading of the row.
        cells: one per group.
    """

    name: str
    cells: tuple[str, ...]


def shown(value: float | None, spec: str = ".4g") -> str:
    """Format a number with few digits; a dash for None."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1000 else format(value, spec)


def with_interval(band: Band | None, *, last: bool = True) -> str:
    """Format the first or the last value of a curve with its interval over seeds."""
    if band is None:
        return NONE
    index = -1 if last else 0
    value = shown(band.mean[index])
    return value if band.runs == 1 else f"{value} [{shown(band.low[index])}, {shown(band.high[index])}]"


def label_of(group: RunGroup, name: str) -> str:
    """Return a metric's label for people; its name where there is none."""
    if name in _LABELS:
        return _LABELS[name]
    look = next((run.schema[name] for run in group.runs if name in run.schema), None)
    return text(look.label, 100) if look is not None and isinstance(look.label, str) and look.label else name


# --- tables ----------------------------------------------------------------------------------------------------------


def about_rows(groups: Sequence[RunGroup]) -> list[TableRow]:
    """Return what was trained, on what and by which versions; rows without any value are left out."""
    rows = [TableRow(name, tuple(read(group) or NONE for group in groups)) for name, read in _ABOUT.items()]
    return [row for row in rows if set(row.cells) != {NONE}]


def result_rows(groups: Sequence[RunGroup]) -> list[TableRow]:
    """Return the main results before and after training, with intervals over seeds."""
    names = [*dict.fromkeys(group.reward_metric for group in groups if group.reward_metric), *_RESULTS]
    rows = []
    for name in dict.fromkeys(names):
        bands = [group.band(name) for group in groups]
        if any(bands):
            cells = (f"{with_interval(band, last=False)} → {with_interval(band)}" if band else NONE for band in bands)
            rows.append(TableRow(label_of(groups[0], name), tuple(cells)))
    return rows


def time_rows(groups: Sequence[RunGroup]) -> list[TableRow]:
    """Return the hours of each group, and the median seconds of each phase with its share of an iteration."""
    names = dict.fromkeys(name for group in groups for name in group.metrics if name.startswith("time/"))
    rows = [TableRow("hours of all iterations and seeds", tuple(map(_hours, groups)))] if names else []
    return rows + [TableRow(_phase(name), tuple(_seconds(group, name) for group in groups)) for name in names]


def cost_rows(groups: Sequence[RunGroup]) -> list[TableRow]:
    """Return what the judge was asked, and failures of rewards, judges and processes."""
    rows = [
        TableRow(label, tuple(shown(_total(group, name)) for group in groups))
        for name, label in _COUNTED.items()
        if any(_total(group, name) is not None for group in groups)
    ]
    for name, label in _AVERAGED.items():
        bands = [group.band(name) for group in groups]
        if any(bands):
            means = (NONE if band is None else f"{sum(band.mean) / len(band.mean):.1%}" for band in bands)
            rows.append(TableRow(label, tuple(means)))
    failed = tuple(str(sum(run.failed_samples for run in group.runs)) for group in groups)
    resumed = tuple(str(sum(max(0, len(run.starts) - 1) for run in group.runs)) for group in groups)
    rows += [TableRow("kept samples that could not be scored", failed), TableRow("times resumed", resumed)]
    return rows


def hacking_signs(groups: Sequence[RunGroup]) -> list[tuple[str, Sign]]:
    """Return the signs of reward hacking, each with the name of its run."""
    found = []
    for run in (run for group in groups for run in group.runs):
        alarm = section(run.config, "run", "alarm")
        patience, drop = number(alarm.get("patience")), number(alarm.get("drop"))
        rows = [{"iteration": row["iteration"], **_numbers(row)} for row in run.rows]
        signs = signs_of_hacking(rows, patience=max(1, int(patience or 3)), drop=0.1 if drop is None else drop)
        found += [(run.name, sign) for sign in signs]
    return found


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, each in row.items() if (value := number(each)) is not None and name != "iteration"}


# --- cells -----------------------------------------------------------------------------------------------------------


def _setting(*names: str) -> Callable[[RunGroup], str]:
    def read(group: RunGroup) -> str:
        value = section(group.runs[0].config, *names[:-1]).get(names[-1])
        return "" if value is None else str(value)

    return read


def _model(group: RunGroup) -> str:
    config = group.runs[0].config
    subject = section(config, "generator") or section(config, "judge")
    if not subject:
        return ""
    return f"{subject.get('source') or 'embedded model'}, trained: {subject.get('mode', 'unknown')}"


def _prompts(group: RunGroup) -> str:
    config = group.runs[0].config
    files = section(config, "data").get("files")
    if files is not None or "data" in config and "rollout" not in config:
        return str(files or "embedded data")
    if "rollout" not in config:
        return ""
    prompts = section(config, "rollout").get("prompts")
    if isinstance(prompts, list):
        return f"{len(prompts)} prompts in the recipe"
    return str(prompts or "prompts of the small world")


def _reward(group: RunGroup) -> str:
    reward = section(group.runs[0].config, "reward")
    monitors = reward.get("monitors")
    names = [str(section({"each": each}, "each").get("name", each)) for each in monitors or ()]
    watched = f"; monitored: {', '.join(names)}" if names else ""
    return f"{reward.get('name', 'unnamed')}{watched}" if reward else ""


def _verifier(group: RunGroup) -> str:
    chosen = section(group.runs[0].config, "verification")
    return f"{chosen['reward']} on {chosen.get('num_prompts')} held-out prompts" if chosen.get("reward") else ""


def _batch(group: RunGroup) -> str:
    rollout = section(group.runs[0].config, "rollout")
    return f"{rollout.get('prompts_per_iteration')} prompts with {rollout.get('group_size')} samples" if rollout else ""


def _iterations(group: RunGroup) -> str:
    planned = section(group.runs[0].config, "run").get("iterations")
    return f"{_range([run.iterations for run in group.runs])} of {planned or 'unknown'}"


def _samples(group: RunGroup) -> str:
    counts = [max(run.curve("samples").values(), default=0.0) for run in group.runs]
    return _range([int(count) for count in counts]) if any(counts) else ""


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _seeds(group: RunGroup) -> str:
    return ", ".join(str(run.seed) for run in group.runs if run.seed is not None)


def _last_start(name: str) -> Callable[[RunGroup], Mapping[str, Any]]:
    return lambda group: next((section(run.starts[-1], name) for run in group.runs if run.starts), {})


def _versions(group: RunGroup) -> str:
    return ", ".join(f"{name} {value}" for name, value in _last_start("versions")(group).items())


def _machine(group: RunGroup) -> str:
    machine = _last_start("machine")(group)
    gpus = machine.get("gpus")
    parts = [text(machine.get("system")), f"{machine['cores']} cores" if "cores" in machine else ""]
    return ", ".join([part for part in parts if part] + (list(map(str, gpus)) if isinstance(gpus, list) else []))


def _started(group: RunGroup) -> str:
    return ", ".join(text(run.starts[0].get("time")) for run in group.runs if run.starts)


def _command(group: RunGroup) -> str:
    return next((text(run.starts[-1].get("command")) for run in group.runs if run.starts), "")


_ABOUT: Mapping[str, Callable[[RunGroup], str]] = {
    "algorithm": _setting("algorithm", "name"),
    "model": _model,
    "environment": _setting("environment", "env"),
    "prompts or data": _prompts,
    "reward": _reward,
    "verifier": _verifier,
    "iteration": _batch,
    "learning rate": _setting("training", "lr"),
    "seeds": _seeds,
    "finished iterations": _iterations,
    "samples seen": _samples,
    "started": _started,
    "command": _command,
    "machine": _machine,
    "versions": _versions,
}


def _phase(name: str) -> str:
    return name.removeprefix("time/").removesuffix("_s").replace("_", " ")


def _hours(group: RunGroup) -> str:
    seconds = sum(sum(run.curve("time/iteration_s").values()) for run in group.runs)
    return f"{seconds / 3600:.2f}"


def _seconds(group: RunGroup, name: str) -> str:
    values = _values(group.runs, name)
    if not values:
        return NONE
    whole = _values(group.runs, "time/iteration_s")
    share = f" ({sum(values) / sum(whole):.0%})" if whole and sum(whole) and name != "time/iteration_s" else ""
    return f"{median(values):.2f} s{share}"


def _values(runs: Sequence[Run], name: str) -> list[float]:
    return [value for run in runs for value in run.curve(name).values()]


def _total(group: RunGroup, name: str) -> float | None:
    values = _values(group.runs, name)
    return sum(values) if values else None
