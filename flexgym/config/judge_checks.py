"""Combinations of settings of judge training that cannot work, each of which is valid on its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flexgym.core.problems import Problem

if TYPE_CHECKING:
    from flexgym.config.judge import JudgeTrainingSettings

_EPSILONS = {"float32": 2.0**-23, "bfloat16": 2.0**-7}
"""Distance from 1 to the next larger number."""
_USUAL_WEIGHT = 0.02  # the spread that transformers draws weights with


def judge_problems(settings: JudgeTrainingSettings) -> Iterator[Problem]:
    """Yield what cannot work together in the settings of judge training."""
    judge, training, learners = settings.judge, settings.training, settings.num_shards
    if judge.compute_dtype == "float32" and judge.dtype != "float32":
        yield Problem(
            ("judge", "compute_dtype"),
            f"expected no finer arithmetic than that of the weights, judge.dtype={judge.dtype}, got float32; set"
            " judge.dtype=float32",
        )
    if judge.shards and learners < 2:
        yield Problem(
            ("resources", "num_learners"),
            "judge.sharding=fsdp shards the model over learners: expected num_learners of at least 2, got"
            f" {settings.resources.num_learners}; judge.sharding=none leaves it unsharded",
        )
    if training.batch_size % (learners * training.micro_batch_size):
        yield Problem(
            ("training", "batch_size"),
            f"expected a multiple of learners times training.micro_batch_size, {learners} *"
            f" {training.micro_batch_size}, got {training.batch_size}",
        )
    yield from _file_problems(settings)
    yield from _step_problems(settings)


def _file_problems(settings: JudgeTrainingSettings) -> Iterator[Problem]:
    trained = {Path(file).resolve() for file in settings.data.files}
    for file in settings.held_out.files:
        if Path(file).resolve() in trained:
            yield Problem(("held_out", "files"), f"expected files that data.files does not name, got {file} in both")


def _step_problems(settings: JudgeTrainingSettings) -> Iterator[Problem]:
    """Yield a learning rate whose steps would leave most weights as they are.

    A step of Adam is about as long as the rate, whatever the gradient. Added to a number, it is lost below half of the
    distance to the next one, and it is lost again in every later step.
    """
    rate, dtype = settings.training.lr, settings.judge.trained_dtype
    highest = max(value for _, value in rate) if isinstance(rate, tuple) else rate
    lost = _USUAL_WEIGHT * _EPSILONS[dtype] / 2
    if 0 < highest < lost:
        yield Problem(
            ("training", "lr"),
            f"expected at least {lost:.1e} where weights train in {dtype}, which steps of {highest:.1e} leave as they"
            " are; raise it, keep the weights in float32 with judge.dtype=float32 judge.compute_dtype=bfloat16, or"
            " train an adapter with judge.mode=lora",
        )
