"""What a training would take, told before anything is loaded onto a device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText

from flexgym.rm.config import RewardModelConfig
from flexgym.rm.data import DataReport
from flexgym.rm.precision import DTYPES
from flexgym.rm.processor import load_processor

_GIB = 2**30
# A gradient, and the two numbers that AdamW keeps, for each that trains.
_NUMBERS_TO_TRAIN = 3


@dataclass(frozen=True)
class Plan:
    """The size of a training.

    Attributes:
        report: what was found in the data.
        tokens: lengths of the rows: shortest, median and longest.
        steps_per_epoch: optimiser steps of one pass.
        parameters: of the model.
        trained: those of them that train.
        gib_per_learner: weights, gradients and optimiser, without activations and parts that are put together.
        held_out: what was found in the rows that are never trained on, if there are any.
    """

    report: DataReport
    tokens: tuple[int, int, int]
    steps_per_epoch: int
    parameters: int
    trained: int
    gib_per_learner: float
    held_out: DataReport | None = None

    def lines(self) -> list[str]:
        """The plan in words, line by line."""
        shortest, median, longest = self.tokens
        held_out = [f"held out: {self.held_out.describe()}"] if self.held_out else []
        return [
            f"{self.report.describe()}; {shortest} to {longest} tokens a row, half of them below {median}",
            f"an epoch: {self.steps_per_epoch:,} optimiser steps",
            f"model: {self.parameters:,} parameters, {self.trained:,} of them train",
            f"memory of a learner: {self.gib_per_learner:.1f} GiB for weights, gradients and optimiser; activations"
            " come on top, and blocks put together where judge.sharding cuts the model",
            *held_out,
        ]


def make_plan(config: RewardModelConfig) -> Plan:
    """Check data and model, and size a training; no weights are read.

    Raises:
        ConfigError: settings that cannot work.
        DataError: data that cannot.
        CheckpointError: no such checkpoint.
    """
    config.validate()
    processor = load_processor(config.source)
    rows = config.make_rows(config.files, processor)
    held_out = config.make_rows(config.held_out_files, processor).report if config.held_out_files else None
    parameters, trained = _count_parameters(config)
    shortest, median, longest = (int(value) for value in np.quantile(rows.lengths, (0.0, 0.5, 1.0)))
    return Plan(
        report=rows.report,
        tokens=(shortest, median, longest),
        steps_per_epoch=len(rows) // config.batch_size,
        parameters=parameters,
        trained=trained,
        gib_per_learner=_bytes(config, parameters, trained) / _GIB,
        held_out=held_out,
    )


def _bytes(config: RewardModelConfig, parameters: int, trained: int) -> float:
    """Of weights, gradients and optimiser on one learner."""
    training = config.trained_dtype.itemsize
    total = parameters * DTYPES[config.dtype].itemsize + trained * training * _NUMBERS_TO_TRAIN
    if config.mode == "lora":
        # The adapter beside the model, and the frozen copy of it that TRL compares with.
        total += trained * training * (2 if config.needs_reference else 1)
    elif config.needs_reference:
        total += parameters * DTYPES[config.reference_dtype].itemsize
    if config.shards:
        return total / config.num_learners
    # Autocast keeps what it has cast of the weights that train until the forward ends.
    casts = config.autocasts and training > torch.bfloat16.itemsize
    return float(total + trained * torch.bfloat16.itemsize * casts)


def _count_parameters(config: RewardModelConfig) -> tuple[int, int]:
    """Of the model, and of what trains, on a device without memory."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(config.source))
        total = sum(parameter.numel() for parameter in model.parameters())
        if config.mode == "lora":
            model = get_peft_model(model.requires_grad_(False), LoraConfig(task_type="CAUSAL_LM", **config.lora))
        elif not config.train_vision:
            model.model.visual.requires_grad_(False)
    return total, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
