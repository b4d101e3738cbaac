"""Stage one of UnifiedReward-Flex (arXiv 2602.02380): fine-tune on reasoning traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from trl import SFTConfig, SFTTrainer

from flexgym.rm.algorithm import RewardModelAlgorithm
from flexgym.rm.config import RewardModelConfig
from flexgym.rm.data import SFTRow
from flexgym.rm.rows import RowForm, TrainingRows, open_rows, sft_example


class RewardSFTConfig(RewardModelConfig):
    """Settings of `RewardSFT`; the learning rate is that of the paper."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or RewardSFT)
        self.lr = 2.5e-6

    def make_rows(self, files: Sequence[str], processor: Any) -> TrainingRows:
        """See `RewardModelConfig.make_rows`."""
        return open_rows(files, self, RowForm(SFTRow, sft_example), processor=processor)

    def figure_weight(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        """See `RewardModelConfig.figure_weight`; all are means over trained tokens."""
        return (batch["labels"][:, 1:] != -100).sum()

    def make_trainer(self, model: Any, processor: Any, sample: Any, *, reference: Any = None) -> SFTTrainer:
        """See `RewardModelConfig.make_trainer`; the loss is taken over the reply alone."""
        arguments = _Arguments(**self.trl_arguments(completion_only_loss=True))
        return SFTTrainer(model, args=arguments, train_dataset=sample, processing_class=processor)


class _Arguments(SFTConfig):
    place_model_on_device = False  # the learner does


class RewardSFT(RewardModelAlgorithm):
    """Supervised fine-tuning of a judge on assessments in the form of chat messages."""

    @classmethod
    def get_default_config(cls) -> RewardSFTConfig:
        """The defaults."""
        return RewardSFTConfig()
