"""Judge training as a run executes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexgym.rllib.losses import reports_losses
from flexgym.rllib.trainable import RLlibTrainable
from flexgym.rm.algorithm import JudgeAlgorithm
from flexgym.rm.config import JudgeConfig
from flexgym.rm.saving import JUDGE
from flexgym.runs.loop import Measured


class JudgeTrainable(RLlibTrainable):
    """Trains a judge with the loss of TRL."""

    config: JudgeConfig
    algorithm: JudgeAlgorithm
    required = (*RLlibTrainable.required, JUDGE)

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__(config, title=type(config.stage).__name__)

    @reports_losses
    def measure(self, *, final: bool) -> Measured | None:
        """Evaluate the held-out rows before the first step, as a baseline for later evaluations."""
        metrics = {} if final else self.algorithm.evaluate_held_out()
        return Measured(metrics) if metrics else None

    @reports_losses
    def step(self) -> Measured:
        """Train for one iteration."""
        self.algorithm.train()
        return Measured(self.algorithm.row)

    @reports_losses
    def save(self, folder: Path) -> None:
        """Write the state of the algorithm, and the judge in the format of transformers or peft."""
        super().save(folder)
        self.algorithm.save_judge(folder / JUDGE)

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return nothing: the metrics of held-out rows are among those of the iterations."""
        return []
