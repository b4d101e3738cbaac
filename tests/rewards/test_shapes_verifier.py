from __future__ import annotations

import numpy as np
import pytest

import rewards
from flexgym.shapes.scenes import Thing, render, render_video
from flexgym.types import Prompt, SampleGroup

RED_CIRCLE = render((Thing("circle", "red", 16, 16, 6),))
BLUE_CIRCLE = render((Thing("circle", "blue", 16, 16, 6),))
BLUE_SQUARE = render((Thing("square", "blue", 16, 16, 6),))
EMPTY = render(())


def score(caption, *samples):
    return rewards.make("shapes_verifier").score([SampleGroup(Prompt(caption), np.stack(samples))])[0]


def test_share_of_constraints_by_hand():
    # count, shape and colour are asked for: all, two, one and none of them are met.
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
