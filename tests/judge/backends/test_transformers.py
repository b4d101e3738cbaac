import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flexgym.core.errors import CheckpointError, ConfigError, UnknownNameError
from flexgym.judge.backends.base import ChatRequest, Decoding, Reply
from flexgym.judge.backends.transformers_model import SeededSampling, TransformersBackend
from flexgym.judge.protocol import JudgeFailure
from tests.judge.backends.tiny_qwen_vl import CONTEXT, KINDS, picture, save_tiny_qwen_vl

SHORT = Decoding(max_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_qwen_vl(tmp_path_factory.mktemp("judge") / "tiny")


@pytest.fixture(scope="module")
def backend(folder):
    return TransformersBackend(folder, batch_size=4)


def request(*seeds: int, text: str = "Which one is better?", size: tuple[int, int] = (64, 64)) -> ChatRequest:
    return ChatRequest(tuple(picture(seed, size) for seed in seeds), text)


def replies(outcomes: list[Reply | JudgeFailure]) -> list[str]:
    assert all(isinstance(outcome, Reply) for outcome in outcomes), outcomes
    return [outcome.text for outcome in outcomes]


def test_what_stands_beside_a_request_changes_nothing(backend):
    requests = [
        request(0, 1),
        request(2, 3, text="A much longer question, so that its neighbours are padded.", size=(96, 32)),
        request(1, 0),
        ChatRequest((), "No picture at all."),
        request(0, 1, 2, 3),
    ]
    together = replies(backend.complete(requests, SHORT))
    alone = [replies(backend.complete([one], SHORT))[0] for one in requests]
    assert together == alone
    # Otherwise a model that is deaf and blind would pass: order, text and images all matter.
    assert len(set(together)) == len(requests)


def test_counts_are_those_of_the_prompt(backend):
    (reply,) = backend.complete([request(0, 1, text="Q?", size=(64, 96))], SHORT)
    # 64x96 pixels are 4x6 patches, merged two by two: 6 tokens in each image, between its two marks. The rest is one
    # token per byte and per mark: "<|im_start|>user\n" 6, the text 2, "<|im_end|>\n" 2, "<|im_start|>assistant\n" 11.
    assert reply.prompt_tokens == 2 * (6 + 2) + 6 + 2 + 2 + 11
    assert (reply.completion_tokens, reply.finish_reason, len(reply.text)) == (8, "length", 8)
    assert reply.seconds > 0


def test_a_text_with_a_special_token_fails_alone(backend):
    """Read as a token, it would end the message or show another image."""
    tokens = ("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|video_pad|>", "<|vision_start|>")
    outcomes = backend.complete([request(0, 1), *(request(0, 1, text=f"see {token}") for token in tokens)], SHORT)
    assert isinstance(outcomes[0], Reply)
    for token, outcome in zip(tokens, outcomes[1:], strict=True):
        assert outcome.kind == "server_error"
        assert f"contains {token}" in outcome.detail


def test_pictures_of_one_id_are_encoded_once(folder):
    backend = TransformersBackend(folder, batch_size=2)
    backend.complete([request(0, 1), request(1, 2), request(2, 0)], Decoding(max_tokens=1))
    metrics = backend.metrics()
    assert metrics["pictures_encoded"] == 3
    assert (metrics["requests"], metrics["failures"], metrics["completion_tokens"]) == (3, 0, 3)
    assert 0 < metrics["latency_p50"] <= metrics["latency_p95"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_looked_at_once_and_nothing_else_changes(kind, tmp_path, monkeypatch):
    """The model answers as in its ordinary call, which looks at every image of every request."""
    backend = TransformersBackend(save_tiny_qwen_vl(tmp_path, kind=kind))
    requests = [request(0, 1), request(1, 2), request(2, 0)]
    shown = torch.cat([backend._preprocess(picture)[0] for one in requests for picture in one.pictures])
    model, looks, logits = backend._model, [], []
    model.model.visual.register_forward_pre_hook(lambda _, inputs: looks.append(len(inputs[0])))
    generate = model.generate

    def both(mm_encoder_outputs, **inputs):
        ordinary = generate(**inputs, pixel_values=shown)
        output = generate(**inputs, mm_encoder_outputs=mm_encoder_outputs)
        logits.extend(torch.stack(each.logits) for each in (output, ordinary))
        return output

    monkeypatch.setattr(model, "generate", both)
    backend.complete(requests, Decoding(max_tokens=8, top_logprobs=1))
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4)
    assert (logits[0][0] - logits[0][0][0]).abs().amax(-1)[1:].min() > 1e-2  # no other images, no other logits
    assert looks == [len(shown) // 2, len(shown)]


def test_closing_twice_is_closing_once(folder):
    backend = TransformersBackend(folder)
    backend.close()
    backend.close()


def test_a_stop_token_of_the_checkpoint_ends_the_reply(backend, folder, tmp_path):
    (whole,) = replies(backend.complete([request(0, 1)], SHORT))
    third = whole[2]
    assert third not in whole[:2]
    token = backend._tokenizer.convert_tokens_to_ids(third)
    stopping = TransformersBackend(save_tiny_qwen_vl(tmp_path / "stopping", stop_tokens=(token,)))
    (reply,) = stopping.complete([request(0, 1)], SHORT)
    assert (reply.text, reply.finish_reason, reply.completion_tokens) == (whole[:3], "stop", 3)


def test_sampling_depends_on_the_seed_alone(backend):
    asked = [request(0, 1), request(2, 3)]
    warm = Decoding(max_tokens=8, temperature=1.0, seed=7)
    state = torch.get_rng_state()
    first = replies(backend.complete(asked, warm))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert replies(backend.complete(asked[1:], warm)) == first[1:]
    other = replies(backend.complete(asked, Decoding(max_tokens=8, temperature=1.0, seed=8)))
    assert other != first
    assert first != replies(backend.complete(asked, SHORT))


def test_noisy_greedy_draws_from_the_softmax():
    draws, temperature = 4000, 2.0
    shares = torch.tensor([0.5, 0.3, 0.2])
    sampling = SeededSampling(1, Decoding(temperature=temperature, seed=3), torch.device("cpu"))
    # At temperature 2 these logits have the softmax above.
    logits = temperature * shares.log()[None]
    drawn = torch.tensor([int(sampling(torch.empty(0), logits).argmax()) for _ in range(draws)])
    seen = torch.bincount(drawn, minlength=3) / draws
    # Four standard errors of the most uncertain share.
    assert torch.allclose(seen, shares, atol=4 * (0.25 / draws) ** 0.5)


def test_an_impossible_request_fails_alone(backend):
    outcomes = backend.complete(
        [request(0, 1, text="x" * CONTEXT), request(0, 1), request(0, 1, text="see <|image_pad|>")], SHORT
    )
    assert [getattr(outcome, "kind", "reply") for outcome in outcomes] == ["server_error", "reply", "server_error"]
    assert f"context of {CONTEXT}" in outcomes[0].detail
    assert "image token" in outcomes[2].detail


def test_a_schema_is_refused(backend):
    with pytest.raises(ConfigError, match="vllm or server"):
        backend.complete([request(0, 1)], Decoding(json_schema={"type": "object"}))


def test_wrong_settings_are_named(folder):
    with pytest.raises(ConfigError, match="batch_size"):
        TransformersBackend(folder, batch_size=0)
    with pytest.raises(UnknownNameError, match="bfloat16"):
        TransformersBackend(folder, dtype="bfloat")


def test_a_checkpoint_that_cannot_serve_is_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        TransformersBackend(tmp_path / "nowhere")
    pickled = save_tiny_qwen_vl(tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        TransformersBackend(pickled)
    short = save_tiny_qwen_vl(tmp_path / "short")
    whole = (short / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="short"):
        TransformersBackend(short)


def test_pictures_reach_the_model_as_pixels(backend):
    """A white and a black image differ, so the patches are really read."""
    black, white = (picture(value, (64, 64), flat=True) for value in (0, 255))
    patches, grid = backend._preprocess(white)
    assert grid.tolist() == [1, 4, 4]
    assert patches.shape == (16, 3 * 2 * 16 * 16)
    np.testing.assert_allclose(patches, 1.0, atol=1e-6)
    np.testing.assert_allclose(backend._preprocess(black)[0], -1.0, atol=1e-6)
