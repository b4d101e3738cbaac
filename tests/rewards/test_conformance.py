"""FlexGym's own rewards keep the rules of its kit."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from transformers import BlipConfig

from flexgym import rewards
from flexgym.rewards.image_reward import ImageRewardModel, image_processor
from flexgym.rewards.known import sign
from flexgym.testing import RewardConformance
from flexgym.testing.groups import shape_groups
from flexgym.types import Prompt, SampleGroup
from tests.rewards import test_image_reward as blip
from tests.rewards import tiny_scorers as tiny
from tests.rewards.seeing_server import gray_group, seeing_server
from tests.rewards.test_remote import example_server
from tests.rewards.test_unified_reward import axes
from tests.rewards.test_unified_reward_pair import answer as one_of_both
from tests.rewards.test_unified_reward_think import brighter
from tests.rewards.test_video_scorers import shifted
from tests.rewards.test_vqa_score import TOKENS, Scripted, completion

BROKEN_WORDS = "a dog on a beach"


class TestShapesVerifier(RewardConformance):
    def make(self):
        return rewards.make("shapes_verifier")

    def broken_group(self):
        return SampleGroup(Prompt(BROKEN_WORDS), self.groups()[0].samples)


class TestShapesVerifierOfVideos(TestShapesVerifier):
    modality = "video"

    def groups(self):
        words = ("a red circle moving right", "a blue square moving left", "a green triangle moving up")
        return [
            SampleGroup(Prompt(text), group.samples) for text, group in zip(words, shape_groups("video"), strict=True)
        ]


class TestShapesOracle(TestShapesVerifier):
    pointwise = False

    def make(self):
        return rewards.make("shapes_oracle")


class TestShapesMatch(RewardConformance):
    tolerance = 1e-5

    def make(self):
        return rewards.make("shapes_match")

    def broken_group(self):
        return SampleGroup(Prompt(BROKEN_WORDS), self.groups()[0].samples)


class TestJPEGCompressibility(RewardConformance):
    def make(self):
        return rewards.make("jpeg_compressibility")


@pytest.mark.slow
class TestMP4Compressibility(RewardConformance):
    modality = "video"

    def make(self):
        return rewards.make("mp4_compressibility")


class TestRubric(RewardConformance):
    def make(self):
        terms = [{"reward": "JPEGCompressibility", "weight": 1.0}, {"reward": "ShapesVerifier", "weight": 2.0}]
        return rewards.make("rubric", combine="sum", terms=terms)


@cache
def clip_folder() -> Path:
    return tiny.save_clip(Path(mkdtemp()) / "clip")


@cache
def blip_folder() -> Path:
    folder = Path(mkdtemp()) / "blip"
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 96}
    words = {**shape, "vocab_size": len(blip.WORDS) + 2, "max_position_embeddings": 40}
    config = BlipConfig(vision_config={**shape, "patch_size": 8, "image_size": 32}, text_config=words)
    tiny.random_weights(ImageRewardModel(config), scale=0.1).save_pretrained(folder)
    image_processor(32).save_pretrained(folder)
    blip.tokenizer().save_pretrained(folder)
    return folder


class ModelScorer(RewardConformance):
    """Scorers of images by a model, whose forward pass rounds by the size of the batch."""

    tolerance = 1e-5
    name = ""

    def make(self):
        return rewards.make(self.name, model=clip_folder())


class TestCLIPScore(ModelScorer):
    name = "clip_score"


class TestPickScore(ModelScorer):
    name, tolerance = "pick_score", 1e-4


class TestHPSv2(ModelScorer):
    name = "hpsv2"


class TestImageReward(ModelScorer):
    tolerance = 1e-4

    def make(self):
        return rewards.make("image_reward", model=blip_folder())


class TestAesthetic(ModelScorer):
    def make(self):
        head = clip_folder().parent / "head.safetensors"
        if not head.exists():
            tiny.save_head(head, tiny.aesthetic_head())
        return rewards.make("aesthetic", model=clip_folder(), head=head)


class TestTemporalConsistency(ModelScorer):
    name, modality = "temporal_consistency", "video"


class TestDiversity(RewardConformance):
    pointwise = False

    def make(self):
        return rewards.make("diversity")


class TestDiversityOfFeatures(ModelScorer):
    pointwise = False
    name = "diversity"


@pytest.mark.slow
class TestDynamicDegree(RewardConformance):
    modality = "video"

    def make(self):
        return rewards.make("dynamic_degree")

    def groups(self):
        return [SampleGroup(Prompt("a texture"), np.stack([shifted(step), shifted(1)])) for step in (0, 2, 4)]


@pytest.mark.slow  # a model is loaded for each rule
class TestOCR(RewardConformance):
    def make(self):
        pytest.importorskip("rapidocr")
        return rewards.make("ocr", engine={"Det.limit_type": "max"})  # does not enlarge images to a side of 736

    def groups(self):
        signs = [sign("Open"), sign("Fish 42")]
        return [SampleGroup(Prompt(f'a sign "{text}"'), np.stack(signs)) for text in ("Open", "Fish 42", "Shut")]

    def broken_group(self):
        return SampleGroup(Prompt("a cat"), sign("Open")[None])

    def other_groups(self):
        return [SampleGroup(Prompt('a sign "Open"'), np.stack([np.stack([sign("Open")] * 2)] * 2))]


def unless_bright(say):
    """The answer of ``say``, and none that can be used for images that are nearly white."""
    return lambda means, text: "I'm sorry, I can't look at this." if means.mean() > 252 else say(means, text)


class Served(RewardConformance):
    """Rewards that ask a server."""

    def serve(self):
        raise NotImplementedError

    def broken_group(self):
        return gray_group(255, 255)

    @pytest.fixture(autouse=True)
    def _server(self):
        with ExitStack() as stack:
            self.server = stack.enter_context(self.serve())
            yield


class TestUnifiedReward(Served):
    def serve(self):
        return seeing_server(unless_bright(axes))

    def make(self):
        return rewards.make("unified_reward", judge=self.server.url)


class TestUnifiedRewardThink(Served):
    pointwise = False

    def serve(self):
        return seeing_server(unless_bright(brighter))

    def make(self):
        return rewards.make("unified_reward_think", judge=self.server.url)


class TestUnifiedRewardPair(Served):
    pointwise = False

    def serve(self):
        return seeing_server(unless_bright(one_of_both))

    def make(self):
        return rewards.make("unified_reward_pair", judge=self.server.url)


@pytest.mark.slow  # more than a second for each rule
class TestVQAScore(Served):
    def serve(self):
        return Scripted(lambda serial, body: completion(TOKENS if "grey" not in str(body) else {"I": 1.0}))

    def make(self):
        return rewards.make("vqa_score", judge=self.server.url.removesuffix("/score") + "/v1")


@pytest.mark.slow  # a language model answers
class TestUnifiedRewardFlex(RewardConformance):
    pointwise = False
    tolerance = 1e-5

    def make(self):
        return rewards.make("unified_reward_flex", tournament={"schedule": "regular(2)"})

    def broken_group(self):
        whole = gray_group(100, 200)
        return SampleGroup(Prompt("a caption with the model's own mark <|image_pad|>"), whole.samples)


@pytest.mark.slow  # starts a process
class TestRemote(RewardConformance):
    @pytest.fixture(autouse=True, scope="class")
    def _url(self, request, tmp_path_factory):
        folder = tmp_path_factory.mktemp("remote")
        (folder / "brightness.py").write_text(
            "def score(prompt, samples, metadata):\n"
            "    means = samples.reshape(len(samples), -1).mean(axis=1)\n"
            "    return [None if mean > 252 else mean for mean in means]\n"
        )
        with example_server("brightness:score", folder=folder) as url:
            request.cls.url = url
            yield

    def make(self):
        return rewards.make("remote", url=self.url)

    def broken_group(self):
        return gray_group(255, 255)


def test_every_reward_is_tested():
    kits = {name.removeprefix("Test") for name in globals() if name.startswith("Test")}
    missing = [name for name in rewards.names() if rewards.registry.reward_class(name).__name__ not in kits]
    assert not missing
