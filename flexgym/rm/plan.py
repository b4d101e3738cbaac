"""Plan a judge training: estimate its size and memory without loading weights onto a device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from flexgym.config.judge import JudgeModelSettings
from flexgym.core.units import GIB
from flexgym.data import DataReport
from flexgym.rm.processor import DTYPES, load_processor, make_trainable
from flexgym.rm.stage import S, Stage

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


def make_plan(settings: S, stage: Stage[S]) -> Plan:
    """Check data and model, and estimate the size of a training without reading weights.

    Args:
        settings: settings of the run.
        stage: stage that trains.

    Raises:
        DataError: if the data are not usable.
        CheckpointError: if there is no such checkpoint.
    """
    processor = load_processor(settings.judge.source)
    rows = stage.make_rows(settings, settings.data.files, processor=processor)
    held_out = settings.held_out.files
    parameters, trained = _count_parameters(settings.judge)
    shortest, median, longest = (int(value) for value in np.quantile(rows.lengths, (0.0, 0.5, 1.0)))
    return Plan(
        report=rows.report,
        tokens=(shortest, median, longest),
        steps_per_epoch=len(rows) // settings.training.batch_size,
        parameters=parameters,
        trained=trained,
        gib_per_learner=_bytes(settings, stage, parameters=parameters, trained=trained) / GIB,
        held_out=stage.make_rows(settings, held_out, processor=processor).report if held_out else None,
    )


def _bytes(settings: S, stage: Stage[S], *, parameters: int, trained: int) -> float:
    """Return the bytes of weights, gradients and optimizer state on one learner."""
    judge = settings.judge
    training = DTYPES[judge.trained_dtype].itemsize
    total = parameters * DTYPES[judge.dtype].itemsize + trained * training * _NUMBERS_TO_TRAIN
    if judge.mode == "lora":
        # The adapter in addition to the model, and TRL's frozen copy of it, which is the reference.
        total += trained * training * (2 if stage.needs_reference else 1)
    elif stage.needs_reference:
        total += parameters * DTYPES[judge.reference_dtype].itemsize
    if judge.shards:
        return total / settings.num_shards
    # Autocast caches its casts of trainable weights until the forward pass ends.
    casts = judge.autocasts and training > torch.bfloat16.itemsize
    return float(total + trained * torch.bfloat16.itemsize * casts)


def _count_parameters(judge: JudgeModelSettings) -> tuple[int, int]:
    """Count all parameters and the trainable ones, on the meta device."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(judge.source))
        total = sum(parameter.numel() for parameter in model.parameters())
        model = make_trainable(model, judge)
    return total, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
