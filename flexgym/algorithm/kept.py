"""The tensors of finished groups that training keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.flow import Window
from flexgym.types import Prompt, SampleGroup


@dataclass(frozen=True, eq=False)
class Rollout:
    """P finished groups and, for the trained steps of the window, what the policy did.

    Attributes:
        prompts: P of them.
        samples: uint8 ``[P, G, H, W, 3]`` or ``[P, G, F, H, W, 3]``.
        window: the W trained steps.
        kept: tensors ``[W, P, G, ...]`` in host memory, see `flexgym.algorithm.process.Process.keeps`.
        seeds: P seeds, one of each group, from which noise for training is drawn.
        seconds: wall time of the denoising steps and decoding.
    """

    prompts: tuple[Prompt, ...]
    samples: NDArray[np.uint8]
    window: Window
    kept: Mapping[str, Tensor]
    seeds: tuple[int, ...]
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def group_size(self) -> int:
        """Samples G of a group."""
        return self.samples.shape[1]

    @property
    def groups(self) -> list[SampleGroup]:
        """The finished groups as a reward takes them."""
        return [SampleGroup(prompt, samples) for prompt, samples in zip(self.prompts, self.samples, strict=True)]

    def select(self, rows: slice) -> Rollout:
        """Return some of the groups."""
        kept = {name: tensor[:, rows] for name, tensor in self.kept.items()}
        return replace(self, prompts=self.prompts[rows], samples=self.samples[rows], kept=kept, seeds=self.seeds[rows])

    def select_samples(self, columns: slice) -> Rollout:
        """Return some of the samples of every group."""
        kept = {name: tensor[:, :, columns] for name, tensor in self.kept.items()}
        return replace(self, samples=self.samples[:, columns], kept=kept)

    def split(self, size: int) -> list[Rollout]:
        """Cut into rollouts of ``size`` groups each; the last may have fewer."""
        return [self.select(slice(start, start + size)) for start in range(0, len(self), size)]


def concatenate(rollouts: Sequence[Rollout]) -> Rollout:
    """Join the groups of several rollouts of the same window, in order.

    Raises:
        ConfigError: rollouts of different windows.
    """
    if len({rollout.window for rollout in rollouts}) != 1:
        raise ConfigError(f"expected rollouts of one window, got {[rollout.window for rollout in rollouts]}")
    names = rollouts[0].kept
    return replace(
        rollouts[0],
        prompts=tuple(prompt for rollout in rollouts for prompt in rollout.prompts),
        samples=np.concatenate([rollout.samples for rollout in rollouts]),
        kept={name: torch.cat([rollout.kept[name] for rollout in rollouts], 1) for name in names},
        seeds=tuple(seed for rollout in rollouts for seed in rollout.seeds),
        seconds=max(rollout.seconds for rollout in rollouts),
    )
