from __future__ import annotations

import io

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from flexgym.commands.judge_report import outcome_report
from flexgym.judge import Assessment, Category, Dimension, Pair, agreement_summary, parse_assessment
from flexgym.judge.aggregation import pair_shares, pair_wins
from flexgym.judge.assessment import anchor_places, normalize_label
from flexgym.judge.backends.base import Reply
from flexgym.judge.dialect import FLEX
from flexgym.judge.noise import NoisyJudge
from flexgym.rm.replies import read_trace
from tests.judge.simulated import group
from tests.judge.test_parser import written


def category(name="A. Semantic Alignment & Accuracy", winner="Image 1", scores=(7, 6, 8)):
    dims = tuple(Dimension(name=f"d{i}", score_1=score, score_2=10 - score) for i, score in enumerate(scores))
    return Category(name=name, dims=dims, cat_winner=winner)


def assessment(*categories, winner="Image 1", **rest):
    return Assessment(categories=categories, winner=winner, **rest)


def test_dump_has_the_published_keys():
    made = assessment(category(), category("B. Image Quality"), category("C. Aesthetics"))
    dumped = made.model_dump()
    assert list(dumped) == ["prompt", "categories", "reason", "winner"]
    assert list(dumped["categories"][0]) == ["name", "dims", "cat_reason", "cat_winner"]
    assert list(dumped["categories"][0]["dims"][0]) == ["name", "reason_1", "reason_2", "score_1", "score_2"]
    assert Assessment.model_validate(dumped) == made


def test_what_was_left_out_is_no_part_of_a_reply():
    made = assessment(category(), category("B. Quality"), category("C. Aesthetics"), left_out=2)
    assert made.left_out == 2
    assert "left_out" not in made.model_dump()
    assert list(Assessment.model_json_schema()["properties"]) == ["prompt", "categories", "reason", "winner"]


def test_an_explanation_that_is_no_text_is_empty():
    made = assessment(category(), category("B. Quality"), category("C. Aesthetics"), prompt=None, reason=["round"])
    assert (made.prompt, made.reason) == ("", "")


def test_half_a_surrogate_pair_can_still_be_written():
    made = Dimension(name="a \ud83d b", reason_1="\udc00", score_1=5, score_2=5)
    assert (made.name, made.reason_1) == ("a ? b", "?")
    assert Dimension.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("Image 1", "Image 1"),
        ("VIDEO 2", "Video 2"),
        ("image2", "Image 2"),
        (" **Image_1.** ", "Image 1"),
        ("the Video #2", "Video 2"),
        ("[Image: 1]", "Image 1"),
        ("\u201cImage 1\u201d", "Image 1"),
        ("Image\u00a02", "Image 2"),
    ],
)
def test_a_label_on_its_own_is_read(written, label):
    assert normalize_label(written) == label


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ("Image 1/2", "echoed_template"),
        ("Image 2 / Image 1", "echoed_template"),
        ("Image 1|2", "echoed_template"),
        ("Image 1 or 2", "contradictory"),
        ("Image 1 beats Image 2", "contradictory"),
        (("Image 1", "Image 1"), "contradictory"),
        (["Image 1"], "no_winner"),
        ("Image 11", "no_winner"),
        ("Image 0", "no_winner"),
        ("!Image 1", "no_winner"),
        ("Image 1 wins", "no_winner"),
        ("1", "no_winner"),
        (1, "no_winner"),
        (None, "no_winner"),
        ("", "no_winner"),
    ],
)
def test_anything_else_is_no_label(written, error):
    with pytest.raises(ValueError, match=r"\w") as caught:
        normalize_label(written)
    assert caught.value.type == error


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


@pytest.mark.parametrize("score", [True, "nan", float("nan"), float("inf"), -0.5, 10.5, None, "7/10"])
def test_a_score_is_a_number_from_0_to_10(score):
    with pytest.raises(ValidationError, match="score_1"):
        Dimension(name="d", score_1=score, score_2=5)


def test_anchors_are_found_by_name_in_any_order_and_place():
    personal = category("D. Counting accuracy", winner="Image 2")
    quality = category("Video Quality & Dynamic Realism", winner="Video 2")
    story = category("Narrative, Aesthetics & Cinematography")
    semantic = category("semantic alignment & accuracy")
    made = assessment(personal, quality, story, semantic)
    assert made.anchors == (semantic, quality, story)
    assert made.personalized == (personal,)


def test_anchors_fall_back_to_the_first_three():
    made = assessment(*(category(name) for name in ("Fidelity", "Craft", "Beauty", "Counting")))
    assert [anchor.name for anchor in made.anchors] == ["Fidelity", "Craft", "Beauty"]
    assert [extra.name for extra in made.personalized] == ["Counting"]


def test_a_personalized_quality_category_does_not_displace_the_anchor():
    names = ("A. Semantic Alignment", "B. Image Quality", "C. Aesthetics", "D. Quality of motion")
    made = assessment(*map(category, names))
    assert [extra.name for extra in made.personalized] == ["D. Quality of motion"]


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (("A. Semantic", "B. Quality", "C. Aesthetics"), (0, 1, 2)),
        (("aesthetics", "quality", "semantics"), (2, 1, 0)),
        (("D. Quality of text", "A. Semantic", "B. Image Quality", "C. Aesthetics"), (1, 2, 3)),
        (("D. Aesthetic quality", "A. Semantic", "B. Quality", "C. Aesthetics"), (1, 2, 3)),
        (("", "Semantic", "Quality", "Aesthetics"), (1, 2, 3)),
        (("A. Semantic", "B. Realism", "C. Aesthetics"), (0, 1, 2)),
        (("D. Counting", "A. Fidelity", "B. Realism", "C. Beauty"), (0, 1, 2)),
    ],
)
def test_places_of_the_anchors(names, places):
    assert anchor_places(names) == places


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


def odd_text(*places):
    """A reply in which the scores of the categories at some places are odd."""
    old = {0: '"score_1": 8', 1: '"score_1": 4', 2: '"score_1": 7'}
    return written({"replace": {old[place]: old[place][:-1] + '"?"' for place in places}})


def odd_reply(*places):
    return parse_assessment(odd_text(*places))


def test_odd_scores_are_set_aside_and_counted_everywhere():
    clean, odd, all_odd = odd_reply(), odd_reply(1), odd_reply(1, 2)
    assert (clean.odd_scores, odd.odd_scores, all_odd.odd_scores) == (0, 1, 2)
    assert [category.name[0] for category in all_odd.categories if not category.dims] == ["B", "C"]
    assert [category.consistent for category in all_odd.categories] == [True] * 3
    np.testing.assert_array_equal(pair_wins([clean, odd, all_odd]), [[1, 1, 0, 1]] * 3)
    shares = pair_shares([clean, odd, all_odd])
    # Category A: 17 of 20 points; B: 4 of 10; C: 7 of 10.
    np.testing.assert_allclose(shares[0], [(0.85 + 0.4 + 0.7) / 3, 0.85, 0.4, 0.7])
    np.testing.assert_allclose(shares[1], [(0.85 + 0.7) / 2, 0.85, np.nan, 0.7])
    np.testing.assert_allclose(shares[2], [0.85, 0.85, np.nan, np.nan])
    summary = agreement_summary([clean, odd, all_odd])
    assert summary["odd_scores"] == 1.0
    assert summary["consistent_categories"] == 1.0
    assert summary["even_categories"] == 0.0


def test_odd_scores_are_shown_and_are_no_training_data():
    odd = odd_reply(1)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(outcome_report("a cube", odd))
    assert "set aside: Edges: score_1" in console.export_text()
    assert "odd_dims" not in odd.model_dump_json()
    assert read_trace(Reply(odd_text(1)), FLEX).kind == "invalid"
    schema = Assessment.model_json_schema()["$defs"]
    assert "OddDimension" not in schema
    assert "odd_dims" not in schema["Category"]["properties"]
    assert schema["Category"]["properties"]["dims"]["minItems"] == 1


def test_noise_leaves_odd_scores_alone():
    class Odd:
        def assess(self, pairs):
            return [odd_reply(1)] * len(pairs)

    samples = group([1, 2])
    outcomes = NoisyJudge(Odd(), accuracy=0.8).assess([Pair(samples, 0, 1)] * 8)
    assert [outcome.odd_scores for outcome in outcomes] == [1] * 8
