"""Plans against what really happens on the CPU, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner, Result

from flexgym.cli import app
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.generators import FlowGenerator, load_generator
from flexgym.planning.advice import _group_size, _mildest, advise, does_not_fit
from flexgym.planning.devices import GIB, Device, choose_device
from flexgym.planning.phases import Rehearsal, bytes_of, prepare, tensors_of
from flexgym.planning.plan import Plan, Planner, make_plan
from flexgym.planning.settings import PlanSettings, read_settings
from flexgym.planning.skeleton import config_folder
from flexgym.policy import FlowPolicy
from flexgym.replay import replay_loss, replay_step

RECIPES = {"image": "pref_grpo_shapes_t2i", "video": "pref_grpo_shapes_t2v"}
WAYS = {
    "adapter": ["generator.mode=lora"],
    "adapter, blocks computed again": ["generator.mode=lora", "generator.gradient_checkpointing=true"],
    "full": ["generator.mode=full", "training.kl_coeff=0.01"],
}
SMALL = [
    "rollout.noise=cps",
    "rollout.group_size=8",
    "rollout.groups_per_forward=1",
    "rollout.prompts_per_iteration=1",
    "training.num_updates=1",
    "run.iterations=1",
]
runner = CliRunner()


def settings_of(recipe: str, *overrides: str) -> PlanSettings:
    return read_settings(apply_overrides(load_recipe(recipe), overrides))


def allocated(work: Callable[[], Any]) -> int:
    """Most bytes that PyTorch's allocator held at once during some work, beyond those before, by its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = profiled.profiler.kineto_results.events()
    live = peak = 0
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        live += size
        peak = max(peak, live)
    return peak


def measured(settings: PlanSettings) -> dict[str, int]:
    """Bytes of each phase of a training of real weights."""
    generator = load_generator(settings.source, modality=settings.modality, device="cpu", **settings.sampling)
    prepare(generator, settings)
    policy = FlowPolicy(generator, settings.noise, groups_per_forward=settings.groups_per_forward)
    optimizer = torch.optim.AdamW(list(generator.weights.trained().values()), foreach=True)  # as on a GPU
    generator.condition(["a red cube"])
    latents = torch.randn(1, settings.group_size, *generator.latent_shape)
    replay = partial(_replay, policy, settings, latents)
    replay()
    optimizer.step()
    there = bytes_of(_all_tensors(generator, optimizer))
    return {
        "sampling": there + allocated(partial(_step, policy, latents)),
        "decoding": there + allocated(lambda: generator.decode(latents[0])),
        "update": there + max(allocated(replay), allocated(optimizer.step)),
    }


def _step(policy: FlowPolicy, latents: torch.Tensor) -> None:
    with torch.no_grad():
        gaussian = policy.transition(latents, ["a red cube"], 0)
        gaussian.log_prob(gaussian.sample(torch.randn_like(gaussian.mean)))


def _replay(policy: FlowPolicy, settings: PlanSettings, latents: torch.Tensor) -> None:
    reference = settings.kl_coeff > 0
    batch = {"latents": latents, "next_latents": latents, "prompts": ["a red cube"], "step": 0, "reference": reference}
    zeros = torch.zeros(latents.shape[:2])
    out = replay_step(policy, batch)
    replay_loss(out, zeros, zeros, clip_range=1e-3, kl_coeff=settings.kl_coeff).loss.backward()


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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("modality", RECIPES)
def test_a_plan_is_within_a_tenth_of_what_is_measured(modality: str, way: str):
    settings = settings_of(RECIPES[modality], *WAYS[way], *SMALL)
    planned = {phase.name: phase.bytes for phase in make_plan(settings, choose_device()).phases}
    assert planned == pytest.approx(measured(settings), rel=0.1)


def rested(generator: FlowGenerator) -> dict[str, int]:
    """Bytes of what rests in the memory of the host once `offload` was called."""
    parts = {name: getattr(generator.pipe, name) for name in generator.placement.offloaded}
    return {name: bytes_of([*part.parameters(), *part.buffers()]) for name, part in parts.items()}


def test_parts_that_rest_or_leave_are_there_only_while_they_act():
    """Against a real generator: what is released, and what rests beside the device while nothing acts."""
    settings = settings_of(RECIPES["image"], *SMALL)
    generator = load_generator(settings.source, modality="image", device="cpu")
    generator.placement.offload()
    resting = rested(generator)
    encoders = sum(size for name, size in resting.items() if name != "vae")
    planner = Planner(choose_device())
    plain = {phase.name: phase.parts for phase in planner.plan(settings).phases}
    assert plain["sampling"]["text encoders"] == encoders
    assert plain["sampling"]["VAE"] == resting["vae"]

    offloaded = planner.plan(replace(settings, offload=True))
    parts = {phase.name: phase.parts for phase in offloaded.phases}
    assert [parts[name]["text encoders"] for name in parts] == [encoders, 0, 0, 0]
    assert [parts[name]["VAE"] for name in parts] == [0, 0, resting["vae"], 0]
    assert (offloaded.host["text encoders"], offloaded.host["VAE"]) == (encoders, resting["vae"])

    generator.text.release(["a red cube"])
    assert generator.placement.encoders() == {}
    released = planner.plan(replace(settings, release_text_encoders=True))
    parts = {phase.name: phase.parts for phase in released.phases}
    assert [parts[name]["text encoders"] for name in parts] == [encoders, 0, 0, 0]
    assert parts["encoding"]["optimizer"] == parts["encoding"]["gradients"] == 0, "nothing trains yet"
    assert parts["update"] == {**plain["update"], "text encoders": 0}


def test_kept_latents_take_half_in_bfloat16():
    settings = settings_of(RECIPES["image"], *SMALL)
    planner = Planner(choose_device())
    single = planner.plan(settings).host["stored latents"]
    assert planner.plan(replace(settings, latents_dtype=torch.bfloat16)).host["stored latents"] * 2 == single


def test_tiles_need_less_than_whole_samples():
    """The decoder alone, on tiles as small as it allows, against the allocator's own profiler."""
    settings = replace(settings_of(RECIPES["image"], *SMALL), vae_tiling=True)
    found = {}
    for tiled in (False, True):
        generator = load_generator(settings.source, modality="image", device="cpu", **settings.sampling)
        rehearsed = Rehearsal(prepared(generator, replace(settings, vae_tiling=tiled)), foreach=True)
        generator.pipe.vae.tile_latent_min_size = generator.latent_shape[-1] // 2
        generator.pipe.vae.tile_sample_min_size = generator.sample_shape[-2] // 2
        there = bytes_of(tensors_of(generator))
        planned = there + rehearsed.work(replace(settings, vae_tiling=tiled)).decoding.peak
        latents = torch.randn(settings.group_size, *generator.latent_shape)
        seen = there + allocated(torch.no_grad()(partial(generator.autoencoder.decode_chunk, latents)))
        assert planned == pytest.approx(seen, rel=0.1)
        found[tiled] = planned
    assert found[True] < found[False]


def prepared(generator: FlowGenerator, settings: PlanSettings) -> FlowGenerator:
    prepare(generator, settings)
    return generator


@pytest.mark.slow
def test_memory_settings_are_named_where_they_are_enough():
    settings = settings_of(RECIPES["image"], *SMALL)
    planner = Planner(choose_device())
    plan = planner.plan(settings)
    peaks = {
        name: planner.plan(replace(settings, **{name: True})).peak for name in ("release_text_encoders", "offload")
    }
    for name, peak in peaks.items():
        assert peak.bytes < plan.peak.bytes
        small = Planner(Device("small", peak.bytes * 1.0001 / GIB, planner.device.tflops, reserve=0.0))
        remedies = advise(small, small.plan(settings))
        assert any(name in remedy.changes[0].values and remedy.plan.fits for remedy in remedies)


def test_a_change_that_cannot_be_enough_is_not_planned():
    """Weights alone are too many: no trace is made for what leaves them as they are."""
    settings = settings_of(RECIPES["image"], *SMALL)
    planner = Planner(Device("tiny", 1e-3, choose_device().tflops))
    plan = planner.plan(settings)
    (rehearsal,) = planner._rehearsals.values()
    before = dict(rehearsal._traces)
    assert _mildest(planner, plan, _group_size(settings)) is None
    assert rehearsal._traces == before


def test_what_decoding_needs_is_counted_once_for_all_ways_of_training():
    planner = Planner(choose_device())
    plans = [planner.plan(settings_of(RECIPES["image"], *SMALL, f"generator.mode={mode}")) for mode in ("lora", "full")]
    assert [plan.settings.mode for plan in plans] == ["lora", "full"]
    assert [len(decoded) for decoded in planner._decoded.values()] == [1]


def test_time_is_that_of_the_operations():
    settings = settings_of(RECIPES["image"], *SMALL, "rollout.prompts_per_iteration=2")
    once = make_plan(settings, choose_device(gib=1.0, tflops=1.0))
    assert once.seconds == pytest.approx(sum(phase.flops for phase in once.phases) / 1e12)
    twice = make_plan(replace(settings, groups=4), choose_device(gib=1.0, tflops=1.0))
    assert twice.seconds == pytest.approx(2 * once.seconds)
    faster = make_plan(settings, choose_device(gib=1.0, tflops=4.0))
    assert faster.seconds == pytest.approx(once.seconds / 4)


def test_a_folder_of_config_files_is_enough(tmp_path: Path):
    with config_folder("shapes-t2v", "video") as whole:
        shutil.copytree(whole, tmp_path / "configs", ignore=shutil.ignore_patterns("*.safetensors"))
    assert not list((tmp_path / "configs").rglob("*.safetensors"))
    settings = settings_of(RECIPES["video"], *SMALL)
    device = choose_device("rtx4090")
    from_configs = make_plan(replace(settings, source=str(tmp_path / "configs")), device)
    assert from_configs.phases == make_plan(settings, device).phases


def test_a_missing_config_file_is_named(tmp_path: Path):
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]})
    )
    result = runner.invoke(app, ["plan", "--config", "pref_grpo_shapes_t2v", f"generator.source={tmp_path}"])
    assert result.exit_code == 2
    assert "config.json" in words(result).replace(" ", "")  # a long path is broken


def words(result: Result) -> str:
    """What a command said on stderr, without line breaks."""
    return " ".join(result.stderr.split())


def tight(plan: Plan, share: float) -> Device:
    """A device that holds a share of what a plan needs."""
    return Device("small", plan.peak.bytes * share / GIB, choose_device().tflops, reserve=0.0)


@pytest.mark.slow
def test_advice_fits_when_it_is_planned_again():
    settings = settings_of(RECIPES["image"], "generator.mode=full", "rollout.groups_per_forward=4")
    planner = Planner(tight(make_plan(replace(settings, groups_per_forward=2), choose_device()), 1.001))
    plan = planner.plan(settings)
    assert not plan.fits
    remedies = {remedy.changes[0].override: remedy for remedy in advise(planner, plan)}
    assert "rollout.groups_per_forward=2" in remedies  # the mildest that is enough
    for remedy in remedies.values():
        overrides = [change.override for change in remedy.changes]
        again = settings_of(RECIPES["image"], "generator.mode=full", "rollout.groups_per_forward=4", *overrides)
        assert make_plan(again, planner.device).fits
        assert make_plan(again, planner.device).phases == remedy.plan.phases


@pytest.mark.slow
def test_remedies_are_found_where_two_settings_together_are_known_to_fit():
    settings = settings_of(RECIPES["image"], "generator.mode=full", "rollout.groups_per_forward=4")
    both = replace(settings, groups_per_forward=1, gradient_checkpointing=True)
    planner = Planner(tight(make_plan(both, choose_device()), 1.001))
    remedies = advise(planner, planner.plan(settings))
    assert remedies
    assert all(remedy.plan.fits for remedy in remedies)


@pytest.mark.slow
def test_nothing_fits_into_almost_nothing():
    settings = settings_of(RECIPES["image"], *SMALL)
    planner = Planner(Device("tiny", 1e-3, choose_device().tflops))
    error = does_not_fit(planner, planner.plan(settings))
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


def test_the_command_refuses_what_cannot_fit_and_says_what_would():
    result = runner.invoke(app, ["plan", "--gib", "0.05", "--tflops", "1", "rollout.groups_per_forward=4"])
    assert result.exit_code == 2
    assert "expected a training run that fits" in words(result)
    assert "generator.gradient_checkpointing=true" in words(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "h10"], "h100"),
        (["--gib", "80"], "--tflops"),
        (["--gib", "-1", "--tflops", "1"], "above 0"),
        (["generator.settings.hieght=64"], "height"),
        (["generator.settings.dtype=bf16"], "bfloat16"),
        (["--config", "rm_sft_shapes"], "dry-run"),
    ],
)
def test_the_command_teaches(arguments: list[str], message: str):
    result = runner.invoke(app, ["plan", *arguments])
    assert result.exit_code == 2
    assert message in words(result)


def test_an_unknown_device_is_also_a_key_error():
    with pytest.raises(UnknownNameError, match="b200"):
        choose_device("b20")
