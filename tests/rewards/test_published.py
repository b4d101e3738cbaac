"""Preprocessing against numbers from the published code, see `tests.rewards.published.generate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import BertTokenizer, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flexgym.core.errors import CheckpointError
from flexgym.rewards import preprocessing
from flexgym.rewards.clip_score import CLIPScore
from flexgym.rewards.clip_text import OPEN_CLIP_MARKS, OPENAI_MARKS, ClipTokens, _byte_characters
from flexgym.rewards.hpsv2 import HPSv2
from flexgym.rewards.image_reward import image_processor
from flexgym.rewards.pick_score import PickScore
from tests.rewards.published.inputs import SIDE, SIZES, TEXTS, figures, fits, image

VECTORS = json.loads((Path(__file__).parent / "published" / "vectors.json").read_text())
PROCESSORS = {
    preprocessing.PillowCrop: ("clip", "image_reward"),
    preprocessing.TensorPadding: ("hpsv2",),
    preprocessing.TensorCrop: ("vbench",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    image_processor(SIDE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures():
    return {size: image(*size) for size in SIZES}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROCESSORS)
def test_images_are_prepared_as_published(kind, folder, pictures):
    names, processor = PROCESSORS[kind], kind(folder)
    sizes = [size for size in SIZES if fits(names[0], size)]
    assert len(sizes) >= 36
    for size, *expected in zip(sizes, *(VECTORS["images"][name] for name in names), strict=True):
        pixels = processor(pictures[size][None])
        assert pixels.shape == (1, 3, SIDE, SIDE)
        found = figures(pixels[0].numpy())
        np.testing.assert_allclose(found, expected[0], atol=2e-5, err_msg=f"{size}")
        assert expected.count(expected[0]) == len(expected)


def test_the_rounding_of_the_center_is_covered(folder, pictures):
    """In some sizes the crop of transformers is one pixel off; PickScore keeps it, as published."""
    published, transformers = preprocessing.PillowCrop(folder), preprocessing.CheckpointCrop(folder)
    tall = [size for size in SIZES if max(size) < 3 * min(size)]
    differ = {
        size
        for size in tall
        if (published(pictures[size][None]) - transformers(pictures[size][None])).abs().max() > 1e-5
    }
    assert {(832, 1216), (544, 960), (704, 1280)} <= differ
    assert len(differ) < 20
    own = CLIPImageProcessorPil.from_pretrained(folder)
    found = transformers(pictures[544, 960][None])
    np.testing.assert_array_equal(found, own([pictures[544, 960]], return_tensors="pt")["pixel_values"])


def test_each_reward_uses_the_processing_of_its_authors():
    assert (HPSv2.preprocessor, HPSv2.marks) == (preprocessing.TensorPadding, OPEN_CLIP_MARKS)
    assert (CLIPScore.preprocessor, CLIPScore.marks) == (preprocessing.PillowCrop, OPENAI_MARKS)
    assert (PickScore.preprocessor, PickScore.marks) == (preprocessing.CheckpointCrop, None)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """CLIP's tokenizer, with the merges that the texts need."""
    characters = sorted(_byte_characters())
    merged = ["".join(merge.split()) for merge in VECTORS["merges"]]
    words = [*characters, *(f"{character}</w>" for character in characters), *merged, *OPENAI_MARKS]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    folder = tmp_path_factory.mktemp("tokenizer")
    CLIPTokenizer(vocabulary, [tuple(merge.split()) for merge in VECTORS["merges"]]).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(("name", "marks"), [("clip", OPENAI_MARKS), ("hpsv2", OPEN_CLIP_MARKS)])
def test_texts_are_tokenized_as_published(name, marks, tokenizer):
    published = ClipTokens(tokenizer, marks)
    start, end = OPENAI_MARKS
    stand_in = dict(zip(marks, OPENAI_MARKS, strict=True))
    assert len(TEXTS) >= 40
    for text, expected in zip(TEXTS, VECTORS["tokens"][name], strict=True):
        inner = [stand_in.get(token, token) for token in expected]
        assert tokenizer.convert_ids_to_tokens(published(text, 10_000)) == [start, *inner, end], text
        assert tokenizer.convert_ids_to_tokens(published(text, 77)) == [start, *inner[:75], end], text


def test_the_tokenizer_of_transformers_reads_other_tokens(tokenizer):
    published = ClipTokens(tokenizer, OPEN_CLIP_MARKS)
    texts = [text for text in TEXTS if text.isprintable() and len(text) < 77]
    differ = [text for text in texts if published(text, 77) != tokenizer([text])["input_ids"][0]]
    assert {"“Curly quotes” and ‘single’ ones", "bread &amp; butter"} <= set(differ)
    assert "a photo of a cat" not in differ


def test_other_tokenizers_are_refused():
    with pytest.raises(CheckpointError, match="expected a CLIP tokenizer, .* got Bert"):
        ClipTokens(BertTokenizer({"[UNK]": 0, "a": 1}), OPENAI_MARKS)
