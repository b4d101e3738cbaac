"""Read run folders and evaluations of judges for a report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexgym.core.errors import CheckpointError, ConfigError, nearest_name
from flexgym.core.metrics import Metric, from_description
from flexgym.core.yaml_files import parse_yaml
from flexgym.report.lines import Folder, data_uri, media_uri, number, spread, text
from flexgym.runs.folder import newest_config
from flexgym.runs.record_files import HELD_OUT, JUDGED, MAX_FILES, RECORDS, record_files
from flexgym.runs.starts import STARTS

METRICS = "metrics.jsonl"
EVALUATION, EXAMPLES = "report.json", "examples.jsonl"
_GRID = re.compile(r"iteration_(\d{6,12})\.(png|gif)")
_MAX_GRIDS = 12


@dataclass(frozen=True)
class Sample:
    """A reduced sample of a held-out prompt.

    Attributes:
        prompt: its text.
        category: of the prompt; empty if it has none.
        score: by the verifier; None where it could not be scored.
        media: data URI of the image or video; None where it cannot be read.
    """

    prompt: str
    category: str
    score: float | None
    media: str | None


@dataclass(frozen=True)
class Group:
    """A group that a judge compared.

    Attributes:
        prompt: its text.
        category: of the prompt; empty if it has none.
        rewards: of the G samples; None where unscored.
        media: data URIs of the samples and then of their references.
        pairs: the assessments as `flexgym.runs.records` keeps them, with the indices ``first`` and ``second``.
        label: index of the labeled winner, for a pair of an evaluation; None for all others.
    """

    prompt: str
    category: str
    rewards: tuple[float | None, ...]
    media: tuple[str | None, ...]
    pairs: tuple[Mapping[str, Any], ...]
    label: int | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that a report shows of a run.

    Attributes:
        path: the run folder.
        config: effective settings of the last start, by section.
        rows: rows of ``metrics.jsonl``.
        schema: kind and look of the metrics by name.
        starts: one row for each start, see `flexgym.runs.starts`.
        held_out: samples of held-out prompts by iteration.
        judged: groups with assessments by iteration.
        failed_samples: number of samples that a reward could not score and that were kept.
        problems: what could not be read, a sentence each.
    """

    path: Path
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    schema: Mapping[str, Metric] = field(default_factory=dict)
    starts: Sequence[Mapping[str, Any]] = ()
    held_out: Mapping[int, tuple[Sample, ...]] = field(default_factory=dict)
    judged: Mapping[int, tuple[Group, ...]] = field(default_factory=dict)
    failed_samples: int = 0
    problems: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.path.name

    @property
    def seed(self) -> Any:
        """Value of ``run.seed``; None where it is unknown."""
        return section(self.config, "run").get("seed")

    @property
    def iterations(self) -> int:
        """Number of finished iterations."""
        return int(self.rows[-1]["iteration"]) if self.rows else 0

    def curve(self, name: str) -> dict[int, float]:
        """Return the values of a metric by iteration, where it was measured."""
        values = ((row["iteration"], number(row.get(name))) for row in self.rows)
        return {iteration: value for iteration, value in values if value is not None}


@dataclass(frozen=True, eq=False)
class JudgeEvaluation:
    """An evaluation of a judge on labeled pairs, as `flexgym.rm evaluate` writes it.

    Attributes:
        path: its folder.
        figures: content of ``report.json``.
        pairs: rows of ``pairs.jsonl``.
        examples: pairs that the judge gets wrong, with their samples and what it said.
        problems: what could not be read, a sentence each.
    """

    path: Path
    figures: Mapping[str, Any]
    pairs: Sequence[Mapping[str, Any]]
    examples: Sequence[Group] = ()
    problems: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name


def read_sources(paths: Sequence[Path]) -> tuple[list[Run], list[JudgeEvaluation]]:
    """Read run folders and folders of evaluations.

    Args:
        paths: at least one folder.

    Raises:
        ConfigError: a path that is neither; the message says what was expected.
    """
    runs: list[Run] = []
    evaluations: list[JudgeEvaluation] = []
    for path in dict.fromkeys(Path(each).absolute() for each in paths):
        if (path / METRICS).is_file():
            runs.append(read_run(path))
        elif (path / EVALUATION).is_file():
            evaluations.append(read_evaluation(path))
        else:
            raise ConfigError(_not_a_source(path))
    return runs, evaluations


def read_run(path: Path) -> Run:
    """Read a run folder; what is damaged is left out and named in ``problems``."""
    folder = Folder(path)
    rows = sorted(
        (row for row in folder.rows(METRICS) if _is_iteration(row.get("iteration"))),
        key=lambda row: row["iteration"],
    )
    last = rows[-1]["iteration"] if rows else -1
    held_out = {iteration: tuple(map(_sample, folder.rows(name))) for iteration, name in _records(path, HELD_OUT, last)}
    judged = {iteration: tuple(map(_group, folder.rows(name))) for iteration, name in _records(path, JUDGED, last)}
    failed = path / "failed_samples"
    return Run(
        path=path,
        config=_config(folder),
        rows=rows,
        schema=_schema(folder),
        starts=list(folder.rows(STARTS)),
        held_out=held_out or _grids(folder),
        judged=judged,
        failed_samples=sum(1 for entry in failed.iterdir() if entry.suffix == ".json") if failed.is_dir() else 0,
        problems=folder.problems,
    )


def read_evaluation(path: Path) -> JudgeEvaluation:
    """Read the folder of an evaluation; what is damaged is left out and named in ``problems``."""
    folder = Folder(path)
    figures = folder.document(EVALUATION)
    return JudgeEvaluation(
        path,
        figures,
        pairs=list(folder.rows("pairs.jsonl")),
        examples=list(map(_group, folder.rows(EXAMPLES))),
        problems=folder.problems,
    )


def section(values: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return a mapping inside of settings; empty where there is none."""
    found: Any = values
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _is_iteration(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12


def _not_a_source(path: Path) -> str:
    if not path.is_dir():
        near = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
        return f"{path}: expected a run folder, got no folder of this name. {nearest_name(path.name, near)}"
    inside = sorted(each.name for each in path.iterdir() if (each / METRICS).is_file())
    hint = f". It holds runs: name them, such as {path / inside[0]}" if inside else ""
    return (
        f"{path}: expected a run folder, which has a {METRICS}, or the folder of `flexgym.rm evaluate`, which has a"
        f" {EVALUATION}{hint}"
    )


def _records(path: Path, kind: str, last: int) -> list[tuple[int, str]]:
    """Return iteration and name of the records of a run, without those of iterations that are trained again."""
    files = record_files(path, kind)
    return [
        (number, f"{RECORDS}/{files[number].name}")
        for number in spread([each for each in files if each <= last], MAX_FILES)
    ]


def _config(folder: Folder) -> Mapping[str, Any]:
    try:
        name = newest_config(folder.path).name
        values = parse_yaml((folder.content(name, max_bytes=2**20) or b"").decode("utf-8", "replace"), source=name)
    except (CheckpointError, ConfigError) as error:
        folder.report(str(error))
        return {}
    return values if isinstance(values, Mapping) else {}


def _schema(folder: Folder) -> dict[str, Metric]:
    found = folder.document("metrics_schema.json")
    return {name: from_description(look) for name, look in found.items() if isinstance(look, Mapping)}


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(
        text(row.get("prompt")), text(row.get("category"), 200), number(row.get("score")), data_uri(row.get("media"))
    )


def _group(row: Mapping[str, Any]) -> Group:
    rewards, media, pairs = (
        each if isinstance(each := row.get(name), list) else [] for name in ("rewards", "media", "pairs")
    )
    return Group(
        text(row.get("prompt")),
        text(row.get("category"), 200),
        tuple(map(number, rewards)),
        tuple(map(data_uri, media)),
        tuple(pair for pair in pairs if isinstance(pair, dict)),
        label=label if (label := row.get("label")) in (0, 1) else None,
    )


def _grids(folder: Folder) -> dict[int, tuple[Sample, ...]]:
    """Return the drawn grids of a run that kept no records, each as one sample."""
    drawn = folder.path / "samples"
    names = sorted(path.name for path in drawn.iterdir() if _GRID.fullmatch(path.name)) if drawn.is_dir() else []
    found: dict[int, tuple[Sample, ...]] = {}
    for name in spread(names, _MAX_GRIDS):
        match = _GRID.fullmatch(name)
        uri = media_uri(folder.content(f"samples/{name}") or b"")
        if match and uri:
            found[int(match[1])] = (Sample("All drawn samples of this iteration", "", None, uri),)
    return found
