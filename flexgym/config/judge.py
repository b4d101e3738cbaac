"""The settings of judge training: supervised fine-tuning and DPO of a vision-language model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from flexgym.config.sections import LearnerOptions, LearnerResources, RunSettings
from flexgym.config.trainers import DPOTrainerSettings, SFTTrainerSettings, TrainerSettings
from flexgym.config.training import Betas, LearningRate
from flexgym.core.problems import Problem, raise_problems
from flexgym.core.settings import Names, Settings

_EPSILONS = {"float32": 2.0**-23, "bfloat16": 2.0**-7}
"""Distance from 1 to the next larger number."""
_USUAL_WEIGHT = 0.02  # the spread that transformers draws weights with


class JudgeLoraSettings(Settings):
    """A low-rank adapter, by the names of peft's `LoraConfig`."""

    r: int = Field(default=64, ge=1, description="rank of the adapter")
    lora_alpha: float = Field(default=128, gt=0, description="its scale is lora_alpha / r")
    target_modules: str | Names = Field(
        default="all-linear", description="layers by name or regular expression, or all-linear"
    )
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the adapter")
    bias: Literal["none", "all", "lora_only"] = Field(default="none", description="biases that train as well")
    use_rslora: bool = Field(default=False, description="scale by lora_alpha / sqrt(r)")
    use_dora: bool = Field(default=False, description="train magnitude and direction apart (DoRA)")
    modules_to_save: Names | None = Field(
        default=None, description="layers that train and are saved unsharded by an adapter"
    )


class JudgeModelSettings(Settings):
    """The model and what of it trains."""

    source: str = Field(min_length=1, description="checkpoint folder or hub id")
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="precision of the weights; an adapter is always float32"
    )
    compute_dtype: Literal["bfloat16", "float32"] | None = Field(
        default=None, description="precision of the arithmetic, bfloat16 under autocast; that of the weights by default"
    )
    mode: Literal["lora", "full"] = Field(default="lora", description="train an adapter or all weights")
    lora: JudgeLoraSettings = JudgeLoraSettings()
    train_vision: bool = Field(default=True, description="train the vision tower as well, with mode full")
    sharding: Literal["none", "fsdp"] = Field(
        default="none", description="unsharded on each learner, or sharded over the learners by FSDP"
    )

    @property
    def shards(self) -> bool:
        """Return whether the model is sharded over the learners."""
        return self.sharding == "fsdp"

    @property
    def autocasts(self) -> bool:
        """Return whether forward and backward compute in bfloat16 under autocast."""
        return self.compute_dtype == "bfloat16"

    @property
    def trained_dtype(self) -> Literal["bfloat16", "float32"]:
        """Return the precision of the trained weights, their gradients and the optimizer; float32 for adapters."""
        return "float32" if self.mode == "lora" else self.dtype

    @property
    def reference_dtype(self) -> Literal["bfloat16", "float32"]:
        """Return the precision of a second, frozen model: that in which the trained model reads its own weights."""
        return self.compute_dtype or self.dtype if self.shards else self.dtype


class DataSettings(Settings):
    """Settings of the training rows: files, row lengths and the allowed share of bad rows."""

    files: Names = Field(description="JSON Lines or Parquet files")
    max_length: int | None = Field(
        default=None,
        ge=1,
        description="tokens of a row, images included; longer rows count as bad; the model's context if null",
    )
    max_bad_share: float = Field(default=0.01, ge=0, le=1, description="largest share of bad rows to train with")
    root: str | None = Field(
        default=None, min_length=1, description="folder of all images; that of the data file if null"
    )
    image_format: Literal["jpeg", "png"] | None = Field(
        default=None,
        description="encode images once more before they train, which png does without loss; by judge_config.json if"
        " null, or not at all",
    )
    image_quality: int | None = Field(
        default=None, ge=1, le=95, description="quality of JPEG; by judge_config.json if null, or 95"
    )
    max_side: int | None = Field(
        default=None,
        ge=1,
        description="reduce images to this length of their longer side; by judge_config.json if null, or not at all",
    )

    @field_validator("files")
    @classmethod
    def _check_files(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        if not files:
            raise ValueError('expected JSON Lines or Parquet files, such as "data.files=[rows.jsonl]", got none')
        return files


class HeldOutSettings(Settings):
    """Rows that are never trained on; TRL's loss and metrics on them are logged under ``eval/``."""

    files: Names = Field(default=(), description="JSON Lines or Parquet files")
    interval: int = Field(default=1, ge=1, description="iterations between two measurements")
    max_rows: int | None = Field(
        default=None, ge=1, description="rows, drawn once and the same in every run; null for all"
    )


class JudgeUpdateSettings(Settings):
    """The update of the judge's weights."""

    lr: LearningRate = Field(default=2.5e-6, description="learning rate, or points of a schedule by rows seen")
    grad_clip: float | None = Field(default=1.0, gt=0, description="largest norm of the gradient; null for no limit")
    batch_size: int = Field(default=128, ge=1, description="rows of one optimizer step, over all learners")
    micro_batch_size: int = Field(default=1, ge=1, description="rows of one forward pass")
    steps_per_iteration: int = Field(default=10, ge=1, description="optimizer steps of an iteration")
    gradient_checkpointing: bool = Field(
        default=True, description="recompute blocks in the backward pass to save memory"
    )
    betas: Betas = Field(default=(0.9, 0.999), description="betas of AdamW")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of AdamW")
    trainer: TrainerSettings = TrainerSettings()


class SFTUpdateSettings(JudgeUpdateSettings):
    """The update of the judge's weights by supervised fine-tuning."""

    trainer: SFTTrainerSettings = SFTTrainerSettings()


class DPOUpdateSettings(JudgeUpdateSettings):
    """The update of the judge's weights by DPO."""

    trainer: DPOTrainerSettings = DPOTrainerSettings()


class JudgeTrainingSettings(Settings):
    """A recipe of judge training, section by section; `SFTSettings` and `DPOSettings` add the options of their loss."""

    run: RunSettings = RunSettings()
    judge: JudgeModelSettings = Field(description="The model and what of it trains.")
    data: DataSettings = Field(description="The training rows.")
    held_out: HeldOutSettings = HeldOutSettings()
    training: JudgeUpdateSettings = JudgeUpdateSettings()
    resources: LearnerResources = LearnerResources()
    rllib: LearnerOptions = LearnerOptions()

    @model_validator(mode="after")
    def _check(self) -> Self:
        raise_problems(judge_problems(self))
        return self

    @property
    def num_shards(self) -> int:
        """Return the number of learners that share the rows of a batch."""
        return max(1, self.resources.num_learners)


class SFTSettings(JudgeTrainingSettings):
    """A recipe of supervised fine-tuning on reasoning traces."""

    training: SFTUpdateSettings = SFTUpdateSettings()


class DPOSettings(JudgeTrainingSettings):
    """A recipe of direct preference optimization (arXiv 2305.18290) on pairs of traces."""

    training: DPOUpdateSettings = DPOUpdateSettings()


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
