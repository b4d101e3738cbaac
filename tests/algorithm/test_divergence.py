from __future__ import annotations

import pytest
import torch

from flexgym.algorithm.divergence import path_kl
from flexgym.flow import CPS, FlowSDE
from tests.generators.tiny import PROMPTS, fresh

TEXTS, SEEDS = PROMPTS[:2], [1, 2]


def moved(by: float):
    """A generator whose output has moved by a constant, so that every velocity has."""
    generator = fresh("sd3").with_settings(num_steps=3)
    generator.weights.train_full()
    generator.weights.keep("reference")
    with torch.no_grad():
        generator.pipe.transformer.proj_out.bias += by
    return generator


def test_the_reference_itself_has_none_and_a_constant_change_the_closed_form():
    assert path_kl(moved(0.0), TEXTS, seeds=SEEDS) == 0.0
    generator = moved(0.1)
    sigmas = generator.sigmas().double()
    for noise in (FlowSDE(), CPS()):
        drift, std = noise.coefficients(sigmas[:-1], sigmas[1:], 0.99)
        scale = (sigmas[1:] - sigmas[:-1]) - drift * (1.0 - sigmas[:-1])
        expected = ((0.1 * scale).square() / (2.0 * std.square()))[:-1].sum()
        assert path_kl(generator, TEXTS, seeds=SEEDS, noise=noise) == pytest.approx(float(expected), rel=1e-4)


def test_a_path_depends_on_its_own_seed_alone():
    generator = moved(0.0)
    with torch.no_grad():
        for value in generator.weights.trained().values():
            value.mul_(1.01)
    both = path_kl(generator, TEXTS, seeds=SEEDS)
    each = [path_kl(generator, [prompt], seeds=[seed]) for prompt, seed in zip(TEXTS, SEEDS, strict=True)]
    assert both == pytest.approx(sum(each) / 2, rel=1e-4)
    assert path_kl(generator, TEXTS, seeds=SEEDS, max_rows=1) == pytest.approx(both, rel=1e-4)
    assert each[0] != each[1]
