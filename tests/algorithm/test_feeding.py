"""Groups from a data set: what they hold, and that they follow from seed and number alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexgym import FlowPolicy
from flexgym.algorithm.base import algorithm_class
from flexgym.algorithm.feeding import Feed
from flexgym.algorithm.replay import replay
from flexgym.core.errors import ConfigError
from flexgym.data.captioned import Captioned, Sample
from flexgym.data.pixels import SampleForm
from flexgym.flow import Window, best_weights, flow_dpo_loss, matching_error, reward_weights, velocity_residual
from flexgym.generators.latent_cache import LatentCache
from flexgym.shapes.drawn import SmallWorld
from tests.generators.tiny import fresh, shared

WINDOW = Window(0, 1)


class Noise:
    """Five rows of two random samples."""

    def __init__(self, generator, scores=(1.0, -1.0)):
        self.shape, self.scores, self.loaded = generator.sample_shape, scores, []

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return Captioned(
            f"caption {index}",
            tuple(Sample(f"{index} {number}", lambda at=(index, number): self._load(at)) for number in range(2)),
            np.array(self.scores, np.float32),
        )

    def captions(self):
        return [f"caption {index}" for index in range(5)]

    def _load(self, at):
        self.loaded.append(at)
        return np.random.default_rng(at).integers(0, 256, self.shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def generator():
    generator = fresh("sd3").with_settings(num_steps=4)
    generator.weights.add_lora(rank=4)
    generator.weights.keep("reference")
    return generator


def test_groups_hold_captions_scores_and_latents(generator):
    rows = Noise(generator)
    rollout, scores = Feed(rows, LatentCache(generator), seed=4).groups(3, seeds=[7, 8, 9], window=WINDOW)
    numbers = [int(prompt.text.split()[1]) for prompt in rollout.prompts]
    assert rollout.group_size == 2
    assert rollout.seeds == (7, 8, 9)
    for column, number in enumerate(numbers):
        for sample in range(2):
            expected = generator.encode(rows[number].samples[sample].load()[None])[0]
            assert torch.equal(rollout.kept["target"][0, column, sample], expected)
    assert [group.rewards.tolist() for group in scores] == [[1.0, -1.0]] * 3


def test_groups_follow_from_seed_and_number_alone(generator):
    rows = Noise(generator)
    feed = Feed(rows, LatentCache(generator), seed=4, caption_dropout=0.5)
    everything, _ = feed.groups(0, seeds=range(12), window=WINDOW)
    for first in (8, 4, 0):
        part, _ = Feed(rows, LatentCache(generator), seed=4, caption_dropout=0.5).groups(
            first, seeds=range(first, first + 4), window=WINDOW
        )
        assert part.prompts == everything.prompts[first : first + 4]
        assert torch.equal(part.kept["target"], everything.kept["target"][:, first : first + 4])
    dropped = [prompt.text == "" for prompt in everything.prompts]
    assert 2 <= sum(dropped) <= 10
    assert {prompt.text for prompt in feed.prompts()} == {"", *rows.captions()}


def test_latents_are_encoded_once_for_all_processes(generator, tmp_path):
    rows = Noise(generator)
    first = Feed(rows, LatentCache(generator, tmp_path)).groups(0, seeds=range(5), window=WINDOW)[0]
    assert len(rows.loaded) == 10
    again = Feed(rows, LatentCache(generator, tmp_path)).groups(0, seeds=range(5), window=WINDOW)[0]
    assert len(rows.loaded) == 10, "read from the folder"
    assert torch.equal(first.kept["target"], again.kept["target"])
    damaged = next(tmp_path.rglob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-3])
    Feed(rows, LatentCache(generator, tmp_path)).groups(0, seeds=range(5), window=WINDOW)
    assert len(rows.loaded) == 11, "a damaged file is written again"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data.latent_cache must be a folder"):
        LatentCache(generator, tmp_path / "file")


def test_a_generator_from_image_to_video_is_given_the_first_frame_of_each_video():
    generator = shared("wan22_frame")
    rows = Noise(generator)
    feed = Feed(rows, LatentCache(generator))
    rollout, _ = feed.groups(0, seeds=[0, 1], window=WINDOW)
    for prompt in rollout.prompts:
        first = rows[int(prompt.text.split()[1])].samples[0].load()[0]
        assert np.array_equal(prompt.first_frame.pixels, first)
    assert {prompt.first_frame for prompt in rollout.prompts} <= {prompt.first_frame for prompt in feed.prompts()}


def replayed_of(generator, name, scores=(1.0, -1.0), **settings):
    """The replay of three groups of two samples at one level, and the algorithm."""
    algorithm = algorithm_class(name).from_settings(**settings)
    rollout, _ = Feed(Noise(generator), LatentCache(generator)).groups(0, seeds=[1, 2, 3], window=WINDOW)
    advantages = torch.tensor([scores] * 3)
    policy = FlowPolicy(generator, algorithm.process, groups_per_forward=3)
    return algorithm, replay(policy, rollout, [0], advantages=advantages, needs=algorithm.requires)


def velocity_errors(generator, replayed):
    """Errors of the velocity from noisy latents, their clean ones and the model alone."""
    sigma = replayed.sigma[..., None, None, None]
    noise = (replayed.latents - (1 - sigma) * replayed.target) / sigma
    predicted = (replayed.latents - replayed.mean.detach()) / sigma
    return (predicted - (noise - replayed.target)).square().flatten(3).mean(3)


def test_sft_is_flow_matching(generator):
    algorithm, replayed = replayed_of(generator, "sft")
    expected = velocity_errors(generator, replayed)
    torch.testing.assert_close(algorithm.loss(replayed).per_sample.detach(), expected, rtol=1e-3, atol=1e-5)
    weighted, replayed = replayed_of(generator, "sft", weight="t2")
    expected = velocity_errors(generator, replayed) * replayed.sigma.square()
    torch.testing.assert_close(weighted.loss(replayed).per_sample.detach(), expected, rtol=1e-3, atol=1e-5)


def test_reward_weighted_regression_weights_errors_by_the_advantage(generator):
    algorithm, replayed = replayed_of(generator, "reward_weighted", (2.0, -1.0), temperature=0.5, max_weight=30.0)
    weights = torch.tensor([30.0, float(np.exp(-2.0))]).expand(1, 3, 2)
    expected = velocity_errors(generator, replayed) * weights
    torch.testing.assert_close(algorithm.loss(replayed).per_sample.detach(), expected, rtol=1e-3, atol=1e-5)


def test_best_of_n_is_the_mean_error_of_the_best(generator):
    algorithm, replayed = replayed_of(generator, "best_of_n", (0.3, 0.7))
    expected = velocity_errors(generator, replayed)[..., 1].mean()
    torch.testing.assert_close(algorithm.loss(replayed).per_sample.mean().detach(), expected, rtol=1e-3, atol=1e-5)


def test_diffusion_dpo_compares_the_samples_of_a_row_under_shared_noise(generator):
    algorithm, replayed = replayed_of(generator, "diffusion_dpo", (-1.0, 1.0), beta=20.0)
    assert torch.equal(replayed.sigma[..., 0], replayed.sigma[..., 1])
    sigma = replayed.sigma[..., None, None, None]
    noise = (replayed.latents - (1 - sigma) * replayed.target) / sigma
    torch.testing.assert_close(noise[:, :, 0], noise[:, :, 1], rtol=1e-3, atol=1e-3)
    changed = replayed.means["reference"] * 1.1
    after = type(replayed)(**{**vars(replayed), "means": {"reference": changed}})
    errors, before = (
        matching_error(velocity_residual(mean, replayed.target, replayed.sigma), lead=3)
        for mean in (replayed.mean.detach(), changed)
    )
    expected = flow_dpo_loss(
        errors[..., 1],
        errors[..., 0],
        chosen_reference=before[..., 1],
        rejected_reference=before[..., 0],
        beta=20.0,
    ).loss.mean()
    torch.testing.assert_close(algorithm.loss(after).per_sample.mean().detach(), expected)


def test_weights_of_rewards():
    advantage = torch.tensor([[0.0, 1.0, -1.0, 9.0]], requires_grad=True)
    found = reward_weights(advantage, temperature=1.0, max_weight=20.0)
    torch.testing.assert_close(found, torch.tensor([[1.0, np.e, 1 / np.e, 20.0]], dtype=torch.float32))
    assert not found.requires_grad
    assert reward_weights(advantage, form="linear").tolist() == [[0.0, 1.0, 0.0, 9.0]]
    for wrong in ({"temperature": 0.0}, {"max_weight": -1.0}):
        with pytest.raises(ConfigError, match="expected a positive number"):
            reward_weights(advantage, **wrong)
    with pytest.raises(ConfigError, match="Did you mean 'linear'"):
        reward_weights(advantage, form="linaer")


def test_weights_of_the_best():
    scores = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, 1.0], [5.0, 5.0, 5.0]])
    assert best_weights(scores).tolist() == [[0, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert best_weights(scores, best=2).tolist() == [[0, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert best_weights(scores, best=3).tolist() == [[1, 1, 1]] * 3
    with pytest.raises(ConfigError, match="at least 1 sample"):
        best_weights(scores, best=0)


def test_the_small_world_is_encoded_as_the_embedded_generator_wants_it(generator):
    world = SmallWorld(SampleForm(generator.sample_shape), 2)
    rollout, scores = Feed(world, LatentCache(generator)).groups(0, seeds=[0], window=WINDOW)
    assert rollout.kept["target"].shape == (1, 1, 2, *generator.latent_shape)
    assert scores[0].rewards.tolist() == [1.0, 0.0]
