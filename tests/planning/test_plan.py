"""Plans against real trainings on the CPU, and trainings that are rejected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner, Result

from flexgym.algorithm.kept import Rollout
from flexgym.algorithm.policy import FlowPolicy
from flexgym.algorithm.replay import replay
from flexgym.algorithm.rollout import sample
from flexgym.cli import app
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.core.units import GIB
from flexgym.flow import Window
from flexgym.generators import FlowGenerator, load_generator
from flexgym.planning.advice import _group_size, advise, mildest, refusal, rungs
from flexgym.planning.devices import Device, choose_device
from flexgym.planning.phases import Rehearsal, bytes_of, prepare, tensors_of
from flexgym.planning.plan import Plan, Planner, make_plan
from flexgym.planning.planned import Planned
from flexgym.planning.skeleton import config_folder
from flexgym.reward.process import PROCESS_BYTES
from flexgym.types import Prompt
from tests.planning.planners import planner_for

RECIPES = {"image": "pref_grpo_shapes_t2i", "video": "pref_grpo_shapes_t2v"}
WAYS = {
    "adapter": ["generator.mode=lora"],
    "adapter, blocks computed again": ["generator.mode=lora", "generator.gradient_checkpointing=true"],
    "full": ["generator.mode=full", "algorithm.penalties.reference.coeff=0.01"],
}
SMALL = [
    "algorithm.name=grpo",
    "algorithm.noise=cps",
    "rollout.group_size=8",
    "rollout.groups_per_forward=1",
    "rollout.prompts_per_iteration=1",
    "training.num_updates=1",
    "run.iterations=1",
    "verification.num_prompts=16",
    "verification.rows_per_forward=12",
]
runner = CliRunner()


def planned_of(recipe: str, *overrides: str) -> Planned:
    return Planned.read(apply_overrides(load_recipe(recipe), overrides))


def allocated(work: Callable[[], Any]) -> int:
    """Return the most bytes that PyTorch's allocator held at once during some work, beyond those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = profiled.profiler.kineto_results.events()
    live = peak = 0
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        live += size
        peak = max(peak, live)
    return peak


def measured(planned: Planned) -> dict[str, int]:
    """Return the bytes of each phase of a training of real weights."""
    source = planned.settings.generator.source
    generator = load_generator(source, modality=planned.modality, device="cpu", **planned.sampling)
    prepare(generator, planned)
    optimizer = torch.optim.AdamW(list(generator.weights.trained().values()), foreach=True)  # as on a GPU
    generator.condition(["a red cube"])
    latents = torch.randn(1, planned.settings.rollout.group_size, *generator.latent_shape)
    replay = partial(_replay, generator, planned, latents)
    replay()
    optimizer.step()
    there = bytes_of(_all_tensors(generator, optimizer))
    return {
        "sampling": there + allocated(partial(_step, generator, planned, latents)),
        "decoding": there + allocated(lambda: generator.decode(latents[0])),
        "update": there + max(allocated(replay), allocated(optimizer.step)),
        "verification": there + allocated(partial(_verify, generator, planned)),
    }


def _verify(generator: FlowGenerator, planned: Planned) -> None:
    """Make the held-out samples of one forward; further steps take the same memory again."""
    prompts = ["a red cube"] * planned.settings.verification.num_prompts
    rows = planned.settings.verification.rows_per_forward
    sample(generator.with_settings(num_steps=2), prompts, seeds=range(len(prompts)), max_rows=rows)


@torch.no_grad()
def _step(generator: FlowGenerator, planned: Planned, latents: torch.Tensor) -> None:
    policy = FlowPolicy(generator, planned.algorithm.process)
    gaussian = policy.transition(latents, ["a red cube"], 0)
    gaussian.log_prob(gaussian.sample(torch.randn_like(gaussian.mean)))


def _replay(generator: FlowGenerator, planned: Planned, latents: torch.Tensor) -> None:
    policy, algorithm = FlowPolicy(generator, planned.algorithm.process), planned.algorithm
    zeros = torch.zeros(latents.shape[:2])
    kept = {"latents": latents[None], "target": latents[None], "old_log_prob": zeros[None]}
    rollout = Rollout((Prompt("a red cube"),), np.zeros((*zeros.shape, 0), np.uint8), Window(0, 1), kept, seeds=(0,))
    replayed = replay(policy, rollout, [0], advantages=zeros, needs=algorithm.requires)
    algorithm.objective(replayed).per_sample.mean().backward()


def _all_tensors(generator: FlowGenerator, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    modules = [part for part in generator.pipe.components.values() if isinstance(part, torch.nn.Module)]
    weights = [tensor for part in modules for tensor in (*part.parameters(), *part.buffers())]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    return [
        *weights,
        *gradients,
        *state,
        *generator.weights.kept.get("reference", {}).values(),
        *generator.text.cached(),
    ]


@pytest.mark.parametrize("way", ["adapter", *(pytest.param(way, marks=pytest.mark.slow) for way in list(WAYS)[1:])])
@pytest.mark.parametrize("modality", ["image", pytest.param("video", marks=pytest.mark.slow)])
def test_a_plan_is_within_a_tenth_of_what_is_measured(modality: str, way: str):
    planned = planned_of(RECIPES[modality], *WAYS[way], *SMALL)
    phases = {phase.name: phase.bytes for phase in planner_for().plan(planned).phases}
    assert phases == pytest.approx(measured(planned), rel=0.1)


def offloaded_bytes(generator: FlowGenerator) -> dict[str, int]:
    """Return the bytes of the offloaded modules by name."""
    parts = {name: getattr(generator.pipe, name) for name in generator.placement.offloaded}
    return {name: bytes_of([*part.parameters(), *part.buffers()]) for name, part in parts.items()}


def test_modules_that_are_offloaded_or_released_are_on_the_device_only_while_they_are_used():
    """Compare with the modules that a real generator offloads and releases."""
    planned = planned_of(RECIPES["image"], *SMALL)
    generator = load_generator(planned.settings.generator.source, modality="image", device="cpu")
    generator.placement.offload()
    sizes = offloaded_bytes(generator)
    encoders = sum(size for name, size in sizes.items() if name != "vae")
    planner = planner_for()
    plain = {phase.name: phase.parts for phase in planner.plan(planned).phases}
    assert plain["sampling"]["text encoders"] == encoders
    assert plain["sampling"]["VAE"] == sizes["vae"]

    offloaded = planner.plan(planned.changed("generator.offload=true"))
    parts = {phase.name: phase.parts for phase in offloaded.phases}
    assert [parts[name]["text encoders"] for name in parts] == [encoders, 0, 0, 0, 0]
    assert [parts[name]["VAE"] for name in parts] == [0, 0, sizes["vae"], 0, sizes["vae"]]
    assert (offloaded.host["text encoders"], offloaded.host["VAE"]) == (encoders, sizes["vae"])

    generator.text.release(["a red cube"])
    assert generator.placement.encoders() == {}
    released = planner.plan(planned.changed("generator.release_text_encoders=true"))
    parts = {phase.name: phase.parts for phase in released.phases}
    assert [parts[name]["text encoders"] for name in parts] == [encoders, 0, 0, 0, 0]
    assert parts["encoding"]["optimizer"] == parts["encoding"]["gradients"] == 0, "training has not begun"
    assert parts["update"] == {**plain["update"], "text encoders": 0}


def test_steps_that_are_not_trained_have_their_own_precision_and_solver():
    planned = planned_of(RECIPES["image"], *SMALL, "generator.mode=full", "algorithm.window.size=2")
    planner = planner_for()

    def sampling(*overrides: str) -> tuple[Plan, Any]:
        plan = planner.plan(planned.changed(*overrides))
        return plan, next(phase for phase in plan.phases if phase.name == "sampling")

    plain, before = sampling()
    _, cast = sampling("rollout.compute_dtype=bfloat16")
    assert cast.parts["activations"] - before.parts["activations"] == 2 * plain.trained
    rates, steps = planner.device.tflops, 8
    slowdown = rates[torch.float32] / rates[torch.bfloat16]
    assert cast.seconds == pytest.approx(before.seconds * (2 + (steps - 2) * slowdown) / steps)
    _, solved = sampling("rollout.solver=dpm++2m")
    latents = load_generator(None, modality="image", device="cpu").latent_shape
    assert solved.parts["activations"] - before.parts["activations"] == 2 * 4 * 8 * np.prod(latents)
    assert solved.seconds == before.seconds


def test_kept_latents_take_half_in_bfloat16():
    planned = planned_of(RECIPES["image"], *SMALL)
    planner = planner_for()
    single = planner.plan(planned).host["stored latents"]
    assert planner.plan(planned.changed("rollout.latents_dtype=bfloat16")).host["stored latents"] * 2 == single


def test_rewards_in_pure_python_count_with_their_processes():
    planned = planned_of(RECIPES["image"], *SMALL)
    host = planner_for().plan(planned).host
    assert host["reward processes"] == 2 * PROCESS_BYTES  # ShapesOracle, and ShapesVerifier as a monitor
    terms = "[{reward: ShapesVerifier}, {reward: JPEGCompressibility}]"
    rubric = planned.changed("reward.name=Rubric", f"reward.settings={{terms: {terms}}}", "reward.monitors=[]")
    assert rubric.reward_processes == 1
    assert planned.changed("reward.settings.own_process=false", "reward.monitors=[]").reward_processes == 0


@pytest.mark.slow
def test_tiles_need_less_memory_than_complete_samples():
    """Compare the decoder alone, on the smallest tiles that it allows, with the profiler of the allocator."""
    found = {}
    for tiled in (False, True):
        planned = planned_of(RECIPES["image"], *SMALL, f"generator.vae_tiling={str(tiled).lower()}")
        generator = load_generator(None, modality="image", device="cpu", **planned.sampling)
        prepare(generator, planned)
        rehearsal = Rehearsal(generator, planned, foreach=True)
        generator.pipe.vae.tile_latent_min_size = generator.latent_shape[-1] // 2
        generator.pipe.vae.tile_sample_min_size = generator.sample_shape[-2] // 2
        there = bytes_of(tensors_of(generator))
        found[tiled] = there + rehearsal.work(planned).decoding.peak
        latents = torch.randn(planned.settings.rollout.group_size, *generator.latent_shape)
        seen = there + allocated(torch.no_grad()(partial(generator.autoencoder.decode_chunk, latents)))
        assert found[tiled] == pytest.approx(seen, rel=0.1)
    assert found[True] < found[False]


@pytest.mark.slow
def test_memory_settings_are_named_where_they_are_enough():
    planned = planned_of(RECIPES["image"], *SMALL)
    planner = planner_for()
    plan = planner.plan(planned)
    overrides = ("generator.release_text_encoders=true", "generator.offload=true")
    peaks = {override: planner.plan(planned.changed(override)).peak for override in overrides}
    for override, peak in peaks.items():
        assert peak.bytes < plan.peak.bytes
        small = planner_for(Device("small", peak.bytes * 1.0001 / GIB, planner.device.tflops, reserve=0.0))
        remedies = advise(small, small.plan(planned))
        assert any(override in remedy.changes[0].overrides and remedy.plan.fits for remedy in remedies)


def test_a_change_that_cannot_be_enough_is_not_planned():
    """Make no trace for a change that leaves the weights as they are, where these alone are too large."""
    planned = planned_of(RECIPES["image"], *SMALL)
    planner = Planner(Device("tiny", 1e-3, choose_device().tflops))
    plan = planner.plan(planned)
    (rehearsal,) = planner._rehearsals.values()
    before = dict(rehearsal._traces)
    assert mildest(planner, plan, rungs(_group_size, planned)) is None
    assert rehearsal._traces == before


def test_decoding_is_traced_once_for_all_ways_of_training():
    planner = Planner(choose_device())
    plans = [planner.plan(planned_of(RECIPES["image"], *SMALL, f"generator.mode={mode}")) for mode in ("lora", "full")]
    assert [plan.planned.settings.generator.mode for plan in plans] == ["lora", "full"]
    # one for a group, one for the held-out samples of a verification
    assert [len(decoded) for decoded in planner._decoded.values()] == [2]


@pytest.mark.slow
def test_an_adapter_to_start_from_is_planned_with_its_rank_and_its_reference(tmp_path):
    trained = load_generator()
    trained.weights.add_lora(rank=4, targets=["to_q"])
    trained.save(tmp_path / "style")
    adapter = f"generator.adapter={tmp_path / 'style'}"
    start, merged, plain = (
        planner_for(choose_device()).plan(planned_of(RECIPES["image"], *SMALL, "generator.mode=lora", *changes))
        for changes in (
            [adapter],
            [adapter, "generator.adapter_as=merge", "generator.lora.rank=2"],
            ["generator.lora.rank=2"],
        )
    )
    assert start.trained == sum(value.numel() for value in trained.weights.trained().values())
    assert {phase.parts.get("reference", 0) for phase in start.phases} >= {4 * start.trained}
    assert (merged.trained, merged.phases) == (plain.trained, plain.phases)


def test_time_is_that_of_the_operations():
    planned = planned_of(RECIPES["image"], *SMALL, "rollout.prompts_per_iteration=2")
    slow = planner_for(choose_device(gib=1.0, tflops=1.0))
    once = slow.plan(planned)
    assert once.seconds == pytest.approx(sum(phase.flops for phase in once.phases) / 1e12)
    twice = slow.plan(planned.changed("rollout.prompts_per_iteration=4"))
    assert twice.seconds == pytest.approx(2 * once.seconds)
    faster = planner_for(choose_device(gib=1.0, tflops=4.0)).plan(planned)
    assert faster.seconds == pytest.approx(once.seconds / 4)


@pytest.mark.slow
def test_a_folder_of_config_files_is_enough(tmp_path: Path):
    with config_folder("shapes-t2v", "video") as complete:
        shutil.copytree(complete, tmp_path / "configs", ignore=shutil.ignore_patterns("*.safetensors"))
    assert not list((tmp_path / "configs").rglob("*.safetensors"))
    planned = planned_of(RECIPES["video"], *SMALL)
    device = choose_device("rtx4090")
    from_configs = make_plan(planned.changed(f"generator.source={tmp_path / 'configs'}"), device)
    assert from_configs.phases == make_plan(planned, device).phases


def test_a_missing_config_file_is_named(tmp_path: Path):
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]})
    )
    result = runner.invoke(app, ["plan", "--config", "pref_grpo_shapes_t2v", f"generator.source={tmp_path}"])
    assert result.exit_code == 2
    assert "config.json" in words(result).replace(" ", "")  # a long path is broken


def words(result: Result) -> str:
    """Return what a command printed on stderr, without line breaks."""
    return " ".join(result.stderr.split())


def tight(plan: Plan, share: float) -> Device:
    """Make a device that holds a share of the memory of a plan."""
    return Device("small", plan.peak.bytes * share / GIB, choose_device().tflops, reserve=0.0)


@pytest.mark.slow
def test_a_training_that_would_end_at_its_first_verification_does_not_fit():
    """More held-out samples than trained ones in a forward; fewer of them are the mildest remedy."""
    planned = planned_of(RECIPES["image"], *SMALL).changed("verification.num_prompts=400", "rollout.group_size=2")
    planned = planned.changed("verification.rows_per_forward=64")
    plan = planner_for().plan(planned)
    assert plan.peak.name == "verification"
    assert plan.seconds == sum(phase.seconds for phase in plan.phases[:-1]), "not a part of an iteration"
    planner = planner_for(tight(planner_for().plan(planned.changed("verification.rows_per_forward=16")), 1.001))
    remedies = [remedy.changes[0].overrides for remedy in advise(planner, planner.plan(planned))]
    assert ("verification.rows_per_forward=16",) in remedies
    unverified = planner_for().plan(planned.changed("verification.reward=null"))
    assert [phase.name for phase in unverified.phases] == ["sampling", "decoding", "update"]


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        (("verification.num_prompts=5",), 5),
        (("verification.num_prompts=400",), 64),
        (("verification.prompts=[a, b]",), 3),  # those that measure diversity
        (("verification.num_prompts=400", "verification.rows_per_forward=7"), 7),
        (("verification.reward=null",), 0),
    ],
)
def test_rows_of_a_verification(overrides, rows):
    assert planned_of(RECIPES["image"], *overrides).verified_rows == rows


GROUPS_OF_FOUR = ("generator.mode=full", "rollout.groups_per_forward=4")


@pytest.mark.slow
def test_advice_fits_when_it_is_planned_again():
    planned = planned_of(RECIPES["image"], *GROUPS_OF_FOUR)
    two = planned.changed("rollout.groups_per_forward=2")
    planner = planner_for(tight(planner_for().plan(two), 1.001))
    plan = planner.plan(planned)
    assert not plan.fits
    remedies = {remedy.changes[0].overrides: remedy for remedy in advise(planner, plan)}
    assert ("rollout.groups_per_forward=2",) in remedies  # the mildest that is enough
    for remedy in remedies.values():
        overrides = [override for change in remedy.changes for override in change.overrides]
        again = planned_of(RECIPES["image"], *GROUPS_OF_FOUR, *overrides)
        assert make_plan(again, planner.device).fits
        assert make_plan(again, planner.device).phases == remedy.plan.phases


@pytest.mark.slow
def test_remedies_are_found_where_two_settings_together_are_known_to_fit():
    planned = planned_of(RECIPES["image"], *GROUPS_OF_FOUR)
    both = planned.changed("rollout.groups_per_forward=1", "generator.gradient_checkpointing=true")
    planner = planner_for(tight(planner_for().plan(both), 1.001))
    remedies = advise(planner, planner.plan(planned))
    assert remedies
    assert all(remedy.plan.fits for remedy in remedies)


@pytest.mark.slow
def test_nothing_fits_into_almost_nothing():
    planned = planned_of(RECIPES["image"], *SMALL)
    planner = planner_for(Device("tiny", 1e-3, choose_device().tflops))
    error = refusal(planner, planner.plan(planned))
    assert isinstance(error, ConfigError)
    assert "No setting makes it fit" in str(error)
    assert "h100" in str(error)


def test_the_command_shows_a_plan():
    result = runner.invoke(app, ["plan", "--config", "pref_grpo_shapes_t2i", "--device", "rtx4090", *SMALL])
    assert result.exit_code == 0, result.stderr
    assert "rtx4090" in result.stdout
    assert all(
        name in result.stdout for name in ("sampling", "decoding", "update", "activations", "an iteration takes")
    )
    assert "without effect: algorithm.clip_range." in result.stdout


@pytest.mark.slow
def test_the_command_rejects_what_cannot_fit_and_names_settings_that_would():
    result = runner.invoke(app, ["plan", "--gib", "0.05", "--tflops", "1", "rollout.groups_per_forward=4"])
    assert result.exit_code == 2
    assert "expected a training that fits" in words(result)
    assert "generator.gradient_checkpointing=true" in words(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "h10"], "h100"),
        (["--gib", "80"], "--tflops"),
        (["--gib", "-1", "--tflops", "1"], "above 0"),
        (["generator.sampling.hieght=64"], "height"),
        (["generator.dtype=bf16"], "bfloat16"),
        (["--config", "rm_sft_shapes"], "dry-run"),
        (["environment.env=FlexT2J-v0"], "FlexT2I-v0"),
        (["environment.env=CartPole-v1"], "modality"),
    ],
)
def test_the_command_teaches(arguments: list[str], message: str):
    result = runner.invoke(app, ["plan", *arguments])
    assert result.exit_code == 2
    assert message in words(result)


def test_an_unknown_device_is_also_a_key_error():
    with pytest.raises(UnknownNameError, match="b200"):
        choose_device("b20")
