"""Conformance tests of rewards: rules that wrappers and agents rely on, whatever a reward measures."""

from __future__ import annotations

import unittest
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from flexgym.core.errors import FlexGymError
from flexgym.testing.groups import GroupsEnv, empty_group, shape_groups, vector_of, vector_wrapped, wrapped
from flexgym.testing.rules import expect, expect_same, rule
from flexgym.types import GroupScores, Modality, SampleGroup

_OTHER: Mapping[Modality, Modality] = {"image": "video", "video": "image"}
# A message about samples of the other modality should contain one of these words.
_WORDS = {"image": ("image", "picture"), "video": ("video", "frames")}


class RewardConformance:
    """Conformance tests of a reward. Inherit and override `make`.

    The rules call ``guarded``, as wrappers and agents do; the first two call ``score`` itself.

    Attributes:
        modality: modality of the samples that the reward scores, ``"image"`` or ``"video"``.
        pointwise: True if the score of a sample depends on that sample alone. Set it to False for rewards that compare
            the samples of a group.
        tolerance: allowed difference, relative and absolute, of scores in other batches; scorers whose rounding depends
            on the size of the batch need about 1e-5.
        gradient_tolerance: allowed difference, relative and absolute, of ``gradient_scores`` from ``score``, which may
            round pixels on the way. Rewards without ``gradient_scores`` skip its rules.
    """

    modality: Modality = "image"
    pointwise = True
    tolerance = 0.0
    gradient_tolerance = 0.01

    def make(self) -> Any:
        """Create a reward, equal to those of earlier calls."""
        raise NotImplementedError(f"{type(self).__name__} must override make(), which returns a new reward")

    def groups(self) -> list[SampleGroup]:
        """Return groups of different sizes that the reward can score, by default of the small world."""
        return shape_groups(self.modality)

    def broken_group(self) -> SampleGroup:
        """Return a group that the reward cannot score, by default two samples without pixels."""
        return empty_group(self.modality)

    def other_groups(self) -> list[SampleGroup]:
        """Return groups of the other modality, by default of the small world."""
        return shape_groups(_OTHER[self.modality])

    @rule("scores are float32 [G], one for each sample")
    def test_scores_are_of_the_agreed_form(self) -> None:
        """Check that groups get `GroupScores` of float32 ``[G]``, finite or NaN, and that some sample is scored."""
        groups = self.groups()
        with self._reward() as reward:
            scores = reward.score(groups)
        expect(len(scores) == len(groups), f"the scores of {len(groups)} groups", len(scores))
        for group, found in zip(groups, scores, strict=True):
            expect(isinstance(found, GroupScores), "GroupScores of each group", type(found).__name__)
            for name, values in {"rewards": found.rewards, **found.terms}.items():
                form = f"{getattr(values, 'dtype', type(values).__name__)} {list(np.shape(values))}"
                expect(form == f"float32 [{len(group)}]", f"{name} to be float32 [{len(group)}]", form)
                expect(not np.isinf(values).any(), f"{name} to be finite, or NaN where unscored", values)
        expect(any(np.isfinite(found.rewards).any() for found in scores), "some sample to be scored", _rewards(scores))

    @rule("an unscored sample is NaN and counted")
    def test_unscored_samples_are_counted(self) -> None:
        """Check that ``score`` does not raise for a group that it cannot score, and counts NaN in ``failures``."""
        with self._reward() as reward:
            scores = reward.score([*self.groups(), self.broken_group()])
        for found in scores:
            unscored, counted = int(np.isnan(found.rewards).sum()), sum(found.failures.values())
            expect(not unscored or counted > 0, f"failures to count {unscored} unscored samples", dict(found.failures))

    @rule("a group that cannot be scored does not affect the others")
    def test_a_broken_group_fails_alone(self) -> None:
        """Compare the scores of groups with and without a group that breaks the scorer."""
        groups = self.groups()
        with self._reward() as reward:
            expected = _rewards(reward.guarded(groups))
        with self._reward() as reward:
            found = _rewards(reward.guarded([groups[0], self.broken_group(), *groups[1:]]))
        others = [found[0], *found[2:]]
        expect_same(others, expected, "the other groups to keep their scores", tolerance=self.tolerance)

    @rule("scores are reproducible")
    def test_scores_repeat(self) -> None:
        """Compare the scores of two calls, and of two rewards created in the same way."""
        groups = self.groups()
        with self._reward() as first, self._reward() as second:
            scores = [_rewards(reward.guarded(groups)) for reward in (first, first, second)]
        expect_same(scores[1], scores[0], "the same scores when it is asked again")
        expect_same(scores[2], scores[0], "the same scores from another instance")

    @rule("the order of samples does not matter")
    def test_scores_follow_their_samples(self) -> None:
        """Reverse the order of samples, which reverses the scores of a pointwise reward."""
        if not self.pointwise:
            raise unittest.SkipTest("the reward compares the samples of a group")
        groups = self.groups()
        turned = [SampleGroup(group.prompt, group.samples[::-1].copy()) for group in groups]
        with self._reward() as reward:
            expected, found = (_rewards(reward.guarded(each)) for each in (groups, turned))
        back = [rewards[::-1] for rewards in found]
        expect_same(back, expected, "each sample to keep its score", tolerance=self.tolerance)

    @rule("scores do not depend on the other groups")
    def test_scores_do_not_depend_on_the_batch(self) -> None:
        """Compare the scores of groups scored together and alone."""
        groups = self.groups()
        with self._reward() as reward:
            together = _rewards(reward.guarded(groups))
            alone = [_rewards(reward.guarded([group]))[0] for group in groups]
        expect_same(together, alone, "the scores of each group alone", tolerance=self.tolerance)

    @rule("samples are not modified")
    def test_samples_are_not_written_to(self) -> None:
        """Check that scoring leaves the arrays of the environment unchanged, and works for read-only ones."""
        groups = self.groups()
        before = [group.samples.copy() for group in groups]
        with self._reward() as reward:
            expected = _rewards(reward.guarded(groups))
            expect_same([group.samples for group in groups], before, "the samples as they were")
            for group in groups:
                group.samples.flags.writeable = False
            expect_same(_rewards(reward.guarded(groups)), expected, "the same scores for read-only samples")

    @rule("submit returns what score returns")
    def test_submitted_work_equals_direct_work(self) -> None:
        """Compare the scores of background work with those of a direct call."""
        groups = self.groups()
        with self._reward() as reward:
            expected = _rewards(reward.guarded(groups))
            found = _rewards(reward.submit(groups).result(timeout=600))
        expect_same(found, expected, "the scores of a direct call")

    @rule("the vector wrapper equals single wrappers")
    def test_the_vector_twin_equals_single_wrappers(self) -> None:
        """Compare rewards and infos of one wrapper of a vector and of a vector of wrappers."""
        groups = [SampleGroup(group.prompt, group.samples[:2]) for group in self.groups()]
        with self._reward() as together, self._rewards_of(len(groups)) as alone:
            mode = AutoresetMode.NEXT_STEP
            ours = vector_wrapped(vector_of([_handing(group) for group in groups], mode), together)
            pairs = zip(groups, alone, strict=True)
            theirs = SyncVectorEnv([_handing_wrapped(group, reward) for group, reward in pairs], autoreset_mode=mode)
            steps = []
            for envs in (ours, theirs):
                envs.reset(seed=0)
                steps.append(envs.step(np.zeros((len(groups), 1), np.float32)))
        for name, place in (("rewards", 1), ("infos", 4)):
            mine, other = (step[place] for step in steps)
            if isinstance(mine, dict):
                mine, other = (
                    {key: value[key] for key in ("group_rewards", "reward_terms")} for value in (mine, other)
                )
            expect_same(mine, other, f"the {name} of single wrappers", tolerance=self.tolerance)

    @rule("samples of the other modality are scored, or fail with a message")
    def test_the_other_modality_is_rejected_with_a_message(self) -> None:
        """Check that samples of the other modality are scored, or fail with a message that names the expected one."""
        with self._reward() as reward:
            try:
                scores = reward.guarded(self.other_groups())
            except FlexGymError as error:
                message = str(error)
            else:
                if all(np.isfinite(found.rewards).any() for found in scores):
                    return
                message = " ".join(_failures(reward, scores))
        words = _WORDS[self.modality]
        wanted = f"a failure that says what it scores ({' or '.join(words)})"
        expect(any(word in message.lower() for word in words), wanted, message or "no message")

    @rule("gradient scores are the scores of the same samples")
    def test_gradient_scores_are_scores(self) -> None:
        """Compare ``gradient_scores`` of the samples as real numbers with ``score``; both are float32, one per row."""
        groups = self.groups()
        with self._reward() as reward:
            _skip_without_gradients(reward)
            expected = _rewards(reward.score(groups))
            found = [reward.gradient_scores(_real(group), [group.prompt] * len(group)) for group in groups]
        for scores, group in zip(found, groups, strict=True):
            form = f"{scores.dtype} {list(scores.shape)}".removeprefix("torch.")
            expect(form == f"float32 [{len(group)}]", f"gradient scores float32 [{len(group)}]", form)
        values = [scores.detach().cpu().numpy() for scores in found]
        expect_same(values, expected, "what score gives", tolerance=self.gradient_tolerance)

    @rule("gradients reach the scored sample alone")
    def test_gradients_reach_their_own_sample(self) -> None:
        """Check that the score of the last sample of a group has a finite gradient there, and none at other samples."""
        with self._reward() as reward:
            _skip_without_gradients(reward)
            for group in self.groups():
                pixels = _real(group).requires_grad_()
                before = pixels.detach().clone()
                scores = reward.gradient_scores(pixels, [group.prompt] * len(group))
                expect(scores.requires_grad, "scores with gradients to the pixels", "scores without")
                (gradient,) = torch.autograd.grad(scores[-1], pixels)
                expect(bool(gradient.isfinite().all()), "a finite gradient", "NaN or infinity")
                expect(bool(gradient[-1].any()), "a gradient at the pixels of the sample", "zero")
                reached = gradient[:-1].flatten(1).any(1).nonzero().flatten().tolist()
                expect(not reached, "no gradient at other samples", f"one at the samples {reached}")
                expect(torch.equal(pixels.detach(), before), "the pixels as they were", "other pixels")

    @contextmanager
    def _reward(self) -> Iterator[Any]:
        reward = self.make()
        try:
            yield reward
        finally:
            reward.close()

    @contextmanager
    def _rewards_of(self, count: int) -> Iterator[list[Any]]:
        """Yield several equal rewards, since each wrapper closes its own."""
        made = [self.make() for _ in range(count)]
        try:
            yield made
        finally:
            for reward in made:
                reward.close()


def _skip_without_gradients(reward: Any) -> None:
    if not type(reward).has_gradient_scores():
        raise unittest.SkipTest("the reward has no gradients to pixels")


def _real(group: SampleGroup) -> torch.Tensor:
    """Return the samples of a group as real numbers, ``[G, 3, H, W]`` or ``[G, 3, F, H, W]``."""
    return torch.from_numpy(group.samples).movedim(-1, 1).float() / 255


def _rewards(scores: Sequence[GroupScores]) -> list[np.ndarray]:
    return [found.rewards for found in scores]


def _failures(reward: Any, scores: Sequence[GroupScores]) -> list[str]:
    """Return the messages about unscored samples, of the reward and of a judge about the pairs of a group."""
    judged = [getattr(outcome, "detail", "") for found in scores for outcome in found.assessments]
    return [*(failed.failure.detail for failed in reward.failed.latest()), *judged]


def _handing(group: SampleGroup) -> Any:
    return lambda: GroupsEnv([group])


def _handing_wrapped(group: SampleGroup, reward: Any) -> Any:
    return lambda: wrapped(GroupsEnv([group]), reward)
