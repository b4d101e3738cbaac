from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from flexgym.core.errors import ConfigError, RewardError
from flexgym.judge import Assessment, JudgeFailure, Pair, judge_groups
from flexgym.judge import vision_judge as module
from flexgym.judge.backends.base import Decoding, Reply
from flexgym.judge.backends.server import ServerBackend
from flexgym.judge.inputs import Inputs
from flexgym.judge.template import Template
from flexgym.judge.vision_judge import VisionJudge
from flexgym.types import Prompt, SampleGroup
from tests.judge.backends.scripted_server import Script, ScriptedServer, assessment

LEVELS = [40, 200, 120, 160, 80]


def group(levels=LEVELS, caption="pair-1: the brightest", frames=None):
    """Gray images, or videos of so many frames each, whose brightness is their quality."""
    shape = (12, 16, 3) if frames is None else (frames, 12, 16, 3)
    return SampleGroup(Prompt(caption), np.stack([np.full(shape, level, np.uint8) for level in levels]))


def brightest(body, identity, serial):
    """What a judge with eyes says: it decodes the images and prefers the brighter half of them."""
    *pictures, text = body["messages"][0]["content"]
    urls = [picture["image_url"]["url"] for picture in pictures]
    means = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))).mean() for url in urls]
    half = len(means) // 2
    label = "Video" if "two videos" in text["text"] else "Image"
    return assessment(identity, serial, f"{label} {1 if np.mean(means[:half]) > np.mean(means[half:]) else 2}")


@pytest.fixture
def server():
    with ScriptedServer(answer=brightest, record=True) as running:
        yield running


@pytest.fixture
def judge(server):
    backend = ServerBackend(server.url)
    yield VisionJudge(backend)
    backend.close()


@pytest.mark.parametrize("frames", [None, 3])
def test_the_better_sample_wins_whichever_side_it_stands_on(judge, frames):
    mine = group(frames=frames)
    pairs = [Pair(mine, i, j) for i in range(5) for j in range(5) if i != j]
    outcomes = judge.assess(pairs)
    assert all(isinstance(outcome, Assessment) for outcome in outcomes)
    assert [outcome.side for outcome in outcomes] == [int(LEVELS[pair.first] < LEVELS[pair.second]) for pair in pairs]


def test_a_tournament_finds_the_order(judge):
    (scores,) = judge_groups(judge, [group()])
    assert np.argsort(scores.rewards).tolist() == np.argsort(LEVELS).tolist()
    assert scores.failures == {}


def test_what_the_model_is_shown(judge, server):
    judge.assess([Pair(group(frames=9, caption='a "fox"'), 0, 1)])
    (body,) = server.bodies
    *pictures, text = body["messages"][0]["content"]
    assert len(pictures) == 16
    assert {picture["image_url"]["url"][:23] for picture in pictures} == {"data:image/jpeg;base64,"}
    assert text["type"] == "text"
    assert json.dumps('a "fox"') in text["text"]
    assert "Pictures 1 to 8 are the frames of Video 1" in text["text"]
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.0, 0, 2048)


def test_settings_reach_the_model(server):
    backend = ServerBackend(server.url)
    judge = VisionJudge(
        backend,
        template=Template("two images: {prompt}"),
        decoding=Decoding(max_tokens=9, seed=4),
        inputs=Inputs(format="png", max_side=4),
    )
    judge.assess([Pair(group(caption="x"), 0, 1)])
    backend.close()
    (body,) = server.bodies
    first, _, text = body["messages"][0]["content"]
    assert text["text"] == 'two images: "x"'
    assert (body["max_tokens"], body["seed"]) == (9, 4)
    prefix = "data:image/png;base64,"
    assert first["image_url"]["url"].startswith(prefix)
    assert Image.open(io.BytesIO(base64.b64decode(first["image_url"]["url"][len(prefix) :]))).size == (4, 3)


def test_each_sample_is_encoded_once_for_as_long_as_its_group_lives(judge, monkeypatch):
    encoded = []
    encode = module.encode_sample
    monkeypatch.setattr(module, "encode_sample", lambda sample, inputs: encoded.append(1) or encode(sample, inputs))
    one, two = group(), group()
    pairs = [Pair(it, i, j) for it in (one, two) for i in range(5) for j in range(i)]
    judge.assess(pairs)
    assert len(encoded) == 10
    judge.assess(pairs[:3])
    assert len(encoded) == 10
    assert len(judge._encoded) == 2
    del one, two, pairs
    assert len(judge._encoded) == 0


def test_replies_that_are_cut_off_or_broken_are_failures(server, judge):
    for share, kind in (({"cut_off": 1.0}, "truncated"), ({"garbage": 1.0}, "server_error")):
        server.script = Script(**share)
        (outcome,) = judge.assess([Pair(group(), 0, 1)])
        assert isinstance(outcome, JudgeFailure)
        assert outcome.kind == kind


def test_two_samples_of_unlike_size_and_length(judge, server):
    dark, bright = np.full((8, 8, 3), 10, np.uint8), np.full((30, 20, 3), 250, np.uint8)
    assert judge.compare("pair-1", dark, bright).winner == "Image 2"
    assert judge.compare("pair-1", bright, dark).winner == "Image 1"
    judge.compare("pair-1", np.stack([dark] * 3), np.stack([bright] * 20))
    text = server.bodies[-1]["messages"][0]["content"][-1]["text"]
    assert re.search("Pictures 1 to 3 are .* Pictures 4 to 11 are", text)
    with pytest.raises(ConfigError, match="got one image and one video"):
        judge.compare("pair-1", dark, np.stack([bright] * 2))


def test_a_backend_that_loses_replies_is_found_out():
    class Forgetful:
        def complete(self, requests, decoding):
            return [Reply("{}")] * (len(requests) - 1)

    with pytest.raises(RewardError, match="2 requests, 1 replies"):
        VisionJudge(Forgetful()).assess([Pair(group(), 0, 1), Pair(group(), 1, 0)])


def test_nothing_to_judge(judge):
    assert judge.assess([]) == []
