from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flexgym.core.errors import ConfigError
from flexgym.runs.comparison import Change, ComparedRun, comparison_table
from flexgym.runs.comparison_figure import draw_comparison
from flexgym.runs.series import Outcome


def rows(own, verifier, *, metric="reward/mean", unscored=0.0):
    """Iteration 0 is a verification alone, and every second one after it is verified, too."""
    found = [{"iteration": 0, "eval/accuracy": verifier[0], "eval/diversity": 0.2}]
    for iteration, value in enumerate(own, start=1):
        row = {"iteration": iteration, metric: value, "time/iteration_s": 3.0, "time/reward_s": 0.5}
        if iteration % 2 == 0:
            row |= {"eval/accuracy": verifier[iteration // 2], "eval/diversity": 0.1, "time/eval_s": 1.0}
        found.append({**row, "reward/unscored_share": unscored})
    return found


RUNS = [
    ComparedRun("Size", 0, rows([0.001, 0.5, None, 0.75], [0.5, 0.25, 0.125]), Outcome("finished"), "Size-seed0"),
    ComparedRun("Size", 1, rows([0.003, 0.5, 0.6, 1.25], [0.5, 0.25, 0.375]), Outcome("finished"), "Size-seed1"),
    ComparedRun(
        "Judge",
        0,
        [{**row, "reward/mean": 0.5} for row in rows([0.5, 0.75], [0.5, 0.625], metric="reward/win_rate_vs_reference")],
        Outcome("failed", "no server"),
        "Judge-seed0",
    ),
    ComparedRun("Late", 0, []),
    ComparedRun("Mute", 0, rows([None, None], [0.5, 0.5], unscored=1.0), Outcome("finished"), "Mute-seed0"),
]


def test_the_table_has_a_row_for_each_reward_and_says_what_went_wrong():
    lines = comparison_table(RUNS).splitlines()
    assert lines[2] == (
        "| Size | 0, 1 | 4 | 0.002 → 1.000 (0.750 to 1.250) | 0.500 → 0.250 (0.125 to 0.375)"
        " | 0.200 → 0.100 (0.100 to 0.100) | 2.50 | 0.50 |"
    )
    assert lines[3] == "| Judge | 0 | 2 | 0.500 → 0.750 | 0.500 → 0.625 | 0.200 → 0.100 | 2.50 | 0.50 |"
    assert lines[4] == "| Late | 0 | 0 | – | – | – | – | – |"
    assert lines[7:] == [
        "- Judge, seed 0: failed, no server",
        "- Late, seed 0: waiting",
        "- Mute, seed 0: finished, 100% of its samples could not be scored",
    ]


def test_figures_are_plain_and_medians_leave_verification_out():
    figures = RUNS[2].figures()
    assert figures["own_metric"] == "reward/win_rate_vs_reference"
    assert figures["own"] == {"before": 0.5, "after": 0.75}
    assert (figures["status"], figures["folder"], figures["iterations"]) == ("failed", "Judge-seed0", 2)
    assert figures["iteration_s"] == 2.5
    assert RUNS[3].figures()["own"] is None


def test_ends_are_means_over_a_tenth():
    assert Change.of([(index, float(index)) for index in range(40)]) == Change(1.5, 37.5)
    assert Change.of([(0, 2.0)]) == Change(2.0, 2.0)
    assert Change.of([]) is None


@pytest.mark.slow
def test_the_figure_is_drawn_from_whatever_is_there(tmp_path):
    draw_comparison(RUNS, tmp_path / "comparison.png")
    picture = np.asarray(Image.open(tmp_path / "comparison.png"))
    assert picture.shape[1] == 1650
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"flexgym\[report\]"):
        draw_comparison(RUNS, tmp_path / "comparison.png")
