"""The script behind the shipped checkpoints, on pipelines of one or two thin blocks."""

from __future__ import annotations

import itertools
import json
from copy import deepcopy

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from flexgym.generators import load_generator
from flexgym.shapes.captions import image_specs, parse_caption, phrasings, video_specs
from flexgym.shapes.scenes import FRAMES, SIZE
from flexgym.shapes.splits import compositions, draw_prompts, specs, split_of
from research import autoencoder, modules, pretrain
from research.autoencoder import AutoencoderTraining, draw_specs, train_stages
from research.muon import muon_and_adamw
from research.pretrain import FlowData, FlowStage, FlowTraining, Stage

pytestmark = pytest.mark.slow

KINDS = {"t2i": "image", "t2v": "video"}


@pytest.fixture(params=KINDS)
def name(request):
    return request.param


@pytest.fixture
def pipe(name):
    return pretrain.BUILDERS[name](width=32, layers=2)


def latent_shape(pipe):
    """Images and videos shrink four times, videos also in time after the first frame."""
    config = pipe.vae.config
    return (config.latent_channels, 8, 8) if "latent_channels" in config else (config.z_dim, 3, 8, 8)


def data(name, pipe, *, count=8):
    drawn, _ = pretrain.draw(np.random.default_rng(0), KINDS[name], count)
    return FlowData(torch.randn(count, *latent_shape(pipe)), drawn, wrong_share=0.0)


def in_training(spec):
    return split_of(compositions(spec), spec.modality) == "training"


def changed(before, after):
    """Names of the parameters that differ."""
    other = dict(after.named_parameters())
    return {key for key, value in before.named_parameters() if not torch.equal(value, other[key])}


def test_every_word_has_a_token_and_every_caption_fits():
    tokenizer = modules.word_tokenizer()
    for every in ([*image_specs()][::17], [*video_specs()][::7]):
        captions = [caption for spec in every for caption in phrasings(spec)]
        encoded = tokenizer(captions).input_ids
        assert max(map(len, encoded)) <= modules.TOKENS
        assert not any(tokenizer.unk_token_id in ids for ids in encoded)
        assert len(set(map(tuple, encoded))) == len(captions)
        assert all((ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id) for ids in encoded)
    assert tokenizer("a dog").input_ids[2] == tokenizer.unk_token_id


def test_draw_makes_pixels_of_training_compositions(name):
    drawn, pixels = pretrain.draw(np.random.default_rng(0), KINDS[name], 5)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (5, 3, *([FRAMES] if name == "t2v" else []), SIZE, SIZE)
    assert all(in_training(spec) for spec in drawn)
    assert pretrain.to_unit(pixels).max() <= 1.0
    assert pretrain.to_unit(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_latents_are_normalized_and_the_autoencoder_knows_how(name, pipe):
    latents = torch.randn(6, *latent_shape(pipe)) * 3.0 + 2.0
    pretrain.set_latent_scale(pipe.vae, latents)
    scaled = pretrain.normalized(pipe.vae, latents)
    assert (scaled.mean().item(), scaled.std().item()) == pytest.approx((0.0, 1.0), abs=0.01)
    config = pipe.vae.config
    if name == "t2i":
        torch.testing.assert_close(scaled / config.scaling_factor + config.shift_factor, latents)
    else:
        mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
        torch.testing.assert_close(scaled * std + mean, latents)


def test_autoencoder_training_changes_every_weight(name, pipe):
    before = deepcopy(pipe.vae)
    kind = KINDS[name]
    AutoencoderTraining(pipe.vae, kind, Stage(1, 1, 1e-2), seed=0).take_step()
    assert changed(before, pipe.vae) >= {key for key, value in before.named_parameters() if value.ndim > 1}
    latents = pretrain.encode_all(pipe.vae, pretrain.draw(np.random.default_rng(0), kind, 2)[1])
    assert latents.shape == (2, *latent_shape(pipe))
    assert not latents.requires_grad


def test_a_stage_of_the_decoder_leaves_the_latents(name, pipe):
    before = deepcopy(pipe.vae)
    stage = Stage(1, 1, 1e-2, decoder_only=True)
    AutoencoderTraining(pipe.vae, KINDS[name], stage, seed=0).take_step()
    moved = changed(before, pipe.vae)
    assert moved >= {key for key, value in before.decoder.named_parameters(prefix="decoder") if value.ndim > 1}
    assert all(key.startswith(("decoder.", "post_quant_conv.")) for key in moved)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_autoencoder_continues_bit_for_bit(name, pipe, stop, tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "SAVE_INTERVAL", 1)
    stages = (Stage(2, 1, 1e-2), Stage(2, 1, 1e-2, decoder_only=True))
    other, taken = deepcopy(pipe.vae), itertools.count(1)
    train_stages(pipe.vae, KINDS[name], stages, seed=5, folder=tmp_path / "whole")

    def replace_state(folder, state, replace=autoencoder.replace_state):
        replace(folder, state)
        if next(taken) == stop:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "replace_state", replace_state)
        with pytest.raises(KeyboardInterrupt):
            train_stages(deepcopy(other), KINDS[name], stages, seed=5, folder=tmp_path / "state")
    train_stages(other, KINDS[name], stages, seed=5, folder=tmp_path / "state")
    assert not changed(pipe.vae, other)


def test_latents_that_were_kept_are_those_that_were_encoded(name, pipe, tmp_path, monkeypatch):
    folder = tmp_path / "latents"
    drawn, latents = pretrain.scenes(pipe.vae, KINDS[name], 3, seed=7, folder=folder)
    assert latents.shape == (3, *latent_shape(pipe))
    monkeypatch.setattr(pretrain, "encode_all", pytest.fail)
    again, kept = pretrain.scenes(pipe.vae, KINDS[name], 3, seed=7, folder=folder)
    assert again == drawn
    assert torch.equal(kept, latents)


def test_gradient_reaches_every_trained_part(name, pipe):
    parts = pretrain.flow_parts(pipe)
    assert set(parts) == {"transformer", "text_encoder"} | ({"text_encoder_2"} if name == "t2i" else set())
    latents, captions = data(name, pipe).batch(np.random.default_rng(0), 4)
    pretrain.velocity(pipe, latents, torch.rand(4), captions=captions).square().mean().backward()
    untouched = {key for key, value in parts.named_parameters() if value.grad is None or not value.grad.any()}
    # The last joint block of SD3 does not use its queries of the text any more.
    assert all(key.startswith("transformer.transformer_blocks.1.attn") and "add" in key for key in untouched)
    assert len(untouched) == (3 if name == "t2i" else 0)


def test_velocity_depends_on_the_caption_of_each_row(name, pipe):
    first, second = [specs(KINDS[name], "training")[c][0] for c in list(specs(KINDS[name], "training"))[:2]]
    texts = [pretrain.draw_caption(np.random.default_rng(0), spec) for spec in (first, second)]
    latents = torch.randn(1, *latent_shape(pipe)).repeat(3, *[1] * len(latent_shape(pipe)))
    with torch.no_grad():
        rows = pretrain.velocity(pipe, latents, torch.full((3,), 0.5), captions=[texts[0], texts[1], texts[0]])
    torch.testing.assert_close(rows[0], rows[2])
    assert not torch.allclose(rows[0], rows[1])


def test_optimizers_share_all_parameters_out(pipe):
    parts = pretrain.flow_parts(pipe)
    optimizers = muon_and_adamw(parts, 1e-3, inside=("transformer_blocks", "blocks"))
    muon, adam = (optimizer.param_groups[0]["params"] for optimizer in optimizers)
    assert len(muon) + len(adam) == len(list(parts.parameters()))
    assert {id(value) for value in [*muon, *adam]} == {id(value) for value in parts.parameters()}
    assert muon
    assert all(value.ndim == 2 for value in muon)


def test_flow_training_lowers_the_loss_and_leaves_the_autoencoder(name, pipe):
    examples = data(name, pipe, count=1)
    clean, captions = examples.latents, draw_prompts(KINDS[name], "training", 1, seed=0)
    noise = torch.randn(8, *clean.shape[1:])
    sigma = torch.linspace(0.1, 0.9, 8)
    level = sigma.view(-1, *[1] * (clean.ndim - 1))

    @torch.no_grad()
    def loss():
        found = pretrain.velocity(pipe, (1 - level) * clean + level * noise, sigma, captions=captions * 8)
        return (found - (noise - clean)).square().mean().item()

    before, vae, parts = loss(), deepcopy(pipe.vae), deepcopy(pretrain.flow_parts(pipe))
    watched = []
    stage = Stage(12, 6, 0.3)  # the rate warms up over 300 steps, so that these 12 are small
    FlowTraining(pipe, examples, stage, seed=0).run(watched.append)
    assert loss() < 0.9 * before
    assert not changed(vae, pipe.vae)
    moved = changed(parts, pretrain.flow_parts(pipe))
    for part in parts:
        assert any(key.startswith(f"{part}.") for key in moved), part
    assert not watched


def test_a_stopped_training_continues_bit_for_bit(name, pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "WATCH_INTERVAL", 2)
    examples, other = data(name, pipe), deepcopy(pipe)
    whole = FlowTraining(pipe, examples, Stage(4, 3, 1e-2), seed=3)
    whole.run(lambda training: training.save(tmp_path / "state") if training.step == 2 else None)
    continued = FlowTraining(other, examples, Stage(4, 3, 1e-2), seed=3)
    continued.restore(tmp_path / "state")
    assert continued.step == 2
    continued.run(lambda training: None)
    assert not changed(pretrain.flow_parts(pipe), pretrain.flow_parts(other))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_wrong_captions(share):
    rng = np.random.default_rng(1)
    drawn, _ = pretrain.draw(rng, "image", 300)
    examples = FlowData(torch.arange(300.0), drawn, share)
    rows, captions = examples.batch(rng, 3000)
    said = [parse_caption(caption) for caption in captions]
    meant = [drawn[int(row)] for row in rows]
    wrong = np.array([a != b for a, b in zip(said, meant, strict=True)])
    assert wrong.mean() == pytest.approx(share, abs=0.03 if 0 < share < 1 else 0)
    assert all(a.category == b.category for a, b in zip(said, meant, strict=True))
    assert all(in_training(spec) for spec in said)


def test_a_saved_folder_is_the_same_generator(name, pipe, tmp_path):
    folder = tmp_path / name
    pretrain.save(pipe, name, folder)
    assert json.loads((folder / "generation_config.json").read_text()) == modules.GENERATION[name]
    generator = load_generator(folder)
    assert generator.modality == KINDS[name]
    for key, value in modules.GENERATION[name].items():
        assert getattr(generator.settings, key) == value, key
    assert generator.latent_shape == latent_shape(pipe)
    latents, caption = generator.initial_latents(2, 0), draw_prompts(KINDS[name], "training", 1, seed=0)[0]
    sigma = torch.full((2,), 0.5)
    with torch.no_grad():
        again = generator.velocity(latents, sigma, generator.condition([caption]).repeat(2))
        torch.testing.assert_close(again, pretrain.velocity(pipe, latents, sigma, captions=[caption] * 2))
    sample = generator.decode(latents)
    assert sample.shape == (2, *([FRAMES] if name == "t2v" else []), SIZE, SIZE, 3)


class StoppedError(Exception):
    """Raised in place of a signal that ends the process."""


def run_script(out, *, stop=None):
    """Run the script; ``stop`` ends it before that step of flow matching, counted over all stages."""
    app, take, steps = typer.Typer(), FlowTraining._take_step, itertools.count()
    app.command()(pretrain.main)

    def step(training):
        if next(steps) == stop:
            raise StoppedError
        return take(training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlowTraining, "_take_step", step)
        result = CliRunner().invoke(app, ["t2i", "--out", str(out), "--speed", "20"])
    if stop is not None:
        assert isinstance(result.exception, StoppedError)
        return None
    assert result.exit_code == 0, result.output
    return load_generator(out / "t2i")


def test_scenes_of_several_things_have_the_share_that_is_asked():
    shares = {}
    for crowded in (0.0, 0.8, 1.0):
        totals = [spec.total for spec in draw_specs(np.random.default_rng(0), "video", 400, crowded=crowded)]
        shares[crowded] = np.mean(np.array(totals) > 1)
    assert shares[0.0] == pytest.approx(3 / 7, abs=0.08)  # of the categories
    assert shares[0.8] == pytest.approx(0.8 + 0.2 * 3 / 7, abs=0.08)
    assert shares[1.0] == 1.0


def test_a_stopped_script_goes_on_from_what_it_saved(tmp_path, monkeypatch):
    monkeypatch.setitem(pretrain.BUILDERS, "t2i", lambda: modules.build_t2i(width=32, layers=1))
    stages = (FlowStage(60, 4, 1e-3, wrong_share=0.3), FlowStage(40, 4, 1e-3, crowded=1.0))
    recipe = pretrain.Recipe("image", (Stage(40, 4, 1e-3),), stages, 200)
    monkeypatch.setitem(pretrain.RECIPES, "t2i", recipe)
    monkeypatch.setattr(pretrain, "WATCH_INTERVAL", 1)
    whole = run_script(tmp_path / "whole")
    assert whole.settings.num_steps == modules.GENERATION["t2i"]["num_steps"]
    assert whole.pipe.vae.config.scaling_factor != 1.0
    assert not [*(tmp_path / "whole").glob("t2i_state*")]
    for stop in (0, 2, 4):  # after the autoencoder, within the first stage of the flow, within the second
        run_script(tmp_path / str(stop), stop=stop)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pretrain, "train_stages", pytest.fail)
            stopped = run_script(tmp_path / str(stop))
        for name in ("vae", "transformer", "text_encoder"):
            assert not changed(getattr(whole.pipe, name), getattr(stopped.pipe, name)), (stop, name)
        assert stopped.pipe.vae.config.scaling_factor == whole.pipe.vae.config.scaling_factor
