from __future__ import annotations

import numpy as np
import pytest

from flexgym import rewards
from flexgym.shapes.scenes import Thing, render, render_video
from flexgym.types import Prompt, SampleGroup

RED_CIRCLE = render((Thing("circle", "red", 16, 16, 6),))
BLUE_CIRCLE = render((Thing("circle", "blue", 16, 16, 6),))
BLUE_SQUARE = render((Thing("square", "blue", 16, 16, 6),))
EMPTY = render(())


def score(caption, *samples):
    return rewards.make("shapes_verifier").score([SampleGroup(Prompt(caption), np.stack(samples))])[0]


def test_share_of_constraints_by_hand():
    # count, shape and color are asked for: all, two, one and none of them are met.
    scores = score("a red circle", RED_CIRCLE, BLUE_CIRCLE, BLUE_SQUARE, EMPTY)
    np.testing.assert_allclose(scores.rewards, [1, 2 / 3, 1 / 3, 0], rtol=1e-6)
    assert scores.failures == {}


def test_videos_are_read_frame_by_frame():
    track = [Thing("circle", "red", 8 + 2 * frame, 16, 5) for frame in range(9)]
    right, left = (render_video([(thing,) for thing in order]) for order in (track, track[::-1]))
    scores = score("a red circle moving right", right, left)
    np.testing.assert_allclose(scores.rewards, [1, 3 / 4])


@pytest.mark.parametrize("caption", ["a dog on a beach", "", "a red circle moving right"])
def test_what_cannot_be_checked_is_a_counted_failure(caption):
    scores = score(caption, RED_CIRCLE, EMPTY)
    assert np.isnan(scores.rewards).all()
    assert scores.failures == {"shapes_verifier": 2}


def moving(xs):
    return render_video([(Thing("circle", "red", x, 16, 5),) for x in xs])


def test_groups_of_all_kinds_are_scored_in_one_call(caplog):
    wide = np.pad(RED_CIRCLE, ((0, 0), (4, 4), (0, 0)), "edge")
    right = moving(range(8, 26, 2))
    groups = [
        ("a red circle", [RED_CIRCLE, BLUE_CIRCLE]),
        ("a red circle moving right", [right, right[::-1], right]),
        ("a dog", [RED_CIRCLE]),
        ("a red circle", [right]),
        ("a red circle", [RED_CIRCLE.astype(np.float32), RED_CIRCLE.astype(np.float32)]),
        ("a red circle", [wide]),
        ("a blue square", [BLUE_SQUARE, EMPTY, RED_CIRCLE]),
    ]
    found = rewards.make("shapes_verifier").score(
        [SampleGroup(Prompt(text), np.stack(samples)) for text, samples in groups]
    )
    expected = [[1, 2 / 3], [1, 3 / 4, 1], [np.nan], [np.nan], [np.nan, np.nan], [1], [1, 0, 1 / 3]]
    for scores, values in zip(found, expected, strict=True):
        np.testing.assert_allclose(scores.rewards, values, rtol=1e-6)
        failed = int(np.isnan(values).sum())
        assert scores.failures == ({"shapes_verifier": failed} if failed else {})
    for reason in ("got 'a dog'", "modality 'image'", "got float32 [2, 32, 32, 3]"):
        assert reason in caplog.text


def test_score_samples_is_what_score_gives():
    reward, samples = rewards.make("shapes_verifier"), np.stack([RED_CIRCLE, BLUE_CIRCLE, EMPTY])
    scores = reward.score([SampleGroup(Prompt("a red circle"), samples)])[0]
    np.testing.assert_array_equal(reward.score_samples(Prompt("a red circle"), samples), scores.rewards)
    with pytest.raises(ValueError, match="small world"):
        reward.score_samples(Prompt("a dog"), samples)
