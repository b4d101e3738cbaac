"""Stage two of UnifiedReward-Flex (arXiv 2602.02380): DPO on pairs of reasoning traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from flexgym.rm.algorithm import RewardModelAlgorithm
from flexgym.rm.config import RewardModelConfig
from flexgym.rm.data import DPORow
from flexgym.rm.rows import RowForm, TrainingRows, dpo_example, open_rows


class RewardDPOConfig(RewardModelConfig):
    """Settings of `RewardDPO`; ``training.trainer`` takes ``beta`` and ``loss_type`` (sigmoid, hinge, ipo, ...)."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or RewardDPO)
        self.lr = 2.5e-6

    @property
    def needs_reference(self) -> bool:
        """See `RewardModelConfig.needs_reference`."""
        return True

    def make_rows(self, files: Sequence[str], processor: Any) -> TrainingRows:
        """See `RewardModelConfig.make_rows`."""
        return open_rows(files, self, RowForm(DPORow, dpo_example), processor=processor)

    def figure_weight(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        """See `RewardModelConfig.figure_weight`; most are means over rows, some over tokens of one reply or of both."""
        tokens = batch["completion_mask"][:, 1:]
        chosen, rejected = (part.sum() for part in tokens.chunk(2))
        rows = torch.tensor(len(tokens) // 2)
        over_tokens = {
            "entropy": chosen + rejected,
            "mean_token_accuracy": chosen,
            "logits/chosen": chosen,
            "logits/rejected": rejected,
        }
        return over_tokens.get(name, rows)

    def make_trainer(self, model: Any, processor: Any, sample: Any, *, reference: Any = None) -> DPOTrainer:
        """See `RewardModelConfig.make_trainer`; without a second model, the adapter switched off is the reference."""
        # A fresh adapter changes nothing, so the copy of it that TRL adds is the base model as well.
        arguments = _Arguments(**self.trl_arguments())
        return DPOTrainer(model, ref_model=reference, args=arguments, train_dataset=sample, processing_class=processor)


class _Arguments(DPOConfig):
    place_model_on_device = False  # the learner does


class RewardDPO(RewardModelAlgorithm):
    """Direct preference optimisation (arXiv 2305.18290) of a judge: which of two assessments is the better one."""

    @classmethod
    def get_default_config(cls) -> RewardDPOConfig:
        """The defaults."""
        return RewardDPOConfig()
