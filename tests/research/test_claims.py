"""The table of the claims, and that no run is evaluated twice on test."""

from __future__ import annotations

import json

import pytest

from flexgym.runs.series import Series
from research.claims import CLAIMS, Claim, add_runs, evaluate_once, results, table


def evaluated(gain=0.3, audit=0.29, **fields):
    span = {"low": 0.4, "high": 0.6, "audit": 0.5}
    return {
        **{"split": "test", "iteration": 60, "agreement": 0.98, **fields},
        **{"before": {"accuracy": 0.5, **span}, "after": {"accuracy": 0.5 + gain, **span}},
        "gain": {"accuracy": gain, "low": gain - 0.05, "high": gain + 0.05, "audit": audit},
    }


def write(series, name, *rows):
    folder = series.root / name
    folder.mkdir()
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_recipe_gets_every_seed_and_the_first_evaluation_on_test_counts(tmp_path):
    series = Series(tmp_path, ["true"])
    names = add_runs(series, CLAIMS, seeds=[0, 4], minutes=2.0)
    assert len(names) == 2 * len(CLAIMS) == len(series.names())
    assert series.recipe(names[1])["run"]["minutes"] == 2.0
    assert series.recipe(names[1])["run"]["seed"] == 4
    assert results(series, CLAIMS, seeds=[0, 4]) == []
    write(series, names[1], evaluated(0.9, split="validation"), evaluated(0.3), evaluated(0.8))
    [row] = results(series, CLAIMS, seeds=[0, 4])
    assert (row["recipe"], row["training_seed"], row["gain"]["accuracy"]) == (CLAIMS[0].recipe, 4, 0.3)


def test_a_run_is_evaluated_once(tmp_path):
    folder = write(Series(tmp_path, ["true"]), "a", evaluated())
    evaluate_once(folder, num_prompts=10)  # there is no checkpoint, which an evaluation would need
    assert len((folder / "evaluations.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("gains", "audits", "verdict"),
    [
        ((0.3, 0.26), (0.29, 0.27), "holds: the smallest gain of 2 seeds is 0.260"),
        ((0.3, 0.24), (0.3, 0.24), "does not hold: the smallest gain of 2 seeds is 0.240"),
        ((0.3, 0.3), (0.3, 0.26), "does not hold: "),
    ],
)
def test_a_claim_holds_if_every_seed_and_the_audit_say_so(gains, audits, verdict):
    rows = [
        {"recipe": "r", "training_seed": seed, **evaluated(*both)}
        for seed, both in enumerate(zip(gains, audits, strict=True))
    ]
    lines = table(rows, [Claim("r", 0.25)]).splitlines()
    assert lines[2].startswith(f"| r | 0 | 60 | 0.500 (0.400 to 0.600) | {0.5 + gains[0]:.3f} ")
    assert f"| r | mean |  | 0.500 (0.400 to 0.600) | {0.5 + sum(gains) / 2:.3f} " in lines[4]
    assert lines[-1].startswith(f"- r: {verdict}")
