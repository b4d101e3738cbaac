from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoTokenizer

from flexgym.judge.backends.base import ChatRequest, Decoding
from flexgym.judge.backends.transformers_model import TransformersBackend
from flexgym.judge.dialect import FLEX
from flexgym.judge.inputs import Inputs, encode_sample
from flexgym.judge.sources import read_judge_config
from flexgym.shapes.brief import brief_assessment
from flexgym.shapes.sampling import draw_spec
from research.judge.candidates import draw_rendered
from research.judge.checkpoint import CONTEXT, NUM_FRAMES, build_judge, build_tokenizer, save_judge

TOKENIZER = build_tokenizer()


def groups(kind, count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield draw_rendered(rng, draw_spec(rng, kind, "test"), splits=("test", "training"))


@given(st.text(max_size=200))
def test_any_text_can_be_said(text):
    clean = text.encode("utf-8", "replace").decode()
    assert TOKENIZER.decode(TOKENIZER(clean)["input_ids"]) == clean


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_small_world_takes_few_tokens(kind):
    count = {"image": 1, "video": NUM_FRAMES}[kind]
    for group in groups(kind, 40):
        asked = FLEX.template(kind).fill(group.caption, kind, (count, count))
        told = brief_assessment(*group.views[1:3])
        tokens = {text: TOKENIZER(text)["input_ids"] for text in (asked, told)}
        assert all(TOKENIZER.decode(ids) == text for text, ids in tokens.items())
        # the wording in two, quotation marks, and a token for each word and mark
        marks = sum(map(group.caption.count, ",."))
        assert len(tokens[asked]) == 4 + len(group.caption.split()) + marks
        assert len(tokens[told]) < 110


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return save_judge(*build_judge(), tmp_path_factory.mktemp("judge"))


def test_is_small_and_loads_in_the_standard_way(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.config.model_type == "qwen3_vl"
    assert sum(parameter.numel() for parameter in model.parameters()) < 8e6
    assert len(AutoTokenizer.from_pretrained(folder)) == len(TOKENIZER) == model.config.text_config.vocab_size
    assert not [path for path in folder.glob("*.json") if "/tmp" in path.read_text()]


def test_carries_how_it_is_asked(folder):
    config = read_judge_config(folder)
    assert config.inputs == {"num_frames": NUM_FRAMES, "format": "png"}
    assert Inputs(**config.inputs)
    assert Decoding(**config.decoding).max_tokens < CONTEXT


def test_reads_two_videos_within_its_context(folder):
    (group,) = groups("video", 1)
    config = read_judge_config(folder)
    first, second = (encode_sample(sample, Inputs(**config.inputs)) for sample in group.samples[:2])
    text = FLEX.template("video").fill(group.caption, "video", (len(first), len(second)))
    (reply,) = TransformersBackend(folder).complete([ChatRequest(first + second, text)], Decoding(**config.decoding))
    assert reply.prompt_tokens + Decoding(**config.decoding).max_tokens < CONTEXT
