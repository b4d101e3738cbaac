"""How near each tournament comes to the true advantage: `calibrate` with a noisy judge, on simulated worths and in the
small world. Run with ``-m benchmark -s``."""

from __future__ import annotations

import numpy as np
import pytest

from flexgym.judge.calibration import calibrate, full_advantages
from flexgym.judge.noise import NoisyJudge
from flexgym.shapes.oracle import OracleJudge
from flexgym.shapes.sampling import draw_group
from tests.judge.simulated import WorthJudge, simulated_groups

pytestmark = pytest.mark.benchmark
NOISE = {"accuracy": 0.8, "first_position_rate": 0.69, "seed": 0}


def shapes_groups(count, size, *, seed):
    rng = np.random.default_rng(seed)
    return [draw_group(rng, size) for _ in range(count)]


def show(report, title):
    print(f"\n{title}: {report.to_figures()}")
    for row in report.rows:
        print(
            f"  {row.tournament:45s} {row.calls:6.1f} calls  {row.true_cosine:.3f} +- {row.standard_error:.3f}"
            f"  with full {row.cosine:.3f}  tau {row.kendall_tau:.3f}"
        )
    print(f"  cheapest within 0.03 of all: {report.cheapest().tournament}")
    values = {row.tournament: row.true_cosine for row in report.rows}
    assert values["all"] > values["all_unbalanced"]


@pytest.mark.parametrize(("size", "count"), [(8, 300), (12, 150), (24, 60)])
def test_simulated_worths(size, count):
    groups, worths = simulated_groups(count, size, seed=size)
    show(calibrate(NoisyJudge(WorthJudge(), **NOISE), groups, truth=worths), f"simulated, groups of {size}")


@pytest.mark.parametrize(("size", "count"), [(8, 200), (12, 100)])
def test_the_small_world(size, count):
    groups = shapes_groups(count, size, seed=size)
    judge = OracleJudge()
    truth = full_advantages(judge, groups)
    show(calibrate(NoisyJudge(judge, **NOISE), groups, truth=truth), f"small world, groups of {size}")
