"""Samples of held-out prompts, from seeds that follow from one number, and how much those of one prompt differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from flexgym.config import VerificationSettings
from flexgym.config.sections import EXTRA_SAMPLES
from flexgym.runs.diversity import mean_diversity
from flexgym.types import Prompt

MakeSamples = Callable[[Sequence[Prompt], Sequence[int]], NDArray[np.uint8]]
"""Makes one sample for each prompt from the seed of its first latents, uint8 ``[N, ...]``."""


def held_out_samples(prompts: Sequence[Prompt], seed: int, make: MakeSamples) -> NDArray[np.uint8]:
    """Make one sample of each held-out prompt, uint8 ``[N, ...]``.

    Args:
        prompts: N of them.
        seed: ``verification.seed``.
        make: makes them.
    """
    return make(prompts, _seeds(len(prompts), seed))


def held_out_diversity(
    prompts: Sequence[Prompt], samples: NDArray[np.uint8], chosen: VerificationSettings, *, make: MakeSamples
) -> float | None:
    """Return how much samples of one held-out prompt differ; None where no prompt is sampled more than once.

    Args:
        prompts: N of them.
        samples: one for each, made by `held_out_samples`.
        chosen: how many of the prompts are sampled again, and the seed.
        make: makes the further samples.
    """
    places = chosen.diverse_prompts(len(samples))
    if not places:
        return None
    again = [prompts[index] for index in places for _ in range(EXTRA_SAMPLES)]
    further = np.split(make(again, _seeds(len(again), chosen.seed, 1)), len(places))
    pairs = zip(places, further, strict=True)
    return mean_diversity([np.concatenate([samples[index : index + 1], more]) for index, more in pairs])


def _seeds(count: int, *entropy: int) -> list[int]:
    return [int(seed) for seed in np.random.SeedSequence(entropy).generate_state(count)]
