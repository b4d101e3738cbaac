from __future__ import annotations

import json
import time

import numpy as np
import pytest

from flexgym import rewards
from flexgym.judge import Assessment, JudgeFailure, Pair, all_pairs, parse_assessment
from flexgym.shapes import oracle
from flexgym.shapes.captions import IMAGE_CATEGORIES, VIDEO_CATEGORIES, phrasings, specs
from flexgym.shapes.oracle import OracleJudge, read_facts, write_assessment
from flexgym.shapes.sampling import sample_clip, sample_scene, wrong_spec
from flexgym.shapes.scenes import Thing, render, render_video
from flexgym.shapes.verifier import verify
from flexgym.types import Prompt, SampleGroup

RED_CIRCLE = render((Thing("circle", "red", 16, 16, 6),))
BLUE_CIRCLE = render((Thing("circle", "blue", 16, 16, 6),))
CORNERED_CIRCLE = render((Thing("circle", "red", 4, 5, 4.6),))
NAMES = {**dict.fromkeys(IMAGE_CATEGORIES, "image"), **dict.fromkeys(VIDEO_CATEGORIES, "video")}


def circles(count, shape="circle"):
    places = ((7, 7), (24, 8), (8, 24), (24, 24), (16, 16))
    return render(tuple(Thing(shape, "green", x, y, 4.2) for x, y in places[:count]))


def moving(direction):
    places = [8 + 2 * frame for frame in range(9)]
    return render_video([(Thing("circle", "red", x, 16, 5),) for x in places[:: 1 if direction == "right" else -1]])


def draw(rng, spec):
    return render(sample_scene(rng, spec)) if spec.modality == "image" else render_video(sample_clip(rng, spec))


def group(caption, *samples):
    return SampleGroup(Prompt(caption), np.stack(samples))


def judge(caption, first, second):
    """Judge both orders of one pair; the second order is swapped back."""
    pair = group(caption, first, second)
    there, back = OracleJudge().assess([Pair(pair, 0, 1), Pair(pair, 1, 0)])
    assert isinstance(there, Assessment), there
    assert there.side == 1 - back.side
    for one, other in zip(there.categories, back.categories, strict=True):
        assert one.side == 1 - other.side
        assert one.score_margin == pytest.approx(-other.score_margin)
        assert [(d.score_1, d.reason_1) for d in one.dims] == [(d.score_2, d.reason_2) for d in other.dims]
    return there


def named(assessment):
    return {dim.name for category in assessment.categories for dim in category.dims}


@pytest.mark.parametrize(("category", "kind"), NAMES.items())
def test_the_right_sample_wins_in_every_category_of_captions(category, kind):
    rng = np.random.default_rng(1)
    members = specs(kind, "training")[category]
    judged = 0
    for _ in range(4):
        spec = members[rng.integers(len(members))]
        right, wrong = draw(rng, spec), draw(rng, wrong_spec(rng, spec))
        caption = phrasings(spec)[0]
        if verify(spec, right).satisfied and not verify(spec, wrong).satisfied:
            found = judge(caption, right, wrong)
            assert found.side == found.anchors[0].side == found.anchors[2].side == 0
            assert found.agreement == 1.0
            judged += 1
    assert judged


def test_reply_is_json_with_the_published_keys():
    text = write_assessment(
        "a red circle", read_facts("a red circle", RED_CIRCLE), read_facts("a red circle", BLUE_CIRCLE)
    )
    data = json.loads(text)
    assert list(data) == ["prompt", "categories", "reason", "winner"]
    assert list(data["categories"][0]) == ["name", "dims", "cat_reason", "cat_winner"]
    assert list(data["categories"][0]["dims"][0]) == ["name", "reason_1", "reason_2", "score_1", "score_2"]
    assert data["winner"] == "Image 1"
    parsed = parse_assessment(text)
    assert [anchor.name[:2] for anchor in parsed.anchors] == ["A.", "B.", "C."]
    assert [extra.name for extra in parsed.personalized] == ["D. Colour Fidelity"]


@pytest.mark.parametrize(
    ("caption", "first", "second", "category", "criterion"),
    [
        ("two circles", circles(2), circles(3), "D. Counting Accuracy", "Number of things"),
        ("a red circle", RED_CIRCLE, BLUE_CIRCLE, "D. Colour Fidelity", "Colour red"),
        ("a large circle", circles(1, "circle"), RED_CIRCLE, "D. Size", "Size large"),
        ("a red circle moving right", moving("right"), moving("left"), "D. Motion Fidelity", "Motion right"),
    ],
)
def test_criteria_are_chosen_for_the_caption(caption, first, second, category, criterion):
    found = judge(caption, first, second)
    assert [extra.name for extra in found.personalized] == [category]
    assert criterion in named(found)
    assert ("Steady things over time" in named(found)) == ("moving" in caption)


def test_the_same_pictures_are_judged_by_what_is_asked():
    assert judge("two circles", circles(2), circles(3)).side == 0
    assert judge("three circles", circles(2), circles(3)).side == 1
    assert judge("a red circle moving left", moving("right"), moving("left")).side == 1
    assert judge("a red circle moving left", moving("right"), moving("left")).winner == "Video 2"


def test_constraints_outweigh_finer_measures():
    rng = np.random.default_rng(0)
    dirty = np.clip(CORNERED_CIRCLE + rng.normal(0, 12, CORNERED_CIRCLE.shape), 0, 255).astype(np.uint8)
    assert verify("a red circle", dirty).satisfied
    found = judge("a red circle", dirty, BLUE_CIRCLE)
    assert found.side == 0
    assert [category.side for category in found.categories] == [0, 0, 0, 0]


def test_finer_measures_decide_between_equals():
    found = judge("a red circle", CORNERED_CIRCLE, RED_CIRCLE)
    assert found.side == 1
    assert found.anchors[2].side == 1
    assert all(abs(dim.score_1 - 5) <= 0.5 for category in found.categories for dim in category.dims)
    assert "finer criteria decide" in found.reason


def test_a_near_count_beats_a_far_one():
    assert judge("two circles", circles(3), circles(5)).side == 0


def test_an_empty_picture_loses_to_a_wrong_one():
    assert judge("a red circle", render(()), BLUE_CIRCLE).side == 1


def test_group_rewards_rank_right_samples_first():
    samples = [RED_CIRCLE, BLUE_CIRCLE, CORNERED_CIRCLE, render(())]
    scores = rewards.make("shapes_oracle").score([group("a red circle", *samples)])[0]
    np.testing.assert_array_equal(np.argsort(-scores.rewards), [0, 2, 1, 3])
    np.testing.assert_allclose(scores.terms["overall"], [1, 1 / 3, 2 / 3, 0], rtol=1e-6)
    assert scores.weights == {"dim": 0.7, "overall": pytest.approx(0.3)}
    assert len(scores.assessments) == 6


@pytest.mark.parametrize("caption", ["a dog", "a red circle moving right"])
def test_what_the_judge_cannot_know_is_refused(caption):
    scores = rewards.make("shapes_oracle").score([group(caption, RED_CIRCLE, BLUE_CIRCLE, RED_CIRCLE)])[0]
    assert np.isnan(scores.rewards).all()
    assert scores.failures == {"refused": 3}
    assert all(isinstance(outcome, JudgeFailure) and outcome.detail for outcome in scores.assessments)


def test_each_sample_is_read_once_and_all_in_one_batch(monkeypatch):
    reads = []
    original = oracle.read_groups
    monkeypatch.setattr(oracle, "read_groups", lambda many: reads.append([len(s) for s in many]) or original(many))
    monkeypatch.setattr(oracle, "read_sample", None)
    samples = [circles(1 + number % 4) for number in range(6)]
    rewards.make("shapes_oracle").score([group("two circles", *samples), group("three circles", *samples[:4])])
    assert reads == [[6, 4]]


def test_pairs_may_leave_samples_out():
    three = group("two circles", *(circles(number) for number in (1, 2, 3)))
    there, back = OracleJudge().assess([Pair(three, 2, 1), Pair(three, 1, 2)])
    assert (there.side, back.side) == (1, 0)
    assert OracleJudge().assess([]) == []


def test_groups_judged_together_get_what_they_get_alone():
    groups = [
        group("two circles", *(circles(number) for number in (1, 2, 3, 4))),
        group("a red circle", RED_CIRCLE, BLUE_CIRCLE, CORNERED_CIRCLE),
        group("a red circle moving right", moving("right"), moving("left"), moving("right")[:, ::-1]),
        group(
            "a red circle",
            *(np.pad(picture, ((4, 4), (4, 4), (0, 0)), "edge") for picture in (BLUE_CIRCLE, RED_CIRCLE)),
        ),
    ]
    for together, members in zip(rewards.make("shapes_oracle").score(groups), groups, strict=True):
        alone = rewards.make("shapes_oracle").score([members])[0]
        assert together.assessments == alone.assessments
        np.testing.assert_array_equal(together.rewards, alone.rewards)


def test_a_group_that_cannot_be_judged_leaves_the_others():
    bad = [
        group("a dog", RED_CIRCLE, BLUE_CIRCLE, RED_CIRCLE),
        group("a red circle", moving("right"), moving("left"), moving("left")),
        group("a red circle", *[RED_CIRCLE.astype(np.float32)] * 3),
        group("a red circle", *[RED_CIRCLE[..., :1]] * 3),
    ]
    good = group("a red circle", RED_CIRCLE, BLUE_CIRCLE, CORNERED_CIRCLE)
    *failed, scored = rewards.make("shapes_oracle").score([*bad, good])
    for scores, reason in zip(failed, ("small world", "modality 'image'", "got float32", r"[32, 32, 1]"), strict=True):
        assert np.isnan(scores.rewards).all()
        assert scores.failures == {"refused": 3}
        assert all(reason in outcome.detail for outcome in scores.assessments)
    assert scored.failures == {}
    np.testing.assert_array_equal(np.argsort(-scored.rewards), [0, 2, 1])


@pytest.mark.benchmark
def test_time_per_pair():
    caption = "two circles"
    facts = [read_facts(caption, circles(1 + number % 4)) for number in range(8)]
    pairs = all_pairs(8)
    start = time.process_time()
    for _ in range(20):
        for first, second in pairs:
            parse_assessment(write_assessment(caption, facts[first], facts[second]))
    print(f"{(time.process_time() - start) / (20 * len(pairs)) * 1e3:.3f} ms per pair")
