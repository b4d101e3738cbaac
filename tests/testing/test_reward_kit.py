"""The kit of rewards finds what it is for: for every rule a reward that breaks it."""

from __future__ import annotations

import itertools
from concurrent.futures import Future

import numpy as np
import pytest

from flexgym.rewards import PointwiseReward, Reward
from flexgym.testing import RewardConformance, broken_rules
from flexgym.types import GroupScores


class Bright(PointwiseReward):
    """Mean value of an image; keeps all rules."""

    def score_samples(self, prompt, samples):
        if samples.ndim != 4 or not samples.size:
            raise ValueError(f"expected images, got {list(samples.shape)}")
        return samples.mean(axis=(1, 2, 3)) / 255


class Plain(Reward):
    """The same for groups, so that a subclass can do anything."""

    def score(self, groups):
        return [GroupScores(rewards=self.values(group)) for group in groups]

    def values(self, group):
        return group.samples.reshape(len(group), -1).mean(axis=1).astype(np.float32)


class Wide(Plain):
    def values(self, group):
        return super().values(group).astype(np.float64)


class Raising(Plain):
    def values(self, group):
        if not group.samples.size:
            raise ValueError("no pixels")
        return super().values(group)


class Moody(Bright):
    moods = itertools.count()

    def score_samples(self, prompt, samples):
        return super().score_samples(prompt, samples) + next(self.moods)


class FirstIsBest(Bright):
    def score_samples(self, prompt, samples):
        return super().score_samples(prompt, samples) - np.arange(len(samples))


class Relative(Plain):
    def score(self, groups):
        top = max(self.values(group).max() for group in groups if group.samples.size)
        return [GroupScores(rewards=self.values(group) / top) for group in groups]


class Writing(Bright):
    def score_samples(self, prompt, samples):
        samples[:] //= 2
        return super().score_samples(prompt, samples)


class Hasty(Bright):
    def submit(self, groups):
        done = Future()
        done.set_result([GroupScores(rewards=np.zeros(len(group), np.float32)) for group in groups])
        return done


class Mute(Bright):
    def score_samples(self, prompt, samples):
        assert samples.ndim == 4, "no"
        return super().score_samples(prompt, samples)


class Shining(Bright):
    """The same with gradients; keeps all rules."""

    def gradient_scores(self, pixels, prompts):
        return pixels.mean((1, 2, 3))


class Brighter(Shining):
    def gradient_scores(self, pixels, prompts):
        return super().gradient_scores(pixels, prompts) + 1


class Leaking(Shining):
    def gradient_scores(self, pixels, prompts):
        return super().gradient_scores(pixels, prompts) + (pixels.mean() - pixels.mean().detach())


BROKEN = {
    "test_scores_are_of_the_agreed_form": (Wide, "rewards to be float32 [3], got float64 [3]"),
    "test_unscored_samples_are_counted": (Plain, "failures to count 2 unscored samples, got {}"),
    "test_a_broken_group_fails_alone": (Raising, "the other groups to keep their scores, got nan in place of"),
    "test_scores_repeat": (Moody, "the same scores when it is asked again"),
    "test_scores_follow_their_samples": (FirstIsBest, "each sample to keep its score"),
    "test_scores_do_not_depend_on_the_batch": (Relative, "the scores of each group alone"),
    "test_samples_are_not_written_to": (Writing, "the samples as they were"),
    "test_submitted_work_equals_direct_work": (Hasty, "the scores of a direct call"),
    "test_the_vector_twin_equals_single_wrappers": (Relative, "the rewards of single wrappers"),
    "test_the_other_modality_is_rejected_with_a_message": (Mute, "image or picture), got AssertionError: no"),
    "test_gradient_scores_are_scores": (Brighter, "expected what score gives, got 1."),
    "test_gradients_reach_their_own_sample": (Leaking, "no gradient at other samples, got one at the samples [0, 1]"),
}


def kit(reward):
    return type("Kit", (RewardConformance,), {"make": lambda self: reward()})


@pytest.mark.parametrize("reward", [Bright, Shining])
def test_a_good_reward_breaks_no_rule(reward):
    assert broken_rules(kit(reward)) == {}


def test_every_rule_has_a_reward_that_breaks_it():
    assert set(BROKEN) == {name for name in dir(RewardConformance) if name.startswith("test_")}


@pytest.mark.filterwarnings("ignore:.*empty slice", "ignore:invalid value")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_reward_is_told_its_rule(name):
    reward, told = BROKEN[name]
    test = getattr(kit(reward)(), name)
    with pytest.raises(AssertionError) as failure:
        test()
    assert str(failure.value).startswith(f"broken rule: {test.rule}: expected ")
    assert told in str(failure.value)


def test_rules_of_order_are_not_for_tournaments():
    class Tournament(kit(FirstIsBest)):
        pointwise = False

    assert broken_rules(Tournament) == {}


def test_without_a_factory_the_kit_says_what_to_do():
    with pytest.raises(AssertionError, match=r"must override make\(\), which returns a new reward"):
        RewardConformance().test_scores_repeat()
