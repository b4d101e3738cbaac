"""Stage two of UnifiedReward-Flex (arXiv 2602.02380): DPO on pairs of reasoning traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from flexgym.config import DPOSettings
from flexgym.data import DPORow
from flexgym.rm.rows import RowForm, dpo_example
from flexgym.rm.stage import Stage, trl_arguments


class DPO(Stage[DPOSettings]):
    """Direct preference optimization (arXiv 2305.18290) of a judge on pairs of a better and a worse assessment."""

    form = RowForm(DPORow, dpo_example)
    needs_reference = True

    def figure_weight(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the number of rows, or of tokens of one reply or both for metrics that are means over tokens."""
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

    def make_trainer(
        self, settings: DPOSettings, model: Any, *, processor: Any, sample: Any, reference: Any = None
    ) -> DPOTrainer:
        """Make TRL's trainer; without a second model, the reference is the base model, see `Stage.make_trainer`."""
        # TRL adds a frozen copy of a fresh adapter, which computes what the base model computes.
        arguments = _Arguments(**trl_arguments(settings))
        return DPOTrainer(model, ref_model=reference, args=arguments, train_dataset=sample, processing_class=processor)


class _Arguments(DPOConfig):
    place_model_on_device = False  # the learner does
