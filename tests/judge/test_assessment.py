from __future__ import annotations

import pytest
from pydantic import ValidationError

from flexgym.judge import Assessment, Category, Dimension


def category(name="A. Semantic Alignment & Accuracy", winner="Image 1", scores=(7, 6, 8)):
    dims = tuple(Dimension(name=f"d{i}", score_1=score, score_2=10 - score) for i, score in enumerate(scores))
    return Category(name=name, dims=dims, cat_winner=winner)


def assessment(*categories, winner="Image 1"):
    return Assessment(categories=categories, winner=winner)


def test_dump_has_the_published_keys():
    made = assessment(category(), category("B. Image Quality"), category("C. Aesthetics"))
    dumped = made.model_dump()
    assert list(dumped) == ["prompt", "categories", "reason", "winner"]
    assert list(dumped["categories"][0]) == ["name", "dims", "cat_reason", "cat_winner"]
    assert list(dumped["categories"][0]["dims"][0]) == ["name", "reason_1", "reason_2", "score_1", "score_2"]
    assert Assessment.model_validate(dumped) == made


def test_models_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        category().name = "other"


@pytest.mark.parametrize(
    ("scores", "winner", "margin", "side", "consistent"),
    [
        ((7, 6, 8), "Image 1", 12.0, 0, True),
        ((1, 2, 3), "Image 1", -18.0, 1, False),
        ((9, 5, 1), "Image 2", 0.0, None, True),
        ((9, 8, 9), "Video 2", 22.0, 0, False),
    ],
)
def test_winner_by_summed_scores(scores, winner, margin, side, consistent):
    made = category(winner=winner, scores=scores)
    assert (made.score_margin, made.score_side, made.consistent) == (margin, side, consistent)


def test_scores_must_share_ten_points():
    with pytest.raises(ValidationError, match="add up to 9, expected 10"):
        Dimension(name="d", score_1=4, score_2=5)
    assert Dimension(name="d", score_1=6.5, score_2=3.5).score_1 == 6.5


def test_anchors_are_found_by_name_in_any_order_and_place():
    personal = category("D. Counting accuracy", winner="Image 2")
    quality = category("Video Quality & Dynamic Realism", winner="Video 2")
    story = category("Narrative, Aesthetics & Cinematography")
    semantic = category("semantic alignment & accuracy")
    made = assessment(personal, quality, story, semantic)
    assert made.anchors == (semantic, quality, story)
    assert made.personalised == (personal,)


def test_anchors_fall_back_to_the_first_three():
    made = assessment(*(category(name) for name in ("Fidelity", "Craft", "Beauty", "Counting")))
    assert [anchor.name for anchor in made.anchors] == ["Fidelity", "Craft", "Beauty"]
    assert [extra.name for extra in made.personalised] == ["Counting"]


def test_a_personalised_quality_category_does_not_displace_the_anchor():
    names = ("A. Semantic Alignment", "B. Image Quality", "C. Aesthetics", "D. Quality of motion")
    made = assessment(*map(category, names))
    assert [extra.name for extra in made.personalised] == ["D. Quality of motion"]


def test_agreement_and_majority():
    made = assessment(
        category(winner="Image 2", scores=(9, 9, 9)),
        category("B. Image Quality", winner="Image 1"),
        category("C. Aesthetics", winner="Image 2", scores=(2, 2, 2)),
        winner="Image 1",
    )
    assert made.agreement == pytest.approx(2 / 3)
    assert made.side == 0
    assert made.majority_side == 1


def test_even_categories_have_no_majority():
    names = ("A. Semantic", "B. Quality", "C. Aesthetics", "D. Motion")
    winners = ("Image 1", "Image 2", "Image 1", "Image 2")
    assert assessment(*map(category, names, winners)).majority_side is None
