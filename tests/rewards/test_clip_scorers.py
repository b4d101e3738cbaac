from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from transformers import CLIPModel
from typer.testing import CliRunner

from flexgym import rewards
from flexgym.core.errors import CheckpointError, ConfigError, UnknownNameError
from flexgym.rewards import convert
from flexgym.rewards.convert import clip_config as converted_config
from flexgym.rewards.convert import clip_weights, convert_aesthetic, convert_hpsv2, read_weights
from flexgym.types import Prompt, SampleGroup
from tests.rewards import tiny_scorers as tiny

TEXT = "a red cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def model():
    return tiny.random_weights(CLIPModel(tiny.clip_config()))


def score(reward, samples, text=TEXT):
    scores = reward.score([SampleGroup(Prompt(text), samples)])[0]
    assert scores.failures == {}
    return scores.rewards


def test_clip_score_is_the_cosine_of_the_middle(folder, model):
    pictures = tiny.pictures()
    expected = [tiny.cosine(model, TEXT, tiny.normalized(tiny.cropped(picture))) for picture in pictures]
    assert np.ptp(expected) > 0.01
    for batch_size in (2, 32):
        found = score(rewards.make("clip_score", model=folder, batch_size=batch_size), pictures)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pick_score_is_scaled_by_the_models_own_temperature(folder, model):
    pictures = tiny.pictures()
    expected = [tiny.cosine(model, TEXT, tiny.normalized(tiny.cropped(picture))) for picture in pictures]
    found = score(rewards.make("PickScore", model=folder), pictures)
    np.testing.assert_allclose(found, math.exp(1.5) * np.array(expected), atol=1e-4)


def test_hpsv2_is_the_cosine_of_the_whole_padded_picture(folder, model):
    for size in ((48, 96), (90, 40), (32, 32)):
        pictures = tiny.pictures(3, *size)
        expected = [tiny.cosine(model, TEXT, tiny.normalized(tiny.padded(picture))) for picture in pictures]
        np.testing.assert_allclose(score(rewards.make("hpsv2", model=folder), pictures), expected, atol=1e-5)


def test_hpsv2_sees_the_edges_that_pick_score_crops_away(folder):
    picture = tiny.pictures(1)[0]
    other = picture.copy()
    other[:, :20] = 255 - other[:, :20]  # the crop of 48 x 96 keeps the columns 24 to 72
    group = np.stack([picture, other])
    cropped = score(rewards.make("pick_score", model=folder), group)
    padded = score(rewards.make("hpsv2", model=folder), group)
    assert cropped[0] == pytest.approx(cropped[1], abs=1e-6)
    assert abs(padded[0] - padded[1]) > 1e-3


def test_the_prompt_counts_and_long_ones_are_cut_off(folder, model):
    reward, picture = rewards.make("clip_score", model=folder), tiny.pictures(1)
    long = "a" + " b c" * 100
    pixels = tiny.normalized(tiny.cropped(picture[0]))
    assert score(reward, picture, "blue")[0] == pytest.approx(tiny.cosine(model, "blue", pixels), abs=1e-5)
    assert score(reward, picture, long)[0] == pytest.approx(tiny.cosine(model, long, pixels), abs=1e-5)
    assert abs(score(reward, picture, "blue")[0] - score(reward, picture, long)[0]) > 1e-3


def test_a_video_counts_by_the_mean_over_chosen_frames(folder):
    reward, frames = rewards.make("clip_score", model=folder, num_frames=3), tiny.pictures(7)
    found = score(reward, frames[None])
    np.testing.assert_allclose(found, [score(reward, frames[[0, 3, 6]]).mean()], atol=1e-6)


def test_aesthetic_is_the_head_on_the_normalized_features(folder, model, tmp_path):
    head = tiny.aesthetic_head()
    file = tiny.save_head(tmp_path / "head.safetensors", head)
    pictures = tiny.pictures()
    with torch.no_grad():
        pixels = torch.cat([tiny.normalized(tiny.cropped(picture)) for picture in pictures])
        features = model.visual_projection(model.vision_model(pixels).pooler_output)
        value = features / features.norm(dim=1, keepdim=True)
        for layer in (0, 2, 4, 6, 7):
            value = value @ head["layers"][layer].weight.T + head["layers"][layer].bias
    assert float(value.std()) > 1e-4
    found = score(rewards.make("aesthetic", head=file, model=folder, batch_size=2), pictures)
    np.testing.assert_allclose(found, value[:, 0], atol=1e-5)


def test_half_precision_is_near(folder):
    full = score(rewards.make("clip_score", model=folder), tiny.pictures())
    half = score(rewards.make("clip_score", model=folder, dtype="bfloat16"), tiny.pictures())
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.05)


class OpenClip(torch.nn.Module):
    """The forward pass of open_clip's CLIP, written down with torch's own attention; weights under its names."""

    def __init__(self, width=64, patch=8, side=32, vocabulary=54, out=24):
        super().__init__()
        self.visual = torch.nn.Module()
        self.visual.conv1 = torch.nn.Conv2d(3, width, patch, patch, bias=False)
        self.visual.class_embedding = torch.nn.Parameter(torch.zeros(width))
        self.visual.positional_embedding = torch.nn.Parameter(torch.zeros((side // patch) ** 2 + 1, width))
        self.visual.ln_pre, self.visual.ln_post = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.visual.transformer = self.blocks(width, 96)
        self.visual.proj = torch.nn.Parameter(torch.zeros(width, out))
        self.token_embedding = torch.nn.Embedding(vocabulary, width)
        self.positional_embedding = torch.nn.Parameter(torch.zeros(77, width))
        self.transformer = self.blocks(width, 80)
        self.ln_final = torch.nn.LayerNorm(width)
        self.text_projection = torch.nn.Parameter(torch.zeros(width, out))
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))

    @staticmethod
    def blocks(width, hidden):
        transformer = torch.nn.Module()
        transformer.resblocks = torch.nn.ModuleList()
        for _ in range(2):
            block = torch.nn.Module()
            block.attn = torch.nn.MultiheadAttention(width, 1, batch_first=True)
            block.ln_1, block.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
            block.mlp = torch.nn.Module()
            block.mlp.c_fc, block.mlp.c_proj = torch.nn.Linear(width, hidden), torch.nn.Linear(hidden, width)
            transformer.resblocks.append(block)
        return transformer

    @staticmethod
    def run(transformer, x, mask=None):
        for block in transformer.resblocks:
            normal = block.ln_1(x)
            x = x + block.attn(normal, normal, normal, need_weights=False, attn_mask=mask)[0]
            x = x + block.mlp.c_proj(torch.nn.functional.gelu(block.mlp.c_fc(block.ln_2(x))))
        return x

    @torch.no_grad()
    def cosine(self, tokens, pixels):
        patches = self.visual.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.visual.class_embedding.expand(len(patches), 1, -1), patches], 1)
        x = self.run(self.visual.transformer, self.visual.ln_pre(x + self.visual.positional_embedding))
        seen = self.visual.ln_post(x[:, 0]) @ self.visual.proj
        mask = torch.full((77, 77), -torch.inf).triu(1)
        y = self.run(self.transformer, self.token_embedding(tokens) + self.positional_embedding, mask)
        read = self.ln_final(y)[torch.arange(len(tokens)), tokens.argmax(-1)] @ self.text_projection
        return torch.cosine_similarity(seen, read)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_published_form_of_hpsv2_scores_as_open_clip_does(tmp_path, folder, wrapped):
    model = OpenClip()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2 + ("ln_" in name and "weight" in name))
    weights = {f"module.{name}" if wrapped else name: value.half() for name, value in model.state_dict().items()}
    weights["module.attn_mask" if wrapped else "attn_mask"] = torch.zeros(77, 77)
    model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    torch.save({"state_dict": weights} if wrapped else weights, tmp_path / "HPS.pt")
    convert_hpsv2(tmp_path / "HPS.pt", tmp_path / "hps", tokenizer=str(folder))
    tokens = torch.zeros(1, 77, dtype=torch.long)
    words = tiny.clip_tokenizer()([TEXT])["input_ids"][0]
    tokens[0, : len(words)] = torch.tensor(words)
    pictures = tiny.pictures(3)
    pixels = torch.cat([tiny.normalized(tiny.padded(picture)) for picture in pictures])
    expected = model.cosine(tokens, pixels)
    assert float(expected.std()) > 1e-3
    found = score(rewards.make("hpsv2", model=tmp_path / "hps"), pictures)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_published_form_of_the_aesthetic_head(tmp_path, folder):
    head = tiny.aesthetic_head()
    torch.save(head.state_dict(), tmp_path / "head.pth")
    convert_aesthetic(tmp_path / "head.pth", tmp_path / "made" / "head.safetensors")
    direct = tiny.save_head(tmp_path / "head.safetensors", head)
    pictures = tiny.pictures(2)
    found = [
        score(rewards.make("aesthetic", head=file, model=folder), pictures)
        for file in (direct, tmp_path / "made" / "head.safetensors")
    ]
    np.testing.assert_array_equal(*found)


class Evil:
    def __reduce__(self):
        return (eval, ("1 / 0",))


def test_published_files_run_no_code(tmp_path):
    torch.save({"state_dict": {"a": Evil()}}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="file of weights"):
        read_weights(tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="tensors by name, got list"):
        read_weights(tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="file of weights"):
        read_weights(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="an open_clip CLIP model, but .* is missing"):
        converted_config({"a": torch.zeros(1)})
    assert clip_weights({"logit_scale": torch.ones(())}) == {"logit_scale": torch.ones(())}


def test_pickled_weights_are_not_loaded(tmp_path, folder, model):
    tiny.save_clip(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        rewards.make("clip_score", model=tmp_path)


def test_checkpoints_that_cannot_work_are_refused(tmp_path, folder, model):
    with pytest.raises(CheckpointError, match="checkpoint folder or a hub id"):
        rewards.make("clip_score", model=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"rewards\.convert"):
        rewards.make("clip_score", model=tmp_path)
    with pytest.raises(ConfigError, match=r"rewards\.convert hpsv2"):
        rewards.make("hpsv2")
    with pytest.raises(ConfigError, match=r"rewards\.convert aesthetic"):
        rewards.make("aesthetic")
    tiny.save_clip(tmp_path / "half")
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks .* weights of a CLIPModel"):
        rewards.make("clip_score", model=tmp_path / "half")
    head = tiny.save_head(tmp_path / "wide.safetensors", tiny.aesthetic_head(32))
    with pytest.raises(CheckpointError, match="size mismatch"):
        rewards.make("aesthetic", head=head, model=folder)
    with pytest.raises(UnknownNameError, match="Did you mean 'bfloat16'"):
        rewards.make("clip_score", model=folder, dtype="bfloat")
    with pytest.raises(ConfigError, match="batch_size"):
        rewards.make("clip_score", model=folder, batch_size=0)
    with pytest.raises(ConfigError, match="device"):
        rewards.make("clip_score", model=folder, device="gpu")
    with pytest.raises(UnknownNameError, match="Did you mean 'processor'"):
        rewards.make("clip_score", model=folder, procesor=folder)


def test_the_command_that_converts(tmp_path):
    app = typer.Typer()
    app.command()(convert.main)

    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words]).exit_code

    torch.save(tiny.aesthetic_head().state_dict(), tmp_path / "head.pth")
    made = tmp_path / "head.safetensors"
    assert run("aesthetic", tmp_path / "head.pth", made) == 0
    assert set(load_file(made)) == {
        f"layers.{layer}.{kind}" for layer in (0, 2, 4, 6, 7) for kind in ("weight", "bias")
    }
    assert run("aesthetic", tmp_path / "head.pth", made) == 2  # it is there already
    assert run("asthetic", tmp_path / "head.pth", tmp_path / "other") == 2
    assert run("hpsv2", tmp_path / "head.pth", tmp_path / "other") == 2
    assert not (tmp_path / "other").exists()
