"""Stage one of UnifiedReward-Flex (arXiv 2602.02380): fine-tune on reasoning traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from trl import SFTConfig, SFTTrainer

from flexgym.config import SFTSettings
from flexgym.data import SFTRow
from flexgym.rm.rows import RowForm, sft_example
from flexgym.rm.stage import Stage, trl_arguments


class SFT(Stage[SFTSettings]):
    """Supervised fine-tuning of a judge on assessments in the form of chat messages."""

    form = RowForm(SFTRow, sft_example)

    def figure_weight(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the number of trained tokens, which all metrics are means over."""
        return (batch["labels"][:, 1:] != -100).sum()

    def make_trainer(
        self, settings: SFTSettings, model: Any, *, processor: Any, sample: Any, reference: Any = None
    ) -> SFTTrainer:
        """Make TRL's trainer, whose loss is computed over the reply alone, see `Stage.make_trainer`."""
        arguments = _Arguments(**trl_arguments(settings), completion_only_loss=True)
        return SFTTrainer(model, args=arguments, train_dataset=sample, processing_class=processor)


class _Arguments(SFTConfig):
    place_model_on_device = False  # the learner does
