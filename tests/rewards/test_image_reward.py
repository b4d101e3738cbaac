from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertTokenizer, BlipConfig

from flexgym import rewards
from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.rewards.convert import blip_config, convert_image_reward, read_weights
from flexgym.rewards.image_reward import ImageRewardModel, image_processor
from flexgym.types import Prompt, SampleGroup
from tests.rewards import tiny_scorers as tiny

TEXT = "a red cat"
WIDTH, WORDS = 64, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "cat"]


def tokenizer():
    return BertTokenizer({word: index for index, word in enumerate(WORDS)})


def tokens(text):
    return tokenizer()([text], return_tensors="pt")


class Blip(torch.nn.Module):
    """ImageReward as its authors wrote it, with torch's own layers; weights under the names of the published file."""

    def __init__(self):
        super().__init__()
        blip = self.blip = torch.nn.Module()
        vision = blip.visual_encoder = torch.nn.Module()
        vision.cls_token = torch.nn.Parameter(torch.zeros(1, 1, WIDTH))
        vision.pos_embed = torch.nn.Parameter(torch.zeros(1, 17, WIDTH))
        vision.patch_embed = torch.nn.Module()
        vision.patch_embed.proj = torch.nn.Conv2d(3, WIDTH, 8, 8)
        vision.norm = torch.nn.LayerNorm(WIDTH, eps=1e-6)
        vision.blocks = torch.nn.ModuleList(self.block() for _ in range(2))
        text = blip.text_encoder = torch.nn.Module()
        text.embeddings = torch.nn.Module()
        text.embeddings.word_embeddings = torch.nn.Embedding(len(WORDS) + 2, WIDTH)
        text.embeddings.position_embeddings = torch.nn.Embedding(40, WIDTH)
        text.embeddings.LayerNorm = torch.nn.LayerNorm(WIDTH, eps=1e-12)
        text.embeddings.register_buffer("position_ids", torch.arange(40)[None])
        text.encoder = torch.nn.Module()
        text.encoder.layer = torch.nn.ModuleList(self.layer() for _ in range(2))
        blip.vision_proj, blip.text_proj = torch.nn.Linear(WIDTH, 8), torch.nn.Linear(WIDTH, 8)
        self.mlp = torch.nn.Module()
        sizes = [(WIDTH, 1024), None, (1024, 128), None, (128, 64), None, (64, 16), (16, 1)]
        self.mlp.layers = torch.nn.Sequential(*(torch.nn.Linear(*it) if it else torch.nn.Identity() for it in sizes))

    @staticmethod
    def block():
        block = torch.nn.Module()
        block.norm1, block.norm2 = torch.nn.LayerNorm(WIDTH, eps=1e-6), torch.nn.LayerNorm(WIDTH, eps=1e-6)
        block.attn, block.mlp = torch.nn.Module(), torch.nn.Module()
        block.attn.qkv, block.attn.proj = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        block.mlp.fc1, block.mlp.fc2 = torch.nn.Linear(WIDTH, 96), torch.nn.Linear(96, WIDTH)
        return block

    @staticmethod
    def layer():
        def output(width):
            module = torch.nn.Module()
            module.dense, module.LayerNorm = torch.nn.Linear(width, WIDTH), torch.nn.LayerNorm(WIDTH, eps=1e-12)
            return module

        def attention():
            module = torch.nn.Module()
            parts = {part: torch.nn.Linear(WIDTH, WIDTH) for part in ("query", "key", "value")}
            module.self = torch.nn.ModuleDict(parts)
            module.output = output(WIDTH)
            return module

        layer = torch.nn.Module()
        layer.attention, layer.crossattention = attention(), attention()
        layer.intermediate = torch.nn.Module()
        layer.intermediate.dense = torch.nn.Linear(WIDTH, 80)
        layer.output = output(80)
        return layer

    @staticmethod
    def attend(query, key, value):
        return torch.softmax(query @ key.transpose(1, 2) / WIDTH**0.5, -1) @ value

    @torch.no_grad()
    def score(self, words, pixels):
        vision, text = self.blip.visual_encoder, self.blip.text_encoder
        patches = vision.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([vision.cls_token.expand(len(patches), -1, -1), patches], 1) + vision.pos_embed
        for block in vision.blocks:
            x = x + block.attn.proj(self.attend(*block.attn.qkv(block.norm1(x)).chunk(3, -1)))
            x = x + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
        seen, embed = vision.norm(x), text.embeddings
        places = embed.position_embeddings.weight[: words.shape[1]]
        y = embed.LayerNorm(embed.word_embeddings(words) + places).expand(len(seen), -1, -1)
        for layer in text.encoder.layer:
            for attention, other in ((layer.attention, None), (layer.crossattention, seen)):
                parts, around = attention.self, y if other is None else other
                mixed = self.attend(parts["query"](y), parts["key"](around), parts["value"](around))
                y = attention.output.LayerNorm(y + attention.output.dense(mixed))
            inner = torch.nn.functional.gelu(layer.intermediate.dense(y))
            y = layer.output.LayerNorm(y + layer.output.dense(inner))
        return (self.mlp.layers(y[:, 0])[:, 0] - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder that is made of a file as it is published, and the model in it."""
    folder = tmp_path_factory.mktemp("image_reward")
    model = tiny.random_weights(Blip(), scale=0.1)
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    tokenizer().save_pretrained(folder / "bert")
    convert_image_reward(folder / "ImageReward.pt", folder / "made", tokenizer=str(folder / "bert"))
    return folder / "made", model


def score(reward, pictures, text=TEXT):
    scores = reward.score([SampleGroup(Prompt(text), pictures)])[0]
    assert scores.failures == {}
    return scores.rewards


def test_the_published_form_scores_as_its_authors_code_does(published):
    folder, model = published
    pictures = tiny.pictures(3)
    pixels = torch.cat([tiny.normalized(tiny.cropped(picture)) for picture in pictures])
    # Without padding: the mask hides it.
    expected = model.score(tokens(TEXT)["input_ids"], pixels)
    assert float(expected.std()) > 1e-3
    reward = rewards.make("ImageReward", model=folder, batch_size=2)
    np.testing.assert_allclose(score(reward, pictures), expected, atol=1e-4)
    other = model.score(tokens("a blue cat")["input_ids"], pixels)
    np.testing.assert_allclose(score(reward, pictures, "a blue cat"), other, atol=1e-4)
    assert float((other - expected).abs().max()) > 1e-3


def test_prompts_are_cut_off_after_35_tokens(published):
    reward, pictures = rewards.make("image_reward", model=published[0]), tiny.pictures(1)
    long = "a red cat " * 11  # 33 words between the two marks
    assert score(reward, pictures, long + "a blue cat") == pytest.approx(score(reward, pictures, long), abs=1e-6)
    assert score(reward, pictures, long[:-4]) != pytest.approx(score(reward, pictures, long), abs=1e-5)


def test_a_folder_saved_by_transformers_loads(tmp_path):
    shape = {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 96}
    config = BlipConfig(
        vision_config={**shape, "patch_size": 8, "image_size": 32},
        text_config={**shape, "vocab_size": len(WORDS) + 2, "max_position_embeddings": 40},
    )
    model = tiny.random_weights(ImageRewardModel(config), scale=0.1)
    model.save_pretrained(tmp_path)
    image_processor(32).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    found = score(rewards.make("image_reward", model=tmp_path), tiny.pictures(2))
    with torch.no_grad():
        read = tokens(TEXT)
        pixels = torch.cat([tiny.normalized(tiny.cropped(picture)) for picture in tiny.pictures(2)])
        expected = model(pixels, read["input_ids"], read["attention_mask"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_no_image_reward_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"rewards\.convert image_reward"):
        rewards.make("image_reward")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="weights of ImageReward"):
        blip_config(read_weights(tmp_path / "other.pt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="could not be loaded"):
        rewards.make("image_reward", model=tmp_path / "empty")
