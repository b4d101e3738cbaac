"""The data that passes between the stages: one frozen dataclass each.

Dimension suffixes used in names and docstrings all over FlexGym: P prompts, G group, T denoising steps, W trained
steps of the window, F frames, C H W channels, height, width, B any batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError
from flexgym.first_frame import FirstFrame


@dataclass(frozen=True)
class Prompt:
    """What a group is generated for.

    Attributes:
        text: the caption as the generator reads it.
        metadata: anything a reward may want beside it (JSON values), such as the category of a benchmark.
        first_frame: the picture that the video begins with, for generators from image to video; None for the others.
    """

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    first_frame: FirstFrame | None = None


@dataclass(frozen=True)
class SampleGroup:
    """The finished samples of one prompt.

    Attributes:
        prompt: what they were generated for.
        samples: uint8 ``[G, H, W, 3]`` for images, ``[G, F, H, W, 3]`` for videos.
        references: what the frozen reference policy makes of the same prompt and seeds, shaped like ``samples``; a
            judge's tournament then says how often each sample beats its reference. None without.
    """

    prompt: Prompt
    samples: NDArray[np.uint8]
    references: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if self.references is not None and self.references.shape != self.samples.shape:
            raise ConfigError(
                f"every sample needs one reference of its own size: expected references of shape {self.samples.shape},"
                f" got {self.references.shape}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def joined(self) -> SampleGroup:
        """The group in which references are samples like the others: sample i has the index i, its reference G + i."""
        if self.references is None:
            return self
        return SampleGroup(self.prompt, np.concatenate([self.samples, self.references]))


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
        pairs: int ``[M, 2]``, which samples each assessment is about, the one shown first in front; indices from G on
            are references, as in `SampleGroup.joined`. None for pointwise rewards.
        win_rate_vs_reference: float32 ``[G]``, share of the comparisons with its reference that a sample wins, NaN
            where none is valid. Unlike win rates within the group it rises with the policy. None without references.
    """

    rewards: NDArray[np.float32]
    terms: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    assessments: tuple[Any, ...] = ()
    pairs: NDArray[np.intp] | None = None
    win_rate_vs_reference: NDArray[np.float32] | None = None

    @property
    def mean(self) -> float:
        """The group in one number: mean win rate against the references where there are any, else mean reward.

        Only valid entries count; NaN when there is none.
        """
        values = self.rewards if self.win_rate_vs_reference is None else self.win_rate_vs_reference
        valid = values[~np.isnan(values)]
        return float(valid.mean()) if len(valid) else float("nan")


def stacked_term(scores: Sequence[GroupScores], name: str) -> NDArray[np.float32]:
    """One term of several groups.

    Args:
        scores: of P groups of the same size G.
        name: of the term.

    Returns:
        float32 ``[P, G]``; NaN for a group without the term, such as one that the reward failed on altogether.
    """
    return np.stack([group.terms.get(name, np.full_like(group.rewards, np.nan)) for group in scores])
