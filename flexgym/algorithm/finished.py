"""The base of the algorithms that train finished samples under fresh noise."""

from __future__ import annotations

from typing import TypeVar

from flexgym.algorithm.base import Algorithm
from flexgym.algorithm.process import ForwardProcess
from flexgym.algorithm.settings import AlgorithmSettings, LevelSettings


class FinishedSettings(AlgorithmSettings):
    """Settings of the algorithms on finished samples."""

    levels: LevelSettings = LevelSettings()


F = TypeVar("F", bound=FinishedSettings)


class FinishedAlgorithm(Algorithm[F]):
    """Base of the algorithms on finished samples; a subclass computes the loss, and chooses its own default levels."""

    @property
    def process(self) -> ForwardProcess:
        """Fresh noise on finished samples, at the levels of the settings."""
        return ForwardProcess(draw=self.settings.levels.draw)
