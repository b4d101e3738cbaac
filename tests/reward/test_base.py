from __future__ import annotations

import pickle
import threading
from concurrent.futures import Future

import numpy as np
import pytest

import rewards
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.types import Prompt, SampleGroup
from rewards import registry
from rewards.base import PointwiseReward, Reward


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


def test_names_lists_rewards_and_not_the_machinery():
    assert {"shapes_oracle", "shapes_verifier"} <= set(rewards.names())
    assert not {"base", "registry", "vector", "vision", "wrappers"} & set(rewards.names())


@pytest.mark.parametrize("name", ["shapes_verifier", "ShapesVerifier"])
def test_make_builds_the_bare_scorer(name):
    reward = rewards.make(name)
    assert isinstance(reward, Reward)
    assert reward.name == "shapes_verifier"


def test_unknown_name_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'shapes_oracle'"):
        rewards.make("shape_oracle")
    with pytest.raises(AttributeError, match="Did you mean 'shapes_oracle'"):
        _ = rewards.ShapeOracel
    with pytest.raises(AttributeError, match="no_such"):
        _ = rewards.no_such


def test_attribute_access_gives_the_same_class_each_time_and_pickles():
    assert rewards.ShapesVerifier is rewards.ShapesVerifier
    assert rewards.ShapesVerifier is not rewards.vector.ShapesVerifier
    for cls in (rewards.ShapesVerifier, rewards.vector.ShapesVerifier):
        assert pickle.loads(pickle.dumps(cls)) is cls


def test_register_makes_a_reward_of_ones_own(monkeypatch):
    monkeypatch.setattr("rewards.base._CLASSES", {})

    @rewards.register("mean_value")
    class MeanValue(Brightness):
        pass

    assert isinstance(rewards.make("mean_value"), MeanValue)
    assert issubclass(registry.single_wrapper("MeanValue"), rewards.RewardWrapper)
    assert "mean_value" in rewards.names()
    with pytest.raises(ConfigError, match="is taken by"):
        rewards.register("meanvalue")(type("MeanValue", (Brightness,), {"__qualname__": "Other"}))
    with pytest.raises(ConfigError, match="same name in capitals"):
        rewards.register("median_value")(MeanValue)


def write_module(folder, monkeypatch, name, text):
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


OWN = """
import numpy as np
from rewards import PointwiseReward

class MyReward(PointwiseReward):
    def __init__(self, factor=1.0):
        self.factor = factor

    def score_samples(self, prompt, samples):
        return self.factor * samples.mean(axis=(1, 2, 3))

other = 3
"""


def test_a_reward_of_ones_own_is_found_by_its_path(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch, "own_reward_module", OWN)
    for path in ("own_reward_module:MyReward", "own_reward_module.MyReward"):
        reward = rewards.make(path, factor=2.0, deadline_s=5)
        assert reward.guarded([group(10, 20)])[0].rewards.tolist() == [20, 40]
        assert reward.name == "my_reward"
        assert reward.deadline_s == 5


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("own_reward_errors:MyRewrad", UnknownNameError, "Did you mean 'MyReward'"),
        ("own_reward_errors:other", ConfigError, "derived from rewards.Reward, got 3"),
        ("no_such_module:MyReward", ConfigError, "'no_such_module' cannot be imported.*mymodule:MyReward"),
        (":MyReward", ConfigError, "cannot be imported"),
        ("own_reward_errors:", UnknownNameError, "Known: MyReward[.]"),
    ],
)
def test_a_path_that_leads_nowhere_says_so(tmp_path, monkeypatch, path, error, message):
    write_module(tmp_path, monkeypatch, "own_reward_errors", OWN)
    with pytest.raises(error, match=message):
        rewards.make(path)
