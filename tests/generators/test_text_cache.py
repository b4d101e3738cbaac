from __future__ import annotations

import inspect
import weakref

import pytest
import torch

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.generators import load_generator, wrap_pipeline
from flexgym.generators import tensor_cache as module
from flexgym.generators.conditioning import EmbeddingCache
from flexgym.generators.identity import text_identity
from tests.generators.tiny import CASES, PROMPTS, fresh, sd3


def counted(generator, monkeypatch):
    """The texts that the pipeline itself encodes from now on."""
    encoded, own = [], generator.pipe.encode_prompt

    def encode(*args, **kwargs):
        encoded.extend(kwargs["prompt"])
        return own(*args, **kwargs)

    encode.__signature__ = inspect.signature(own)
    monkeypatch.setattr(generator.pipe, "encode_prompt", encode)
    return encoded


def files(folder):
    return sorted(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("family", ["sd3", "qwen_image", "z_image"])
def test_what_is_read_is_what_was_encoded(family, tmp_path, monkeypatch):
    plain = fresh(family, guidance=3.0).condition(PROMPTS)
    for expected in ({"", *PROMPTS}, set()):
        generator = fresh(family, guidance=3.0)
        generator.text.cache_on_disk(tmp_path)
        encoded = counted(generator, monkeypatch)
        found = generator.condition(PROMPTS)
        assert set(encoded) - {""} == expected - {""}
        for mine, theirs in ((found.prompts, plain.prompts), (found.empty, plain.empty)):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
            assert all(mine[name].dtype == theirs[name].dtype for name in theirs)
    assert len(files(tmp_path)) == len(PROMPTS) + generator.family.guided


def test_identity_is_that_of_weights_config_and_tokenizer(tmp_path):
    pipe = sd3()
    identity = text_identity(pipe)
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = load_generator(tmp_path / "pipe")
    loaded.condition(PROMPTS)  # which leaves a tokenizer with settings of that call
    assert text_identity(loaded.pipe) == identity
    assert text_identity(sd3().to(torch.bfloat16)) != identity
    with torch.no_grad():
        next(pipe.transformer.parameters()).add_(1.0)
        next(pipe.vae.parameters()).add_(1.0)
    assert text_identity(pipe) == identity
    weight = next(pipe.text_encoder_2.parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1e-3
    assert text_identity(pipe) != identity
    other = sd3()
    other.text_encoder.config.layer_norm_eps = 1e-3
    assert text_identity(other) != identity
    other = sd3()
    other.tokenizer.add_tokens(["sphere"])
    assert text_identity(other) != identity


def test_precision_and_length_have_files_of_their_own(tmp_path):
    generator = fresh("sd3")
    generator.text.cache_on_disk(tmp_path)
    generator.condition(["a red cube"])
    generator.with_settings(max_sequence_length=3).condition(["a red cube"])
    lower = fresh("sd3", dtype=torch.bfloat16)
    lower.text.cache_on_disk(tmp_path)
    lower.condition(["a red cube"])
    assert len(files(tmp_path)) == 3


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _other(path):
    """The file of another text under this name."""
    other = next(found for found in path.parent.iterdir() if found != path)
    path.write_bytes(other.read_bytes())


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _flip, _other, _empty])
def test_a_damaged_file_is_encoded_again(damage, tmp_path, monkeypatch):
    first = fresh("sd3")
    first.text.cache_on_disk(tmp_path)
    expected = first.condition(["a red cube"]).prompts
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    first.condition(["a blue ball"])
    damage(path)
    again = fresh("sd3")
    again.text.cache_on_disk(tmp_path)
    encoded = counted(again, monkeypatch)
    found = again.condition(["a red cube"]).prompts
    assert encoded == ["a red cube"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert path.read_bytes() == whole
    assert len(files(tmp_path)) == 2
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_file_that_is_too_large_is_neither_read_nor_written(tmp_path, monkeypatch):
    generator = fresh("sd3")
    generator.text.cache_on_disk(tmp_path)
    generator.condition(["a red cube"])
    monkeypatch.setattr(module, "MAX_BYTES", files(tmp_path)[0].stat().st_size - 1)
    again = fresh("sd3")
    again.text.cache_on_disk(tmp_path)
    encoded = counted(again, monkeypatch)
    again.condition(["a red cube", "a blue ball"])
    assert encoded == ["a red cube", "a blue ball"]
    assert len(files(tmp_path)) == 1


def test_no_folder_can_stand_where_a_file_does(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="text_cache must be a folder"):
        fresh("sd3").text.cache_on_disk(tmp_path / "file")


@pytest.mark.parametrize("family", ["sd3", "qwen_image"])
def test_released_text_encoders_leave_memory_and_nothing_else_changes(family):
    generator = fresh(family, guidance=3.0)
    view = generator.with_settings(num_steps=2)
    expected = generator.condition(PROMPTS).prompts
    encoders = [weakref.ref(part) for part in generator.placement.encoders().values()]
    generator.text.release(PROMPTS)
    assert [encoder() for encoder in encoders] == [None] * len(encoders)
    assert generator.placement.encoders() == {}
    for which in (generator, view):
        found = which.condition(PROMPTS)
        assert all(torch.equal(found.prompts[name], expected[name]) for name in expected)
        assert found.empty
        with pytest.raises(ConfigError, match="before the text encoders were released, got 'two red balls'"):
            which.condition(["two red balls"])


def test_release_needs_a_place_for_every_embedding(tmp_path):
    generator = fresh("sd3")
    generator.text._store.memory = EmbeddingCache(max_bytes=1)
    with pytest.raises(ConfigError, match="3 of 4 encoded prompts do not fit.*text_cache"):
        generator.text.release(PROMPTS)
    assert len(generator.placement.encoders()) == 2
    expected = generator.condition(PROMPTS).prompts
    generator.text.cache_on_disk(tmp_path)
    generator.text.release(PROMPTS)
    found = generator.condition(PROMPTS).prompts
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ConfigError, match="cache_on_disk comes before"):
        generator.text.cache_on_disk(tmp_path)


def test_a_whole_pipeline_is_written_after_a_release(tmp_path):
    CASES["sd35"].build().save_pretrained(tmp_path / "pipe")
    generator = load_generator(tmp_path / "pipe", **CASES["sd35"].settings)
    expected = generator.condition(PROMPTS).prompts
    generator.text.release(PROMPTS)
    generator.weights.train_full()
    saved = load_generator(generator.save(tmp_path / "saved"), **CASES["sd35"].settings)
    found = saved.condition(PROMPTS).prompts
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_pipeline_without_a_folder_cannot_be_written_after_a_release(tmp_path):
    generator = wrap_pipeline(sd3(), **CASES["sd3"].settings)
    generator.text.release([])
    with pytest.raises(CheckpointError, match="came from no folder"):
        generator.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_the_negative_prompt_is_cached_and_stays_after_release(tmp_path, monkeypatch):
    generator = fresh("sana", guidance=3.0).with_settings(negative_prompt=PROMPTS[0])
    generator.text.cache_on_disk(tmp_path)
    before = generator.condition(PROMPTS)
    assert len(files(tmp_path)) == len(PROMPTS) + 1, "as a negative prompt, Sana encodes a text in another way"
    generator.text.release(PROMPTS)
    again = generator.condition(PROMPTS)
    assert all(torch.equal(again.empty[name], before.empty[name]) for name in before.empty)
    with pytest.raises(ConfigError, match="before the text encoders were released, got 'another'"):
        generator.with_settings(negative_prompt="another").condition(PROMPTS)
