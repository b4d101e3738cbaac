from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "grpo.py"


def test_the_loop_without_ray_replays_exactly_and_moves_the_policy():
    history = runpy.run_path(str(EXAMPLE))["main"]()
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    assert [row["policy/max_abs_log_ratio"] for row in history] == [0.0, 0.0, 0.0]
    assert all(0.0 <= row["reward/mean"] <= 1.0 for row in history)
    assert history[0]["penalty/reference"] == 0.0 < history[1]["penalty/reference"] < history[2]["penalty/reference"]
