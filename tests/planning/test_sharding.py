"""Plans of a transformer that is sharded over the learners, with sums by hand."""

from __future__ import annotations

import pytest

from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.units import GIB
from flexgym.planning.advice import _sharding, advise, fewest_learners, refusal, rungs
from flexgym.planning.devices import Device, choose_device
from flexgym.planning.phases import train
from flexgym.planning.plan import Plan, Sizes
from flexgym.planning.planned import Planned
from flexgym.planning.skeleton import build_skeleton, config_folder
from tests.planning.planners import planner_for

SMALL = [
    "algorithm.name=grpo",
    "algorithm.noise=cps",
    "rollout.group_size=4",
    "rollout.groups_per_forward=1",
    "rollout.prompts_per_iteration=4",
    "training.num_updates=1",
]
TWO = ["resources.num_learners=2", "training.ema_decay=0.9", "algorithm.penalties.reference.coeff=0.01"]
FSDP = "generator.sharding=fsdp"


def planned_of(*overrides: str) -> Planned:
    return Planned.read(apply_overrides(load_recipe("pref_grpo_shapes_t2i"), [*SMALL, *overrides]))


def parts_of(plan: Plan, name: str) -> dict[str, int]:
    return dict(next(phase for phase in plan.phases if phase.name == name).parts)


def half(size: int) -> int:
    return (size + 1) // 2


def sizes_of(planned: Planned) -> tuple[Sizes, int, int]:
    """Return the sizes of the skeleton, and the bytes of its largest block and outside all blocks, counted by name."""
    with config_folder(planned.settings.generator.source, planned.modality) as folder:
        generator = build_skeleton(folder, planned.dtype, planned.sampling)
    model = generator.pipe.transformer
    block, outside = {}, 0
    for name, weight in model.named_parameters():
        bytes_ = weight.numel() * weight.element_size()
        if name.startswith("transformer_blocks."):
            number = name.split(".")[1]
            block[number] = block.get(number, 0) + bytes_
        else:
            outside += bytes_
    train(generator, planned)
    return Sizes.of(generator), max(block.values()), outside


def test_each_of_two_learners_holds_half_and_the_blocks_that_it_gathers():
    unsharded = planned_of("generator.mode=full", *TWO)
    sharded = planned_of("generator.mode=full", *TWO, FSDP)
    assert (unsharded.settings.shards, sharded.settings.shards) == (False, True)
    before, after = planner_for().plan(unsharded), planner_for().plan(sharded)
    sizes, block, outside = sizes_of(sharded)
    assert (sizes.gathered, sizes.gathered_gradients) == (outside + 2 * block, outside + 2 * block)
    assert sizes.weights - sizes.buffers == sizes.reference == sizes.gradients

    parts, plain = parts_of(after, "update"), parts_of(before, "update")
    assert plain["gradients"] == 2 * sizes.gradients, "unsharded gradients are exchanged through buckets"
    assert sizes.buffers > 0
    assert parts["weights"] == sizes.buffers + half(sizes.reference), "buffers are never sharded"
    assert parts["reference"] == parts["gradients"] == half(sizes.gradients)
    assert parts["optimizer"] == half(plain["optimizer"])
    assert parts["EMA"] == half(sizes.gradients)
    assert parts["gathered blocks"] == 2 * (outside + 2 * block)
    replay = planner_for()._rehearse(sharded).work(sharded).replay.peak
    assert parts["activations"] == replay, "an optimizer step needs one number per parameter, here of half of them"
    assert plain["activations"] == max(replay, sizes.gradients)
    assert (plain["EMA"], before.host["EMA"]) == (0, sizes.gradients)
    assert "EMA" not in after.host
    assert after.host["unsharded transformer, at the start"] == sizes.weights + sizes.reference

    assert parts_of(after, "sampling")["gathered blocks"] == outside + 2 * block
    assert parts_of(after, "decoding")["gathered blocks"] == 0
    assert after.seconds == before.seconds


def test_an_adapter_is_sharded_with_the_frozen_weights():
    sharded = planned_of("generator.mode=lora", *TWO, FSDP)
    sizes, block, outside = sizes_of(sharded)
    parts = parts_of(planner_for().plan(sharded), "update")
    assert parts["weights"] == sizes.buffers + half(sizes.weights - sizes.buffers)
    assert parts["adapter"] == half(sizes.adapter)
    assert 0 < sizes.gathered_gradients <= 2 * sizes.adapter
    assert sizes.gathered == outside + 2 * block + sizes.gathered_gradients, "all weights here are float32"


def test_env_runners_hold_unsharded_weights_and_the_reference():
    planned = planned_of("generator.mode=full", *TWO, "resources.num_env_runners=1")
    plan = planner_for().plan(planned)
    sizes, *_ = sizes_of(planned)
    parts = parts_of(plan, "sampling")
    assert (parts["weights"], parts["reference"]) == (sizes.weights, sizes.reference)
    assert parts["gathered blocks"] == parts["gradients"] == parts["optimizer"] == 0


def test_advice_offers_sharding_where_it_is_enough():
    planned = planned_of("generator.mode=full", *TWO)
    needed = planner_for().plan(planned.changed(FSDP)).peak.bytes
    small = planner_for(Device("small", needed * 1.0001 / GIB, choose_device().tflops, reserve=0.0))
    plan = small.plan(planned)
    assert not plan.fits
    remedy = next(remedy for remedy in advise(small, plan) if remedy.changes[0].overrides == (FSDP,))
    assert remedy.plan.fits
    assert remedy.plan.phases == small.plan(planned_of("generator.mode=full", *TWO, FSDP)).phases


@pytest.mark.parametrize(
    "overrides",
    [
        ["resources.num_learners=1"],
        ["resources.num_env_runners=1"],
        [FSDP],
        ["generator.dtype=float16", "generator.mode=lora"],
    ],
)
def test_advice_offers_sharding_only_where_a_training_accepts_it(overrides: list[str]):
    planned = planned_of("generator.mode=full", *TWO)
    assert rungs(_sharding, planned)
    assert not rungs(_sharding, planned.changed(*overrides))


@pytest.mark.slow
def test_the_error_names_how_many_learners_are_enough():
    single = planned_of("generator.mode=full")
    needed = planner_for().plan(single.changed(FSDP, "resources.num_learners=4")).peak.bytes
    small = planner_for(Device("small", needed * 1.0001 / GIB, choose_device().tflops, reserve=0.0))
    plan = small.plan(single)
    found = fewest_learners(small, plan)
    assert found is not None
    assert found.planned.learners == 4, "with two learners, each needs more than the device has"
    two_groups = small.plan(single.changed("rollout.prompts_per_iteration=2"))
    assert fewest_learners(small, two_groups) is None, "four learners need four groups"
    assert "generator.sharding=fsdp resources.num_learners=4" in str(refusal(small, plan))
