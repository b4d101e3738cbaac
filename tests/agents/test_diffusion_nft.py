"""DiffusionNFT against values of the authors' code, in training, on the display, in a plan, and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flexgym.agents.base import load_agent_settings
from flexgym.agents.diffusion_nft import DiffusionNFT, NFTSettings
from flexgym.algorithm.replay import Replayed
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.flow import nft_loss
from flexgym.rllib.sharded import METRICS
from flexgym.runs.display import TrainingDisplay
from tests.agents.small import config_of, largest_difference, small_config, train, weights

VECTORS = json.loads((Path(__file__).parent / "nft_vectors.json").read_text())
LOSS, GRADIENT = VECTORS["nft_loss_beta_1.0"], VECTORS["nft_on_policy_gradient"]


def tensors(values):
    return {
        name: torch.tensor(value, dtype=torch.float64) for name, value in values.items() if not isinstance(value, str)
    }


def predictions(given, *names):
    """Noised latents, and the clean latents that velocities predict from them."""
    t = given["t"].view(-1, 1, 1, 1)
    noised = (1 - t) * given["x0"] + t * given["noise"]
    return noised, [noised - t * given[name] for name in names]


def test_the_loss_and_its_gradient_are_those_of_the_authors():
    given, expected = tensors(LOSS["inputs"]), tensors(LOSS["expected"])
    velocity = given["velocity"].requires_grad_()
    noised, (mean, old, reference) = predictions(
        {**given, "velocity": velocity}, "velocity", "old_velocity", "reference_velocity"
    )
    torch.testing.assert_close(noised, expected["x_t"], rtol=0, atol=1e-12)
    row = nft_loss(mean, old, given["x0"], advantage=given["advantage"], beta=1.0, clip=5.0)
    torch.testing.assert_close(row, expected["loss_per_sample"], rtol=0, atol=1e-12)
    shape = (1, 2, 2)
    replayed = Replayed(
        mean=mean.unflatten(0, shape),
        std=torch.ones(shape),
        latents=noised.unflatten(0, shape),
        target=given["x0"].unflatten(0, shape),
        sigma=given["t"].view(shape),
        sigma_next=torch.zeros(shape),
        velocity_scale=given["t"].view(shape),
        advantage=given["advantage"].view(shape),
        means={"old": old.unflatten(0, shape), "reference": reference.unflatten(0, shape)},
    )
    loss = DiffusionNFT(NFTSettings()).objective(replayed)
    total = loss.per_sample.mean()
    assert total.item() == pytest.approx(expected["total"].item(), abs=1e-12)
    assert loss.metrics["loss/policy"].value == pytest.approx(expected["policy_loss"].item(), abs=1e-12)
    assert loss.metrics["penalty/reference"].value == pytest.approx(expected["kl"].item(), abs=1e-12)
    total.backward()
    torch.testing.assert_close(velocity.grad, expected["grad_velocity"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("beta", "name"), [(1.0, "grad_velocity_beta_1"), (0.1, "grad_velocity_beta_0_1")])
def test_on_policy_the_gradient_is_that_of_weighted_matching(beta, name):
    given, expected = tensors(GRADIENT["inputs"]), tensors(GRADIENT["expected"])
    velocity = given["velocity"].requires_grad_()
    _, (mean,) = predictions({**given, "velocity": velocity}, "velocity")
    nft_loss(mean, mean.detach(), given["x0"], advantage=given["advantage"], beta=beta, clip=5.0).mean().backward()
    torch.testing.assert_close(velocity.grad, expected[name], rtol=0, atol=1e-12)
    torch.testing.assert_close(velocity.grad, expected["grad_of_weighted_matching"], rtol=0, atol=1e-12)


def test_it_trains_resumes_exactly_and_shows_its_metrics(cluster, tmp_path: Path, capsys):
    config = small_config(algorithm={"name": "diffusion_nft"}, training={"num_updates": 2, "ema_decay": 0.9})
    algorithm, _ = train(config, 2)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    expected_metrics, expected = algorithm.train()[METRICS], weights(algorithm)
    with TrainingDisplay(3, title="DiffusionNFT", history=[]) as display:
        display.update({"iteration": 3, **algorithm.row})
    algorithm.stop()
    assert "penalty/reference" in capsys.readouterr().out
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    metrics = resumed.train()[METRICS]
    assert largest_difference(weights(resumed), expected) == 0.0
    assert all(
        metrics[name] == expected_metrics[name] for name in ("loss/policy", "penalty/reference", "policy/gradient_norm")
    )
    resumed.stop()


def test_its_recipe_is_valid():
    settings = load_agent_settings(apply_overrides(load_recipe("diffusion_nft_shapes_t2i"), ["algorithm.beta=0.1"]))
    assert isinstance(config_of(settings).algorithm, DiffusionNFT)
    assert settings.algorithm == NFTSettings(name="diffusion_nft", beta=0.1, window=settings.algorithm.window)
