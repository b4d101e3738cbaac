"""Run folders as training writes them, without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexgym.config import RecordSettings
from flexgym.core.yaml_files import dump_yaml
from flexgym.judge.assessment import Assessment
from flexgym.judge.protocol import JudgeFailure
from flexgym.runs.records import RecordedGroup, Records, reduced
from flexgym.runs.verification import Verification
from flexgym.types import GroupScores

CONFIG: dict[str, Any] = {
    "run": {"name": "r", "root": "runs", "seed": 0, "iterations": 60, "alarm": {"patience": 3, "drop": 0.1}},
    "algorithm": {"name": "grpo"},
    "training": {"lr": 0.001},
    "reward": {"name": "ShapesOracle", "monitors": [{"reward": "ShapesVerifier", "name": "ShapesVerifier"}]},
}


def write_run(
    path: Path, *, seed: int = 0, lr: float = 0.001, values: Sequence[float] = (0.1, 0.2, 0.3), **metrics: Any
) -> Path:
    """Write settings and metrics; ``values`` are those of ``reward/mean`` at the iterations 0, 1, ..."""
    path.mkdir(parents=True)
    run = {**CONFIG["run"], "name": path.name, "seed": seed}
    (path / "config.yaml").write_text(dump_yaml({**CONFIG, "run": run, "training": {"lr": lr}}))
    rows = [{"iteration": number, "reward/mean": value, **metrics} for number, value in enumerate(values)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pixels(count: int, *, side: int = 16, seed: int = 0) -> Any:
    """Return random samples, uint8 ``[count, side, side, 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def write_held_out(
    path: Path, prompts: Sequence[str], *, iterations: Sequence[int] = (0, 2), category: str = "color", side: int = 16
) -> None:
    """Write records of held-out prompts."""
    records = Records(path, RecordSettings(prompts=len(prompts)))
    for iteration in iterations:
        scores = np.linspace(0, 1, len(prompts), dtype=np.float32)
        found = Verification(
            list(prompts), pixels(len(prompts), side=side, seed=iteration), scores, categories=[category] * len(prompts)
        )
        records.held_out(found, iteration)


def assessment(winner: int, words: str = "because") -> Assessment:
    """Return an assessment of which every category has the winner, 0 or 1; the last one is the judge's own."""
    label = f"Image {winner + 1}"
    points = {"score_1": 7, "score_2": 3} if winner == 0 else {"score_1": 3, "score_2": 7}
    names = ("A. Semantic Alignment", "B. Image Quality", "C. Aesthetics", "D. Symmetry")
    dims = [{"name": words, "reason_1": words, "reason_2": words, **points}]
    categories = [{"name": name, "dims": dims, "cat_reason": words, "cat_winner": label} for name in names]
    return Assessment.model_validate({"categories": categories, "reason": words, "winner": label})


def judged_group(
    caption: str, rewards: Sequence[float], pairs: Mapping[tuple[int, int], int | None], *, words: str = "because"
) -> RecordedGroup:
    """Return a group with assessments; of each pair the position of its winner, or None for a failure."""
    outcomes = [
        JudgeFailure("unparsable", words) if winner is None else assessment(winner, words) for winner in pairs.values()
    ]
    scores = GroupScores(np.float32(rewards), assessments=tuple(outcomes), pairs=np.array(list(pairs)))
    media = tuple(reduced(sample, 16) for sample in pixels(len(rewards)))
    return RecordedGroup(caption, "color", media, scores)


def write_judged(path: Path, groups: Sequence[RecordedGroup], *, iteration: int = 1) -> None:
    """Write records of judged groups."""
    Records(path, RecordSettings(groups=min(100, len(groups)))).judged(groups, iteration)
