"""Plan a judge training: estimate its size and memory without loading weights onto a device."""

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
# For each trainable parameter: a gradient and the two moments of AdamW.
_NUMBERS_TO_TRAIN = 3


@dataclass(frozen=True)
class Plan:
    """Size of a judge training.

    Attributes:
        report: counts of good and bad rows in the data.
        tokens: shortest, median and longest row, in tokens.
        steps_per_epoch: number of optimizer steps per pass over the data.
        parameters: number of parameters of the model.
        trained: number of trainable parameters.
        gib_per_learner: memory for weights, gradients and optimizer state in GiB, without activations and gathered
            shards.
        held_out: counts of good and bad rows in the held-out data, if there is any.
    """

    report: DataReport
    tokens: tuple[int, int, int]
    steps_per_epoch: int
    parameters: int
    trained: int
    gib_per_learner: float
    held_out: DataReport | None = None

    def lines(self) -> list[str]:
        """Return the plan as human-readable lines."""
        shortest, median, longest = self.tokens
        held_out = [f"held out: {self.held_out.describe()}"] if self.held_out else []
        return [
            f"{self.report.describe()}; {shortest} to {longest} tokens per row, median {median}",
            f"an epoch: {self.steps_per_epoch:,} optimizer steps",
            f"model: {self.parameters:,} parameters, {self.trained:,} of them trainable",
            f"memory per learner: {self.gib_per_learner:.1f} GiB for weights, gradients and optimizer state, plus"
            " activations, and gathered blocks if judge.sharding shards the model",
            *held_out,
        ]


def make_plan(config: RewardModelConfig) -> Plan:
    """Check data and model, and estimate the size of a training without reading weights.

    Raises:
        ConfigError: if a setting is not valid.
        DataError: if the data are not usable.
        CheckpointError: if there is no such checkpoint.
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
    """Return the bytes of weights, gradients and optimizer state on one learner."""
    training = config.trained_dtype.itemsize
    total = parameters * DTYPES[config.dtype].itemsize + trained * training * _NUMBERS_TO_TRAIN
    if config.mode == "lora":
        # The adapter in addition to the model, and TRL's frozen copy of it, which is the reference.
        total += trained * training * (2 if config.needs_reference else 1)
    elif config.needs_reference:
        total += parameters * DTYPES[config.reference_dtype].itemsize
    if config.shards:
        return total / config.num_learners
        # Autocast caches its casts of trainable weights until the forward pass ends.
    casts = config.autocasts and training > torch.bfloat16.itemsize
    return float(total + trained * torch.bfloat16.itemsize * casts)


def _count_parameters(config: RewardModelConfig) -> tuple[int, int]:
    """Count all parameters and the trainable ones, on the meta device."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(config.source))
        total = sum(parameter.numel() for parameter in model.parameters())
        if config.mode == "lora":
            model = get_peft_model(model.requires_grad_(False), LoraConfig(task_type="CAUSAL_LM", **config.lora))
        elif not config.train_vision:
            model.model.visual.requires_grad_(False)
    return total, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
