"""The stages of judge training: for each, the form of its rows and the TRL trainer that computes its loss."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from trl import DPOTrainer, SFTTrainer

from flexgym.config import JudgeTrainingSettings
from flexgym.data import BadRows, ReadOptions
from flexgym.rm.processor import context_length, load_model
from flexgym.rm.rows import RowForm, RowMeter, TrainingRows, open_rows, trained_inputs

S = TypeVar("S", bound=JudgeTrainingSettings)
Trainer = SFTTrainer | DPOTrainer


class Stage(ABC, Generic[S]):
    """Base of the stages, whose methods take the settings of a run.

    Attributes:
        form: schema and conversion of the rows.
        needs_reference: True if full training compares with a frozen second model.
    """

    form: ClassVar[RowForm]
    needs_reference: ClassVar[bool] = False

    def make_rows(self, settings: S, files: Sequence[str], *, processor: Any) -> TrainingRows:
        """Open the rows of some files, with the limits of section ``data``.

        Args:
            settings: settings of the run.
            files: JSON Lines or Parquet files.
            processor: processor of the model.

        Raises:
            DataError: a file is missing, too many rows are bad, or no row is good.
        """
        data = settings.data
        options = ReadOptions(
            root=None if data.root is None else Path(data.root).resolve(),
            bad=BadRows(max_share=data.max_bad_share, min_rows=settings.training.batch_size),
        )
        longest = data.max_length or context_length(settings.judge.source)
        meter = RowMeter(processor, longest, trained_inputs(data, settings.judge.source))
        return open_rows(files, self.form, meter=meter, options=options)

    def load_reference(self, settings: S) -> Any:
        """Load the frozen model to compare with; return None if the stage or its adapter needs none."""
        # Not a copy in `Weights`: TRL changes its reference for good (no dropout, autocast, a fused output layer) and
        # runs it between forward and backward of the trained model; sharded, it has another precision as well.
        judge = settings.judge
        wanted = judge.mode == "full" and self.needs_reference
        return load_model(judge.source, judge.reference_dtype) if wanted else None

    @abstractmethod
    def figure_weight(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the number of rows or tokens that one of TRL's metrics is the mean over, a scalar.

        Args:
            name: name of the metric, such as ``loss`` or ``rewards/margins``.
            batch: collated batch that it was computed on.
        """

    @abstractmethod
    def make_trainer(self, settings: S, model: Any, *, processor: Any, sample: Any, reference: Any = None) -> Trainer:
        """Make TRL's trainer around a model, for its checks, its collator and its loss.

        Args:
            settings: settings of the run.
            model: model to train, with an adapter or without.
            processor: processor of the model.
            sample: data set of one row, which TRL inspects.
            reference: result of `load_reference`.
        """


def trl_arguments(settings: JudgeTrainingSettings) -> dict[str, Any]:
    """Return the arguments of TRL's config that follow from the settings, for either trainer."""
    training = settings.training
    return {
        "output_dir": str(Path(tempfile.gettempdir()) / "flexgym-trl"),  # nothing is written there
        "per_device_train_batch_size": training.micro_batch_size,
        "gradient_checkpointing": training.gradient_checkpointing,
        "bf16": settings.judge.autocasts,
        "use_cpu": not torch.cuda.is_available(),
        "max_length": None,
        "report_to": [],
        "seed": settings.run.seed,
        **training.trainer.model_dump(mode="json"),
    }
