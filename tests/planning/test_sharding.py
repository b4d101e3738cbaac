"""Plans of a transformer that is cut over the learners, with sums by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.planning.advice import advise, does_not_fit, fewest_learners
from flexgym.planning.devices import GIB, Device, choose_device
from flexgym.planning.phases import train
from flexgym.planning.plan import Plan, Planner, Sizes
from flexgym.planning.settings import PlanSettings, read_settings
from flexgym.planning.skeleton import build_skeleton, config_folder

SMALL = [
    "rollout.noise=cps",
    "rollout.group_size=4",
    "rollout.groups_per_forward=1",
    "rollout.prompts_per_iteration=4",
    "training.num_updates=1",
]
TWO = ["learners.num_learners=2", "training.ema_decay=0.9", "training.kl_coeff=0.01"]
FSDP = "generator.sharding=fsdp"


def settings_of(*overrides: str) -> PlanSettings:
    return read_settings(apply_overrides(load_recipe("pref_grpo_shapes_t2i"), [*SMALL, *overrides]))


@cache
def planner() -> Planner:
    """One for all tests, which then trace once what they share."""
    return Planner(choose_device("h100"))


def parts_of(plan: Plan, name: str) -> dict[str, int]:
    return dict(next(phase for phase in plan.phases if phase.name == name).parts)


def on(device: Device) -> Planner:
    """That of a smaller device, with the traces that are there already."""
    made = Planner(device)
    made._rehearsals, made._decoded = planner()._rehearsals, planner()._decoded
    return made


def half(size: int) -> int:
    return (size + 1) // 2


def sizes_of(settings: PlanSettings) -> tuple[Sizes, int, int]:
    """Sizes of the skeleton, with its largest block and what stands outside all blocks, counted by name."""
    with config_folder(settings.source, settings.modality) as folder:
        generator = build_skeleton(folder, settings.dtype, settings.sampling)
    model = generator.pipe.transformer
    block, outside = {}, 0
    for name, weight in model.named_parameters():
        bytes_ = weight.numel() * weight.element_size()
        if name.startswith("transformer_blocks."):
            number = name.split(".")[1]
            block[number] = block.get(number, 0) + bytes_
        else:
            outside += bytes_
    train(generator, settings)
    return Sizes.of(generator), max(block.values()), outside


def test_each_of_two_learners_holds_half_and_the_blocks_that_it_gathers():
    whole = settings_of("generator.mode=full", *TWO)
    cut = settings_of("generator.mode=full", *TWO, FSDP)
    assert (whole.shards, cut.shards) == (False, True)
    before, after = planner().plan(whole), planner().plan(cut)
    sizes, block, outside = sizes_of(cut)
    assert (sizes.gathered, sizes.gathered_gradients) == (outside + 2 * block, outside + 2 * block)
    assert sizes.weights - sizes.buffers == sizes.reference == sizes.gradients

    parts, plain = parts_of(after, "update"), parts_of(before, "update")
    assert plain["gradients"] == 2 * sizes.gradients, "whole ones go through buckets"
    assert sizes.buffers > 0
    assert parts["weights"] == sizes.buffers + half(sizes.reference), "buffers stay whole"
    assert parts["reference"] == parts["gradients"] == half(sizes.gradients)
    assert parts["optimizer"] == half(plain["optimizer"])
    assert parts["EMA"] == half(sizes.gradients)
    assert parts["gathered blocks"] == 2 * (outside + 2 * block)
    replay = planner()._rehearse(cut).work(cut).replay.peak
    assert parts["activations"] == replay, "a step of the optimizer needs room for all, or for half of them"
    assert plain["activations"] == max(replay, sizes.gradients)
    assert (plain["EMA"], before.host["EMA"]) == (0, sizes.gradients)
    assert "EMA" not in after.host
    assert after.host["unsharded transformer, at the start"] == sizes.weights + sizes.reference

    assert parts_of(after, "sampling")["gathered blocks"] == outside + 2 * block
    assert parts_of(after, "decoding")["gathered blocks"] == 0
    assert after.seconds == before.seconds


def test_an_adapter_is_cut_with_the_frozen_weights():
    cut = settings_of("generator.mode=lora", *TWO, FSDP)
    sizes, block, outside = sizes_of(cut)
    parts = parts_of(planner().plan(cut), "update")
    assert parts["weights"] == sizes.buffers + half(sizes.weights - sizes.buffers)
    assert parts["adapter"] == half(sizes.adapter)
    assert 0 < sizes.gathered_gradients <= 2 * sizes.adapter
    assert sizes.gathered == outside + 2 * block + sizes.gathered_gradients, "an adapter is in float32 as the rest is"


def test_env_runners_hold_the_whole():
    cut = settings_of("generator.mode=full", *TWO, FSDP)
    plan = planner().plan(replace(cut, runners=1))
    sizes, *_ = sizes_of(cut)
    assert parts_of(plan, "sampling")["weights"] == sizes.weights
    assert parts_of(plan, "sampling")["gathered blocks"] == 0
    assert parts_of(plan, "update")["weights"] == sizes.buffers + half(sizes.reference)


def test_advice_offers_to_cut_the_transformer_where_that_is_enough():
    whole = settings_of("generator.mode=full", *TWO)
    needed = planner().plan(replace(whole, shards=True)).peak.bytes
    small = on(Device("small", needed * 1.0001 / GIB, choose_device().tflops, reserve=0.0))
    plan = small.plan(whole)
    assert not plan.fits
    remedy = next(remedy for remedy in advise(small, plan) if remedy.changes[0].override == FSDP)
    assert remedy.plan.fits
    assert remedy.plan.phases == small.plan(settings_of("generator.mode=full", *TWO, FSDP)).phases


@pytest.mark.parametrize(
    "change", [{"learners": 1}, {"runners": 1}, {"shards": True}, {"dtype": torch.float16, "mode": "lora"}]
)
def test_advice_offers_it_only_where_a_training_would_take_it(change: dict[str, object]):
    from flexgym.planning.advice import _sharding

    settings = settings_of("generator.mode=full", *TWO)
    assert _sharding(settings)
    assert not _sharding(replace(settings, **change))  # type: ignore[arg-type]


def test_the_error_names_how_many_learners_would_suffice():
    single = settings_of("generator.mode=full")
    needed = planner().plan(replace(single, shards=True, learners=4)).peak.bytes
    small = on(Device("small", needed * 1.0001 / GIB, choose_device().tflops, reserve=0.0))
    plan = small.plan(single)
    found = fewest_learners(small, plan)
    assert found is not None
    assert found.settings.learners == 4, "two hold more than there is room for"
    assert fewest_learners(small, small.plan(replace(single, groups=2))) is None, "four learners need four groups"
    assert "generator.sharding=fsdp learners.num_learners=4" in str(does_not_fit(small, plan))
