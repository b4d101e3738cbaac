from __future__ import annotations

import numpy as np
import pytest

from flexgym import rewards
from flexgym.core.errors import ConfigError
from tests.rewards.seeing_server import gray_group, seeing_server


def answer(means, text):
    """Prefers the brighter half of the images, in the form that the text asks for."""
    label = "Video" if "two videos" in text else "Image"
    first, second = (float(part.mean()) for part in np.split(means, 2))
    if "Alignment Score" not in text:
        if round(first) == round(second):
            return f"Both {label.lower()}s are equally good."
        return f"{label} {1 if first > second else 2} is better."
    share = round(first / (first + second), 2)
    lines = f" {label} 1: {share}\n {label} 2: {1 - share:.2f}\n"
    return "\n".join(f"{name} Score:\n{lines}" for name in ("Alignment", "Coherence", "Style"))


@pytest.fixture(scope="module")
def server():
    with seeing_server(answer) as running:
        yield running


@pytest.mark.parametrize("frames", [None, 9])
@pytest.mark.parametrize("form", ["rank", "score"])
def test_win_rates_follow_the_answers(server, form, frames):
    reward = rewards.make("UnifiedRewardPair", judge=server.url, form=form)
    first, second = reward.score([gray_group(40, 200, 120, frames=frames), gray_group(90, 90, 30, frames=frames)])
    reward.close()
    np.testing.assert_array_equal(first.rewards, [0, 1, 0.5])
    np.testing.assert_array_equal(second.rewards, [0.75, 0.75, 0])
    assert first.failures == {}
    np.testing.assert_array_equal(first.terms["dim"], first.terms["overall"])


def test_margins_of_scores(server):
    settings = {"form": "score", "tournament": {"aggregation": "margin"}}
    reward = rewards.make("UnifiedRewardPair", judge=server.url, **settings)
    [scores] = reward.score([gray_group(50, 150)])
    reward.close()
    np.testing.assert_allclose(scores.rewards, [0.25, 0.75], atol=0.01)


def test_unknown_forms_are_refused(server):
    with pytest.raises(ConfigError, match="form"):
        rewards.make("UnifiedRewardPair", judge=server.url, form="points")
