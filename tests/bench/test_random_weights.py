"""Generators with random weights: published architectures made small, measured without a download."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from flexgym.bench.random_weights import write_configs_alone
from flexgym.bench.run import Options, run_bench
from flexgym.bench.subject import agent_settings, bench_recipe, build
from flexgym.generators.folder import read_json
from flexgym.planning.devices import choose_device
from flexgym.planning.plan import make_plan
from flexgym.planning.planned import Planned

AUTOENCODER = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 2, "layers_per_block": 1}
HEADS = {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32}
WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 32,
    "num_layers": 1,
    "text_dim": 32,
    "freq_dim": 16,
}
SMALL = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {"transformer": WAN, "vae": {"base_dim": 4, "num_res_blocks": 1}},
    "black-forest-labs/FLUX.1-dev": {
        "transformer": {
            **HEADS,
            "num_layers": 1,
            "num_single_layers": 1,
            "pooled_projection_dim": 16,
            "axes_dims_rope": [4, 4, 8],
        },
        "vae": AUTOENCODER,
    },
    "stabilityai/stable-diffusion-3.5-medium": {
        "transformer": {
            **HEADS,
            "num_layers": 2,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 16,
            "dual_attention_layers": [0],
        },
        "vae": AUTOENCODER,
    },
    "Qwen/Qwen-Image": {
        "transformer": {**HEADS, "num_layers": 1, "axes_dims_rope": [8, 4, 4]},
        "vae": {"base_dim": 4, "num_res_blocks": 1},
    },
}
"""Values in the configs of published generators that make them small."""
SETTINGS = (
    "generator.dtype=bfloat16",
    "generator.mode=lora",
    "generator.gradient_checkpointing=true",
    "generator.channels_last=false",
    "rollout.group_size=3",
    "rollout.groups_per_forward=1",
    "algorithm.name=grpo",
    "algorithm.noise=flow",
    "algorithm.window={size: 2, first: [1, 1]}",
    "algorithm.clip_range=1e-4",
    "algorithm.penalties={}",
)


def overrides_of(source, folder):
    """Write the small configs of a generator, and return the overrides that train it."""
    write_configs_alone(source, "image", folder)
    for component, values in SMALL[source].items():
        file = folder / component / "config.json"
        file.write_text(json.dumps({**read_json(file), **values}))
    video = ", num_frames: 5" if "Wan" in source else ""
    sampling = f"{{num_steps: 4, height: 64, width: 64, max_sequence_length: 16, guidance_scale: 5.0{video}}}"
    env = "FlexT2V-v0" if video else "FlexT2I-v0"
    return *SETTINGS, f"environment.env={env}", f"generator.source={folder}", f"generator.sampling={sampling}"


def attention(query, key, value, *args, **kwargs):
    return sdpa_flop_count(query, key, value)


@pytest.mark.slow
@pytest.mark.parametrize("source", SMALL)
def test_the_operations_counted_without_data_are_those_that_run(source, tmp_path):
    overrides = overrides_of(source, tmp_path / "configs")
    recipe = bench_recipe("pref_grpo_shapes_t2i", overrides, iterations=2, without_files=True)
    settings = agent_settings(recipe)
    planned = {phase.name: phase.flops for phase in make_plan(Planned.of(settings), choose_device()).phases}
    algorithm = build(settings, random_weights=True)
    learner = algorithm.on_first_learner(lambda learner: learner)
    window = algorithm.windows.at(0, settings.run.seed)
    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        learner.roll_out(seeds=settings.group_seeds(0), window=window)
    assert counter.get_total_flops() == planned["sampling"] + planned["decoding"]
    before = learner.generator.weights.state()
    algorithm.train()
    after = learner.generator.weights.state()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    algorithm.stop()


@pytest.mark.slow
def test_a_published_generator_is_measured_without_its_weights(tmp_path):
    overrides = overrides_of("stabilityai/stable-diffusion-3.5-medium", tmp_path / "configs")
    options = Options("pref_grpo_shapes_t2i", overrides=overrides, rounds=1, random_weights=True)
    result = run_bench(options, lambda line: None)
    assert result.settings["random weights"] is True
    assert result.settings["generator.source"] == "of one's own"
    assert result.settings["reward.name"] == "JpegCompressibility"
    assert result.device.dtype == "bfloat16"
    assert str(tmp_path) not in result.model_dump_json()
