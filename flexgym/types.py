"""The data that passes between the stages: one frozen dataclass each.

Dimension suffixes used in names and docstrings all over FlexGym: P prompts, G group, T denoising steps, W trained
steps of the window, F frames, C H W channels, height, width, B any batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prompt:
    """What a group is generated for.

    Attributes:
        text: the caption as the generator reads it.
        metadata: anything a reward may want beside it (JSON values), such as the category of a benchmark.
    """

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleGroup:
    """The finished samples of one prompt.

    Attributes:
        prompt: what they were generated for.
        samples: uint8 ``[G, H, W, 3]`` for images, ``[G, F, H, W, 3]`` for videos.
    """

    prompt: Prompt
    samples: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class GroupScores:
    """What a reward says about one group.

    Attributes:
        rewards: float32 ``[G]``; NaN where a sample could not be scored.
        terms: the named parts behind it, each float32 ``[G]``, NaN where unscored.
        weights: weight of each term in the advantage when terms are normalised one by one (they sum to 1);
            empty when the advantage is taken from ``rewards`` alone.
        failures: number of failed judgements by kind, such as ``{"unparsable": 2}``.
        assessments: what a judge wrote, one per judged pair; empty for pointwise rewards.
    """

    rewards: NDArray[np.float32]
    terms: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    assessments: tuple[Any, ...] = ()

    @property
    def mean(self) -> float:
        """Mean of the valid rewards; NaN when no sample was scored."""
        valid = self.rewards[~np.isnan(self.rewards)]
        return float(valid.mean()) if len(valid) else float("nan")
