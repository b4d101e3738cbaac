from __future__ import annotations

import json
import math

import numpy as np
import pytest

from flexgym import rewards
from flexgym.core.errors import ConfigError, JudgeFailureShareError, UnknownNameError
from flexgym.judge.backends.base import Decoding, Reply
from flexgym.judge.backends.transformers_model import TransformersBackend
from flexgym.judge.protocol import JudgeFailure
from flexgym.rewards.vqa_score import probability_of_yes
from flexgym.types import Prompt, SampleGroup
from tests.judge.backends.test_transformers import request
from tests.judge.backends.tiny_qwen_vl import save_tiny_qwen_vl
from tests.rewards.test_remote import Scripted

TOKENS = {"Yes": 0.5, " yes": 0.125, "No": 0.25, "The": 0.0625}


def completion(tokens):
    told = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in tokens.items()]
    logprobs = {"content": [{"token": "Yes", "logprob": -1, "top_logprobs": told}]}
    choice = {"message": {"role": "assistant", "content": "Yes"}, "finish_reason": "length", "logprobs": logprobs}
    return 200, {}, json.dumps({"choices": [choice]}).encode()


def group(count=2, text='a "red" cat', frames=()):
    return SampleGroup(Prompt(text), np.zeros((count, *frames, 32, 32, 3), np.uint8))


def asking(server, **settings):
    return rewards.make("VQAScore", judge=server.url.removesuffix("/score") + "/v1", **settings)


def test_probability_of_yes_by_a_servers_logprobs():
    with Scripted(lambda serial, body: completion(TOKENS)) as server:
        reward = asking(server)
        images, videos = reward.guarded([group(), group(1, frames=(4,))])
        reward.close()
    np.testing.assert_allclose(images.rewards, [0.625, 0.625], rtol=1e-6)
    np.testing.assert_allclose(videos.rewards, [0.625], rtol=1e-6)
    bodies = [body for _, body in server.seen]
    assert {(body["max_tokens"], body["logprobs"], body["top_logprobs"]) for body in bodies} == {(1, True, 20)}
    texts = [body["messages"][0]["content"][-1]["text"] for body in bodies]
    assert 'Does this figure show "a \\"red\\" cat"? Please answer Yes or No.' in texts
    assert sum("this video" in text for text in texts) == 1


def test_a_reply_that_is_neither_yes_nor_no_is_a_failure():
    with Scripted(lambda serial, body: completion({"I": 0.9, "The": 0.1})) as server:
        reward = asking(server)
        scores = reward.guarded([group()])[0]
        assert np.isnan(scores.rewards).all()
        assert scores.failures == {"invalid": 2}
        assert len(reward.failed.latest()) == 2
        with pytest.raises(JudgeFailureShareError, match="begins with Yes or No; most likely are 'I', 'The'"):
            reward.guarded([group(16)])
        reward.close()


def test_probabilities_by_hand():
    def yes(**tokens):
        return probability_of_yes(Reply("", first_tokens=tuple((token, math.log(p)) for token, p in tokens.items())))

    assert yes(Yes=0.25, YES=0.5, no=0.25) == pytest.approx(0.75)
    assert yes(No=1.0) == 0.0
    assert isinstance(yes(Yesterday=1.0), JudgeFailure)
    assert probability_of_yes(Reply("Yes")).kind == "server_error"


def test_first_tokens_of_a_model_in_this_process_are_its_distribution(tmp_path):
    backend = TransformersBackend(save_tiny_qwen_vl(tmp_path / "tiny"), batch_size=2)
    requests = [request(0), request(1, text="Another question, longer than the first?")]
    vocabulary = backend._model.config.get_text_config().vocab_size
    together = backend.complete(requests, Decoding(max_tokens=1, top_logprobs=vocabulary))
    for reply, one in zip(together, requests, strict=True):
        assert sum(math.exp(value) for _, value in reply.first_tokens) == pytest.approx(1.0, abs=1e-4)
        assert list(reply.first_tokens) == sorted(reply.first_tokens, key=lambda told: -told[1])
        alone = backend.complete([one], Decoding(max_tokens=1, top_logprobs=3))[0]
        assert len(alone.first_tokens) == 3
        assert alone.first_tokens[0][1] == pytest.approx(reply.first_tokens[0][1], abs=1e-4)
    assert backend.complete(requests, Decoding(max_tokens=1))[0].first_tokens == ()
    backend.close()


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="expected a judge"):
        rewards.make("vqa_score")
    with pytest.raises(UnknownNameError, match="Did you mean 'inputs'"):
        rewards.make("vqa_score", judge="http://localhost:1/v1", input={})
    with pytest.raises(ConfigError, match="max_failure_share"):
        rewards.make("vqa_score", judge="http://localhost:1/v1", max_failure_share=3)
