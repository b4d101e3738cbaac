"""A plan of two algorithms, and a folder with what its runs record."""

from __future__ import annotations

import json
from pathlib import Path

from flexgym.benchmark.folder import BenchmarkFolder, Step
from flexgym.benchmark.plan import Plan, PlannedRun
from flexgym.runs.comparison import DIVERSITY, VERIFIER

TINY = {
    "generator.sampling": {"num_steps": 3},
    "rollout.group_size": 2,
    "rollout.prompts_per_iteration": 2,
    "rollout.groups_per_forward": 2,
    "algorithm.window": {"size": 1, "strategy": "random", "first": [0, 1]},
    "verification.num_prompts": 4,
    "verification.interval": 1,
    "run.checkpoint_interval": 1,
}


def small_plan(**sections) -> Plan:
    """Two points of a grid for two algorithms on one task, with two seeds; sections replace those of the plan."""
    rates = {"training.lr": [1e-4, 3e-4]}
    values = {
        "tuning": {"trials": 1},
        "evaluation": {"split": None},
        "report": {"baseline": "matching", "resamples": 100},
        "tasks": {
            "image": {
                "title": "Images",
                "minutes": 0.05,
                "tuning_minutes": 0.05,
                "samples": 4,
                "num_seeds": 2,
                "changes": TINY,
                "algorithms": ["matching", "nft"],
            }
        },
        "algorithms": {
            "matching": {"title": "Matching", "recipe": "pref_grpo_shapes_t2i", "grid": rates},
            "nft": {"title": "NFT", "recipe": "diffusion_nft_shapes_t2i", "grid": rates},
        },
    }
    return Plan.parse({**values, **sections})


def record(folder: BenchmarkFolder, run: PlannedRun, accuracy: list[float], **step) -> Path:
    """What a run leaves that verifies after each iteration of ten seconds, one of them for the verification."""
    assert folder.add(run)
    path = folder.root / run.name
    path.mkdir()
    rows = [{"iteration": 0, VERIFIER: accuracy[0], DIVERSITY: 0.2}]
    for iteration, value in enumerate(accuracy[1:], start=1):
        row = {"iteration": iteration, VERIFIER: value, DIVERSITY: 0.1}
        rows.append({**row, "time/iteration_s": 10.0, "time/eval_s": 1.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cost = {"wall_s": 36.0, "cpu_s": 18.0, "peak_bytes": 2**30}
    last = len(accuracy) - 1
    budgets = {"samples": 1, "wall": last} if run.trial is None else {"wall": last}
    for budget, iteration in budgets.items():
        folder.add_step(run, Step("train", budget, **{"status": "finished", "iteration": iteration, **cost, **step}))
    return path
