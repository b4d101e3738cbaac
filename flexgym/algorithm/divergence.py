"""How far a trained policy is from the base, measured in the same way for every algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from flexgym.flow import FlowSDE, NoiseScale, transition
from flexgym.generators.base import FlowGenerator
from flexgym.generators.weights import REFERENCE
from flexgym.types import Prompt


@torch.no_grad()
def path_kl(
    generator: FlowGenerator,
    prompts: Sequence[str | Prompt],
    *,
    seeds: Sequence[int],
    noise: NoiseScale | None = None,
    max_rows: int = 64,
    guidance: float | None = None,
) -> float:
    """Estimate the KL divergence of noisy sampling paths from those of the reference, in nats per dimension.

    Paths are drawn from the weights in use. Their divergence is the sum over all steps but the last of the closed form
    ``|mean - mean_ref|^2 / (2 std^2)`` in expectation; the last step has no noise and so no density. The noise is that
    of this measurement, whatever noise an algorithm trained with, so that figures of algorithms can be compared.

    Args:
        generator: whose reference is kept, see `Weights.keep`.
        prompts: N texts, or prompts with first frames.
        seeds: N seeds of first latents and noise; a path depends on its own seed alone.
        noise: noise of the paths; None takes that of Flow-GRPO (arXiv 2505.05470) with eta 0.7.
        max_rows: largest number of latents in one forward.
        guidance: guidance scale; None takes the generator's setting.

    Returns:
        Mean over the paths; 0 for the reference itself.
    """
    scale, total = noise or FlowSDE(), 0.0
    for start in range(0, len(prompts), max_rows):
        rows = slice(start, start + max_rows)
        total += float(_divergences(generator, prompts[rows], seeds[rows], noise=scale, guidance=guidance).sum())
    return total / len(prompts)


def _divergences(
    generator: FlowGenerator,
    prompts: Sequence[str | Prompt],
    seeds: Sequence[int],
    *,
    noise: NoiseScale,
    guidance: float | None,
) -> Tensor:
    """Return the divergence along one path for each prompt, ``[B]``."""
    sources = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents = torch.cat([generator.initial_latents(1, source) for source in sources])
    latents = generator.starting_latents(latents, prompts)
    conditioning = generator.condition(prompts, guidance=guidance)
    found = latents.new_zeros(len(latents))
    for sigma, sigma_next in list(pairwise(generator.sigmas().to(latents.device)))[:-1]:
        level, after = sigma.expand(len(latents)), sigma_next.expand(len(latents))
        velocity = generator.velocity(latents, level, conditioning, guidance=guidance)
        step = transition(latents, velocity, level, sigma_next=after, noise=noise)
        with generator.weights.using(REFERENCE):
            before = generator.velocity(latents, level, conditioning, guidance=guidance)
        found = found + step.kl(transition(latents, before, level, sigma_next=after, noise=noise))
        drawn = [torch.randn(latents.shape[1:], generator=source) for source in sources]
        latents = step.sample(torch.stack(drawn).to(latents.device))
    return found
