from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from flexgym.algorithm.kept import Rollout
from flexgym.algorithm.process import ForwardProcess, SamplerSteps
from flexgym.algorithm.updates import UpdatePlan
from flexgym.flow import CPS, Window
from flexgym.types import Prompt

STEPS = SamplerSteps(CPS())


def part(number, *, levels=3, groups=2, size=4):
    """A part whose targets number level, group and sample, with the same numbers as advantages of each level."""
    shape = (levels, groups, size)
    numbers = 1000 * number + torch.arange(np.prod(shape)).view(shape).float()
    kept = {"latents": numbers, "target": numbers}
    prompts = (Prompt(str(number)),) * groups
    samples = np.zeros((groups, size, 2, 2, 3), np.uint8)
    rollout = Rollout(prompts, samples, Window(0, levels), kept, seeds=tuple(range(groups)))
    return rollout, numbers.numpy()


def steps_of(plan, parts, seed=0):
    return [list(plan.first(parts, len(parts))), *plan.later(parts, seed=seed)]


def seen(jobs):
    return Counter(float(x) for job in jobs for x in job.rollout.kept["target"][list(job.indices)].flatten())


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("split", ["groups", "samples"])
@pytest.mark.parametrize(("updates", "passes"), [(1, 1), (2, 1), (1, 2), (4, 3)])
def test_each_pass_trains_every_level_of_every_sample_once(updates, passes, split, stacked):
    parts = [part(number) for number in range(4)]
    plan = UpdatePlan(STEPS, num_updates=updates, passes=passes, split=split, stacked=stacked)
    steps = steps_of(plan, parts)
    assert len(steps) == updates * passes
    assert len(steps[0]) == plan.levels_of_first([rollout for rollout, _ in parts])
    everything = seen(job for jobs in steps for job in jobs)
    assert set(everything.values()) == {passes}
    assert len(everything) == 4 * 3 * 2 * 4
    for number, jobs in enumerate(steps):
        assert sum(job.share for job in jobs) == pytest.approx(1.0)
        assert all(job.fresh is (number == 0) for job in jobs)
        for job in jobs:
            assert torch.equal(job.advantages, job.rollout.kept["target"][list(job.indices)])
            assert len(job.indices) == (3 if stacked else 1)


def test_advantages_of_samples_hold_for_all_levels():
    rollout, _ = part(0)
    advantages = np.arange(8, dtype=np.float32).reshape(2, 4)
    jobs = list(UpdatePlan(STEPS).first([(rollout, advantages)], 1))
    assert all(torch.equal(job.advantages, torch.from_numpy(advantages)) for job in jobs)


def test_later_passes_take_the_parts_in_another_order_that_follows_from_the_seed():
    parts = [part(number) for number in range(6)]
    plan = UpdatePlan(STEPS, num_updates=6, passes=2)

    def order(seed):
        return [jobs[0].rollout.prompts[0].text for jobs in steps_of(plan, parts, seed)]

    assert order(1)[:6] == list("012345")
    assert sorted(order(1)[6:]) == list("012345") != order(1)[6:]
    assert order(1) == order(1) != order(2)


def test_weights_that_do_not_sample_are_never_those_that_sampled():
    assert not any(job.fresh for job in UpdatePlan(STEPS, acts=False).first([part(0)], 1))


@pytest.mark.parametrize("split", ["groups", "samples"])
def test_noise_differs_between_passes_and_shares_of_a_group(split):
    plan = UpdatePlan(ForwardProcess(), num_updates=2, passes=2, split=split)
    steps = steps_of(plan, [part(0), part(1)])
    draws = {job.draw for jobs in steps for job in jobs if job.rollout.prompts[0].text == "0"}
    assert len(draws) == (4 if split == "samples" else 2)


def test_no_more_parts_are_asked_for_than_the_first_step_needs():
    asked = []

    def parts():
        for number in range(4):
            asked.append(number)
            yield part(number)

    list(UpdatePlan(STEPS, num_updates=2).first(parts(), 4))
    assert asked == [0, 1]
