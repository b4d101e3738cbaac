"""Text and image that one encoder reads together: an embedding is that of both, wherever it is kept."""

from __future__ import annotations

import pytest
import torch

from flexgym.core.errors import ConfigError, GeneratorError
from flexgym.generators import wrap_pipeline
from flexgym.types import Prompt
from tests.generators.tiny import CASES, families, fresh, hunyuan_video_frame, picture, shared

NAMES = ("hunyuan_video_frame", "hunyuan_video_concat_frame")
FAMILIES = families(*NAMES)
PAIRS = [Prompt(text, first_frame=picture(seed)) for text in ("a red cube", "a blue ball") for seed in (0, 1)]


def encodings(generator):
    """One entry for each text that the encoder reads from now on."""
    calls = []
    generator.pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    return calls


def states(generator, prompt):
    return generator.condition([prompt]).prompts["encoder_hidden_states"]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_pair_has_an_embedding_of_its_own_in_memory_and_on_the_disk(family, tmp_path):
    made = {}
    for expected in (len(PAIRS) + 1, 0):
        generator = fresh(family, guidance=3.0)
        generator.text.cache_on_disk(tmp_path)
        calls = encodings(generator)
        for _ in range(2):
            found = generator.condition(PAIRS)
        assert len(calls) == expected, "each pair and the empty text, once"
        made[expected] = found
    first, again = made.values()
    rows = first.prompts["encoder_hidden_states"]
    assert all(not torch.equal(rows[at], rows[other]) for at in range(4) for other in range(at))
    for name in ("prompts", "empty", "images"):
        ours, theirs = getattr(again, name), getattr(first, name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(PAIRS) + 1 + 2, "two images by the autoencoder"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_of_another_size_is_read_at_the_size_of_the_sample(family):
    generator = fresh(family)
    calls = encodings(generator)
    large = Prompt("a ball", first_frame=picture(5, 64, 96))
    fitted = Prompt("a ball", first_frame=large.first_frame.fitted(32, 32))
    assert torch.equal(states(generator, large), states(generator, fitted))
    assert len(calls) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_prompt_a_black_picture_is_read(family):
    generator = fresh(family, guidance=3.0)
    calls = encodings(generator)
    empty = generator.condition(PAIRS[:1]).empty["encoder_hidden_states"]
    assert len(calls) == 2
    assert torch.equal(empty, generator.pipe.encode_prompt(picture().pixels * 0, [""], max_sequence_length=40)[0])


def test_the_kind_of_weights_says_how_much_of_the_picture_is_told():
    lengths = [states(shared(family), PAIRS[0]).shape[1] for family in NAMES]
    assert lengths == [576 // 4 + 40 - 4, 576 // 2 + 40 - 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_released_encoders_leave_the_pairs_that_were_named(family):
    generator = fresh(family, guidance=3.0)
    expected = fresh(family, guidance=3.0).condition(PAIRS).prompts["encoder_hidden_states"]
    generator.text.release(PAIRS[:3])
    assert generator.placement.encoders() == {}
    assert torch.equal(generator.condition(PAIRS[:3]).prompts["encoder_hidden_states"], expected[:3])
    with pytest.raises(ConfigError, match="before the text encoders were released, got 'a blue ball'"):
        generator.condition(PAIRS[3:])


def test_frames_that_the_pipeline_cuts_off_are_no_sample():
    generator = shared("hunyuan_video_concat_frame")
    assert generator.sample_shape == (5, 32, 32, 3)
    assert generator.latent_shape == (4, 3, 4, 4)
    with pytest.raises(ConfigError, match="4 frames at the start.*at least 5, got 1"):
        generator.with_settings(num_frames=1)
    with pytest.raises(ConfigError, match="got 3; the nearest are 5 and 9"):
        generator.with_settings(num_frames=3)
    assert shared("hunyuan_video_frame").sample_shape == (5, 32, 32, 3)


def test_a_transformer_of_text_alone_is_refused():
    pipe = hunyuan_video_frame()
    pipe.transformer.register_to_config(image_condition_type=None)
    with pytest.raises(GeneratorError, match=r"image_condition_type \['latent_concat', 'token_replace'\], got None"):
        wrap_pipeline(pipe, **CASES["hunyuan_video_frame"].settings)
