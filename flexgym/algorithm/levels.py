"""Noise levels at which finished samples are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flexgym.core.errors import ConfigError

Source = Literal["grid", "uniform", "logit_normal"]


@dataclass(frozen=True)
class LevelDraw:
    """How the noise levels of finished samples are drawn.

    Attributes:
        source: ``"grid"`` for the levels of the window on the sampler's grid, ``"uniform"`` between two levels, or
            ``"logit_normal"`` (Esser et al., arXiv 2403.03206), limited to these two.
        count: number of levels W of each sample; with ``"grid"`` it is the size of the window.
        low: lowest level.
        high: highest level.
        stratified: draw one level from each of W equal parts, which lowers the variance (arXiv 2604.23380).
        shared: give the samples of a group the same levels and noise (V-GRPO, arXiv 2604.23380; pairs of DPO).

    Raises:
        ConfigError: levels that are not in order within 0 and 1, or no count.
    """

    source: Source = "grid"
    count: int = 0
    low: float = 0.05
    high: float = 1.0
    stratified: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        if self.source != "grid" and self.count < 1:
            raise ConfigError(f"levels: expected a count of at least 1 with source {self.source!r}, got {self.count}")
        if not 0.0 < self.low < self.high <= 1.0:
            raise ConfigError(f"levels: expected 0 < low < high <= 1, got low={self.low} and high={self.high}")

    def sigmas(self, source: torch.Generator, group_size: int) -> Tensor:
        """Draw the levels of one group, not those of a grid.

        Args:
            source: of random numbers.
            group_size: number of samples G.

        Returns:
            float32 ``[W, G]``, in no order unless stratified.
        """
        shape = (self.count, 1 if self.shared else group_size)
        shares = torch.rand(shape, generator=source)
        if self.stratified:
            shares = (torch.arange(self.count).view(-1, 1) + shares) / self.count
        return self._quantile(shares).expand(self.count, group_size)

    def _quantile(self, shares: Tensor) -> Tensor:
        """Return the levels below which the given shares of all levels lie, so that strata are equally likely."""
        if self.source == "uniform":
            return self.low + (self.high - self.low) * shares
        ends = torch.tensor([self.low, min(self.high, 1.0 - 1e-6)])
        low, high = 0.5 * (1.0 + torch.erf(torch.logit(ends) / math.sqrt(2.0)))
        inside = (low + (high - low) * shares).clamp(1e-6, 1.0 - 1e-6)
        return torch.sigmoid(math.sqrt(2.0) * torch.erfinv(2.0 * inside - 1.0))
