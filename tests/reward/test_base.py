from __future__ import annotations

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from flexgym.reward import PointwiseReward
from flexgym.types import Prompt, SampleGroup


class Brightness(PointwiseReward):
    """Mean value of a sample, by a function that a test may replace."""

    name = "brightness"

    def __init__(self, function=lambda prompt, samples: samples.mean(axis=(1, 2, 3))):
        self.function = function

    def score_samples(self, prompt, samples):
        return self.function(prompt, samples)


def group(*values, text="bright"):
    samples = np.asarray(values, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), dtype=np.uint8)
    return SampleGroup(Prompt(text), samples)


def raiser(error):
    def function(prompt, samples):
        raise error

    return function


def test_pointwise_scores_every_group():
    first, second = Brightness().score([group(10, 20), group(30, 40, 50)])
    np.testing.assert_array_equal(first.rewards, [10, 20])
    np.testing.assert_array_equal(second.rewards, [30, 40, 50])
    assert first.rewards.dtype == np.float32
    np.testing.assert_array_equal(first.terms["brightness"], first.rewards)
    assert first.failures == {}
    assert first.weights == {}
    assert second.mean == 40


@pytest.mark.parametrize(
    "function",
    [
        raiser(ValueError("foreign caption")),
        raiser(RuntimeError("out of memory")),
        raiser(KeyError("prompt")),
        raiser(ZeroDivisionError()),
        raiser(ImportError("no such scorer")),
        raiser(TimeoutError()),
        lambda prompt, samples: np.zeros(2),
        lambda prompt, samples: np.zeros((3, 1)),
        lambda prompt, samples: 0.5,
        lambda prompt, samples: None,
        lambda prompt, samples: ["a", "b", "c"],
        lambda prompt, samples: [[1.0], [1.0, 2.0], [1.0]],
        lambda prompt, samples: np.full(3, np.nan),
        lambda prompt, samples: np.array([np.inf, -np.inf, 1e300]),
    ],
)
def test_a_failed_group_is_nan_and_counted(function):
    failed, scored = Brightness(lambda p, s: function(p, s) if p.text == "odd" else np.ones(len(s))).score(
        [group(1, 2, 3, text="odd"), group(1, 2)]
    )
    assert np.isnan(failed.rewards).all()
    assert failed.rewards.shape == (3,)
    assert failed.failures == {"brightness": 3}
    assert np.isnan(failed.mean)
    np.testing.assert_array_equal(scored.rewards, [1, 1])


def test_a_single_failed_sample_leaves_the_others():
    scores = Brightness(lambda p, s: [1.0, float("inf"), 3.0]).score([group(1, 2, 3)])[0]
    np.testing.assert_array_equal(scores.rewards, [1, np.nan, 3])
    assert scores.failures == {"brightness": 1}
    assert scores.mean == 2


def test_failure_is_logged_with_its_reason(caplog):
    Brightness(raiser(ValueError("foreign caption"))).score([group(1, text="a dog")])
    assert "brightness failed on 'a dog': ValueError: foreign caption" in caplog.text


def test_interruption_is_not_a_failed_score():
    with pytest.raises(KeyboardInterrupt):
        Brightness(raiser(KeyboardInterrupt())).score([group(1)])


def test_submit_works_in_order_on_one_other_thread():
    threads, gate = [], threading.Event()

    def function(prompt, samples):
        assert gate.wait(10)
        threads.append((prompt.text, threading.get_ident()))
        return np.ones(len(samples))

    reward = Brightness(function)
    futures = [reward.submit([group(1, text=text)]) for text in "abc"]
    assert isinstance(futures[0], Future)
    assert not futures[0].done()
    gate.set()
    assert [future.result(10)[0].mean for future in futures] == [1, 1, 1]
    assert [text for text, _ in threads] == list("abc")
    idents = {ident for _, ident in threads}
    assert len(idents) == 1
    assert threading.get_ident() not in idents
    reward.close()
    assert reward.submit([group(4)]).result(10)[0].mean == 1
    reward.close()
