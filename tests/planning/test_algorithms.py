"""Plans of what an algorithm asks for: forwards, means, weight copies, guidance, and what a rollout keeps."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import pytest

from flexgym.algorithm.base import Algorithm, CopySchedule, Loss
from flexgym.algorithm.policy import FlowPolicy
from flexgym.algorithm.process import ForwardProcess
from flexgym.algorithm.replay import Replayed
from flexgym.algorithm.rollout import collect
from flexgym.algorithm.settings import AlgorithmSettings
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.errors import GeneratorError
from flexgym.generators import load_generator
from flexgym.planning.phases import bytes_of, train
from flexgym.planning.plan import Plan
from flexgym.planning.planned import Planned, modality_of
from tests.planning.planners import planner_for

SMALL = (
    "rollout.group_size=4",
    "rollout.groups_per_forward=1",
    "rollout.prompts_per_iteration=2",
    "generator.sampling.num_steps=5",
)
WINDOW = {"size": 2, "first": [0, 1]}
GRPO = {"name": "grpo", "noise": "cps", "window": WINDOW}
MATCHING = {"name": "matching", "window": WINDOW}
LAGGING = {"name": f"{__name__}:Lagging", "window": WINDOW}
GUIDED = "generator.sampling.guidance_scale=4.0"
TWO_LEARNERS = ("resources.num_learners=2", "generator.sharding=fsdp")


class Lagging(Algorithm[AlgorithmSettings]):
    """Samples with an old copy of the weights, keeps another copy on the host, and trains on the old prediction."""

    acts = "old"

    @property
    def process(self) -> ForwardProcess:
        return ForwardProcess()

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old_mean"})

    @property
    def copies(self) -> Mapping[str, CopySchedule]:
        return {"old": CopySchedule(), "older": CopySchedule(0.9, on_host=True)}

    def loss(self, replayed: Replayed) -> Loss:
        return Loss((replayed.mean - replayed.means["old"]).square().flatten(3).mean(3) * replayed.advantage)


class Reading(Lagging):
    """Reads the value of a tensor in its loss, which a plan does not have."""

    def loss(self, replayed: Replayed) -> Loss:
        return Loss(super().loss(replayed).per_sample * replayed.advantage.max().item())


def planned_of(algorithm: Mapping[str, object], *overrides: str) -> Planned:
    recipe = {**load_recipe("pref_grpo_shapes_t2i"), "algorithm": algorithm}
    return Planned.read(apply_overrides(recipe, [*SMALL, *overrides]))


def plan_of(algorithm: Mapping[str, object], *overrides: str) -> Plan:
    return planner_for().plan(planned_of(algorithm, *overrides))


def parts_of(plan: Plan, name: str) -> dict[str, int]:
    return dict(next(phase for phase in plan.phases if phase.name == name).parts)


def flops_of(plan: Plan, name: str) -> int:
    return next(phase.flops for phase in plan.phases if phase.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [GRPO, MATCHING, LAGGING], ids=["grpo", "matching", "lagging"])
def test_stored_bytes_are_those_of_a_real_rollout(algorithm: dict[str, object]):
    planned = planned_of(algorithm)
    generator = load_generator(None, modality="image", device="cpu", **planned.sampling)
    env = gym.make_vec("FlexT2I-v0", 2, "vector_entry_point", generator=generator, group_size=4)
    policy = FlowPolicy(generator, planned.algorithm.process, groups_per_forward=2)
    window = planned.algorithm.windows(5).windows[0]
    rollout = collect(env, policy, window, seeds=[0, 1], keep=planned.algorithm.requires)
    host = planner_for().plan(planned).host
    assert host["samples"] == rollout.samples.nbytes
    stored = host["stored latents"] + host.get("stored means and densities", 0)  # the forward process stores none
    assert stored == bytes_of(rollout.kept.values())


def test_the_forward_process_compares_with_the_weights_that_sampled_only_after_they_have_moved():
    sampler, forward = plan_of(GRPO), plan_of(MATCHING)
    for phase in ("sampling", "update"):
        assert flops_of(forward, phase) == flops_of(sampler, phase)
    one, window = flops_of(forward, "sampling") // 5, 2
    twice = plan_of(MATCHING, "training.passes=2")
    assert flops_of(twice, "update") == 2 * flops_of(forward, "update") + window * one
    assert parts_of(twice, "update")["weight copies"] == parts_of(twice, "update")["gradients"]
    assert parts_of(forward, "update")["weight copies"] == 0


def test_samples_of_every_group_make_smaller_replays_of_the_same_work():
    large = "rollout.group_size=16"
    complete, split = plan_of(GRPO, large), plan_of(GRPO, large, "training.num_updates=2", "training.split=samples")
    one, window = flops_of(complete, "sampling") // 5, 2
    compared = window * one // 2  # the second optimizer step asks the weights that sampled
    assert flops_of(split, "update") == flops_of(complete, "update") + compared
    assert parts_of(split, "update")["activations"] < 0.7 * parts_of(complete, "update")["activations"]
    assert parts_of(split, "update")["weight copies"] == parts_of(split, "update")["gradients"]


def test_stacked_levels_share_a_forward():
    apart, stacked = plan_of(MATCHING), plan_of({**MATCHING, "stacked": True})
    assert flops_of(stacked, "update") == pytest.approx(flops_of(apart, "update"), rel=0.02)
    assert parts_of(stacked, "update")["activations"] > parts_of(apart, "update")["activations"]


def test_a_reference_costs_a_forward_in_the_update_and_a_copy_with_full_training():
    with_kl, without = plan_of({**GRPO, "penalties": {"reference": {"coeff": 0.1}}}), plan_of(GRPO)
    steps, window = 5, 2
    one = flops_of(without, "sampling") // steps
    assert flops_of(with_kl, "update") - flops_of(without, "update") == window * one
    assert parts_of(with_kl, "update")["reference"] == parts_of(with_kl, "update")["gradients"]
    assert parts_of(without, "update")["reference"] == 0


def test_all_steps_but_the_last_are_trained_with_strategy_all():
    everything = plan_of({**GRPO, "window": {"strategy": "all"}})
    two = plan_of(GRPO)
    assert flops_of(everything, "update") == 2 * flops_of(two, "update")
    assert everything.host["stored latents"] == 2 * two.host["stored latents"]


def test_weight_copies_are_where_their_schedule_says():
    plan = plan_of(LAGGING, "training.ema_decay=0.9")
    parts = parts_of(plan, "update")
    assert (parts["weight copies"], parts["EMA"]) == (parts["gradients"], 0)
    assert plan.host["weight copies"] == plan.host["EMA"] == parts["gradients"]
    assert parts_of(plan, "sampling")["weight copies"] == parts["gradients"]

    generator = load_generator(None, modality="image", device="cpu")
    train(generator, plan.planned)
    generator.weights.keep("old")
    assert bytes_of(generator.weights.kept["old"].values()) == parts["weight copies"]


def test_sharded_weight_copies_are_on_the_device():
    plan = plan_of(LAGGING, *TWO_LEARNERS, "training.ema_decay=0.9")
    parts = parts_of(plan, "update")
    assert (parts["weight copies"], parts["EMA"]) == (2 * parts["gradients"], parts["gradients"])
    assert not {"weight copies", "EMA"} & set(plan.host)


def test_env_runners_hold_no_weight_copies():
    plan = plan_of(LAGGING, "resources.num_env_runners=1")
    assert parts_of(plan, "sampling")["weight copies"] == 0
    assert parts_of(plan, "update")["weight copies"] > 0


@pytest.mark.slow
def test_each_role_is_counted_with_its_own_guidance():
    guided = plan_of({**GRPO, "penalties": {"reference": {"coeff": 0.1}}}, GUIDED)
    replayed = {"training": 1.0, "reference": 1.0}
    without = plan_of({**GRPO, "penalties": {"reference": {"coeff": 0.1}}, "guidance": replayed}, GUIDED)
    assert flops_of(without, "sampling") == flops_of(guided, "sampling")
    assert 2 * flops_of(without, "update") == flops_of(guided, "update")
    sampled = plan_of({**GRPO, "penalties": {"reference": {"coeff": 0.1}}, "guidance": {"rollout": 1.0}}, GUIDED)
    assert 2 * flops_of(sampled, "sampling") == flops_of(guided, "sampling")
    assert flops_of(sampled, "update") == flops_of(guided, "update")


def test_a_loss_that_reads_values_cannot_be_planned():
    with pytest.raises(GeneratorError, match="loss of the algorithm, reads values"):
        plan_of({**LAGGING, "name": f"{__name__}:Reading"})


def test_overrides_are_validated_again_and_keep_the_algorithm():
    planned = planned_of(LAGGING).changed("rollout.group_size=6")
    assert planned.settings.rollout.group_size == 6
    assert isinstance(planned.algorithm, Lagging)
    assert planned.algorithm.settings == planned.settings.algorithm


@pytest.mark.parametrize(
    ("env", "modality"), [("FlexT2I-v0", "image"), ("FlexT2V-v0", "video"), ("FlexT2VControl-v0", "video")]
)
def test_the_modality_is_that_of_the_environment(env: str, modality: str):
    assert modality_of(env) == modality
