"""The parts of the studies that need no training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.judge import Assessment, Pair, Tournament, judge_groups, make_tournament
from flexgym.shapes.oracle import OracleJudge
from flexgym.shapes.sampling import draw_spec
from flexgym.types import Prompt, SampleGroup
from research.alpha_rule import ALPHAS, agreement_by_category, best_alphas
from research.judge.candidates import draw_rendered
from research.judge.policies import RECIPE
from research.study import Study, conditions
from research.study_rewards import WinnerByPoints

JUDGE, OUTSIDE = Path("judge"), Path("outside")


def told(winner, *leads):
    """An assessment with a category for each lead of the first sample; from the fourth on they are personalized."""
    names = ["A. Semantic", "B. Quality", "C. Aesthetics", "D. Counting"]
    categories = [
        {"name": name, "dims": [{"name": "d", "score_1": 5 + lead, "score_2": 5 - lead}], "cat_winner": "Image 1"}
        for name, lead in zip(names, leads, strict=True)
    ]
    return Assessment.model_validate({"categories": categories, "winner": winner})


class Saying:
    def __init__(self, outcome):
        self.outcome = outcome

    def assess(self, pairs):
        return [self.outcome] * len(pairs)


PAIR = Pair(SampleGroup(Prompt("a"), np.zeros((2, 4, 4, 3), np.uint8)), 0, 1)


@pytest.mark.parametrize(
    ("leads", "with_all", "anchors_alone"),
    [
        ((1, 0, 0, -3), "Image 2", "Image 1"),
        ((0, 0, 0, 1), "Image 1", "Image 2"),
        ((-1, 1, 0, 0), "Image 2", "Image 2"),
    ],
)
def test_personalized_categories_count_or_not(leads, with_all, anchors_alone):
    judge = Saying(told("Image 2", *leads))
    for personalized, winner in ((True, with_all), (False, anchors_alone)):
        (outcome,) = WinnerByPoints(judge, personalized=personalized).assess([PAIR])
        assert outcome.winner == winner
        assert len(outcome.categories) == (4 if personalized else 3)


def test_every_condition_has_settings_that_a_recipe_takes():
    rows = conditions(JUDGE, OUTSIDE, {"counting": 0.2})
    assert len({row.slug for row in rows}) == len(rows) == 13
    assert all(row.slug.replace("_", "").isalnum() for row in rows)
    for row in rows:
        settings = apply_overrides(load_recipe(RECIPE), row.overrides)["reward"]["settings"]
        assert isinstance(make_tournament(settings["tournament"]), Tournament)
    by_name = {row.name: row for row in rows}
    assert by_name["outside its domain"].judge == OUTSIDE
    recipe = apply_overrides(load_recipe(RECIPE), by_name["by category"].overrides)
    assert make_tournament(recipe["reward"]["settings"]["tournament"]).alpha_by_category == {"counting": 0.2}


def test_of_equally_good_alphas_the_nearest_to_the_paper_is_taken():
    flat, rising = [0.5] * len(ALPHAS), list(ALPHAS)
    assert best_alphas({"a": flat, "b": rising, "c": rising[::-1]}) == {"a": 0.7, "b": 1.0, "c": 0.0}


def test_advantages_of_the_rules_follow_the_truth():
    rng, groups = np.random.default_rng(0), []
    for _ in range(8):
        group = draw_rendered(rng, draw_spec(rng, "image", "validation"), splits=("validation", "training"))
        groups.append(SampleGroup(Prompt(group.caption), group.samples))
    agreement = agreement_by_category(groups, judge_groups(OracleJudge(), groups))
    values = np.array([*agreement.values()])
    assert values.shape[1] == len(ALPHAS)
    assert values.mean() > 0.8


def test_tables_of_results_that_are_there(tmp_path):
    captions = ["two red circles", "a red circle left of a blue square"]
    rows = conditions(JUDGE, OUTSIDE, {})[:2]
    study = Study(tmp_path, tmp_path / "t2i", [0, 1], 1, len(captions))
    (tmp_path / "results").mkdir()
    for name in ("base", *(f"{row.slug}_seed{seed}" for row in rows for seed in (0, 1))):
        right = [True, name != "base"]
        result = {"captions": captions, "verifier": right, "audit": right}
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(result))
    study.run(rows, parallel=2)
    text = study.tables(rows)
    assert text.startswith("Before training: 0.500 (")
    assert text.count("| 1.000 (1.000 to 1.000) | 1.000 to 1.000 | 1.000 (1.000 to 1.000) |") == 2
