"""The settings of reward-model training, as fluent methods of an RLlib config."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.options import check_count
from flexgym.core.sharding import SHARDINGS
from flexgym.rm.module import JudgeModule
from flexgym.rm.precision import DTYPES, check_precision, check_steps
from flexgym.rm.processor import context_length, load_model
from flexgym.rm.rows import TrainingRows

MODES = ("lora", "full")


class RewardModelConfig(AlgorithmConfig):
    """What a model, its data and its training need to know.

    The sections `judge`, `data` and `held_out` are FlexGym's own; `training`, `learners`, `debugging` and the others
    are RLlib's.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.source = ""
        self.dtype = "bfloat16"
        self.compute_dtype: str | None = None
        self.mode = "lora"
        self.lora: dict[str, Any] = {"r": 64, "lora_alpha": 128, "target_modules": "all-linear"}
        self.train_vision = True
        self.sharding = "none"
        self.files: tuple[str, ...] = ()
        self.max_length: int | None = None
        self.max_bad_share = 0.01
        self.root: str | None = None
        self.held_out_files: tuple[str, ...] = ()
        self.held_out_interval = 1
        self.held_out_max_rows: int | None = None
        self.batch_size, self.micro_batch_size = 128, 1
        self.steps_per_iteration = 10
        self.gradient_checkpointing = True
        self.betas = (0.9, 0.999)
        self.weight_decay = 0.0
        self.trainer: dict[str, Any] = {}
        self.grad_clip, self.grad_clip_by, self.seed = 1.0, "global_norm", 0
        # Data comes from files, not from an environment; RLlib wants spaces all the same.
        self._is_online = False
        self.observation_space: gym.Space = gym.spaces.Discrete(1)
        self.action_space: gym.Space = gym.spaces.Discrete(1)

    # --- sections ----------------------------------------------------------------------------------------------------

    def judge(
        self,
        *,
        source: str = NotProvided,
        dtype: str = NotProvided,
        compute_dtype: str | None = NotProvided,
        mode: str = NotProvided,
        lora: Mapping[str, Any] = NotProvided,
        train_vision: bool = NotProvided,
        sharding: str = NotProvided,
    ) -> Self:
        """The model and what of it trains.

        Args:
            source: a checkpoint folder or a hub id.
            dtype: of the weights, ``"bfloat16"`` or ``"float32"``; of their gradients and the optimiser, too, when they
                train. An adapter is always float32.
            compute_dtype: of the arithmetic. ``"bfloat16"`` is TRL's mixed precision: forward and backward under
                autocast, and parts of a model that is cut are put together in it. None is the dtype of the weights.
            mode: ``"lora"`` or ``"full"``.
            lora: arguments of peft's `LoraConfig`.
            train_vision: whether full training moves the vision tower, too.
            sharding: ``"none"`` gives each learner the whole model, ``"fsdp"`` a part of every parameter, gradient and
                optimiser state, for a model that one device cannot hold.
        """
        return self._set(
            source=source,
            dtype=dtype,
            compute_dtype=compute_dtype,
            mode=mode,
            lora=lora,
            train_vision=train_vision,
            sharding=sharding,
        )

    def data(
        self,
        *,
        files: Sequence[str] = NotProvided,
        max_length: int | None = NotProvided,
        max_bad_share: float = NotProvided,
        root: str | None = NotProvided,
    ) -> Self:
        """The rows.

        Args:
            files: JSON Lines or Parquet.
            max_length: tokens of a row, pictures included; longer rows are bad ones, never cut. None is the context of
                the model.
            max_bad_share: above this share of bad rows nothing is trained.
            root: folder that all pictures lie in, when it is not that of the data file.
        """
        return self._set(files=files, max_length=max_length, max_bad_share=max_bad_share, root=root)

    def held_out(
        self,
        *,
        files: Sequence[str] = NotProvided,
        interval: int = NotProvided,
        max_rows: int | None = NotProvided,
    ) -> Self:
        """Rows that are never trained on; TRL's loss and figures on them stand under ``eval/`` in the metrics.

        Args:
            files: JSON Lines or Parquet; what `data` says of length, bad rows and pictures holds for them, too.
            interval: iterations between two measurements; a run is measured before its first step as well.
            max_rows: so many of the rows, drawn once and the same ones in every run; None takes all.
        """
        return self._set(held_out_files=files, held_out_interval=interval, held_out_max_rows=max_rows)

    def training(
        self,
        *,
        batch_size: int = NotProvided,
        micro_batch_size: int = NotProvided,
        steps_per_iteration: int = NotProvided,
        gradient_checkpointing: bool = NotProvided,
        betas: tuple[float, float] = NotProvided,
        weight_decay: float = NotProvided,
        trainer: Mapping[str, Any] = NotProvided,
        **rllib: Any,
    ) -> Self:
        """The update.

        Args:
            batch_size: rows of one optimiser step, over all learners.
            micro_batch_size: rows of one forward.
            steps_per_iteration: optimiser steps between two reports.
            gradient_checkpointing: trade time for memory.
            betas: of AdamW.
            weight_decay: of AdamW.
            trainer: further options of TRL's config, such as ``beta`` or ``loss_type`` of DPO.
            **rllib: such as ``lr`` (a number, or ``[[rows, rate], ...]``) and ``grad_clip``.
        """
        super().training(**rllib)
        return self._set(
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            steps_per_iteration=steps_per_iteration,
            gradient_checkpointing=gradient_checkpointing,
            betas=betas,
            weight_decay=weight_decay,
            trainer=trainer,
        )

    @property
    def shards(self) -> bool:
        """Whether a learner holds a part of the model only."""
        return self.sharding == "fsdp"

    @property
    def autocasts(self) -> bool:
        """Whether forward and backward compute in half precision whatever the weights are kept in."""
        return self.compute_dtype == "bfloat16"

    @property
    def trained_dtype(self) -> torch.dtype:
        """Of the weights that train, of their gradients and of the optimiser; peft keeps adapters in float32."""
        return torch.float32 if self.mode == "lora" else DTYPES[self.dtype]

    @property
    def reference_dtype(self) -> str:
        """Of the second model's weights: as the trained model reads its own, or its margins would not start at zero.

        A model that is cut is put together in the dtype of the arithmetic, so that finer parts would be of no use.
        """
        return self.compute_dtype or self.dtype if self.shards else self.dtype

    @property
    def needs_reference(self) -> bool:
        """Whether full training keeps a second model to compare with."""
        return False

    # --- what the pieces are made of ---------------------------------------------------------------------------------

    @abstractmethod
    def make_rows(self, files: Sequence[str], processor: Any) -> TrainingRows:
        """The rows of some files in TRL's form.

        Args:
            files: JSON Lines or Parquet.
            processor: of the model.
        """

    @abstractmethod
    def figure_weight(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Over how many rows or tokens of a collated batch one of TRL's figures is the mean, a scalar.

        Args:
            name: of the figure, such as ``loss`` or ``rewards/margins``.
            batch: collated.
        """

    def make_reference(self) -> Any:
        """Load a frozen second model to compare with; None where none is needed."""
        # Not a copy in `Weights`: TRL changes its reference for good (no dropout, autocast, a fused output layer) and
        # runs it between forward and backward of the model that trains; sharded, it has another precision as well.
        wanted = self.mode == "full" and self.needs_reference
        return load_model(self.source, self.reference_dtype) if wanted else None

    @abstractmethod
    def make_trainer(self, model: Any, processor: Any, sample: Any, *, reference: Any = None) -> Any:
        """TRL's trainer around a model, for its checks, its collator and its loss.

        Args:
            model: that trains; with an adapter, or whole.
            processor: of the model.
            sample: a dataset of one row, which TRL looks at.
            reference: of `make_reference`.
        """

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row that is trained."""
        return self.max_length or context_length(self.source)

    @property
    def media_root(self) -> Path | None:
        """The folder that all pictures must lie in; that of the data file when None."""
        return None if self.root is None else Path(self.root).resolve()

    def trl_arguments(self, **more: Any) -> dict[str, Any]:
        """The part of TRL's config that both trainers share."""
        return {
            "output_dir": str(Path(tempfile.gettempdir()) / "flexgym-trl"),  # where nothing is written
            "per_device_train_batch_size": self.micro_batch_size,
            "gradient_checkpointing": self.gradient_checkpointing,
            "bf16": self.autocasts,
            "use_cpu": not torch.cuda.is_available(),
            "max_length": None,
            "report_to": [],
            "seed": self.seed or 0,
            **self.trainer,
            **more,
        }

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The module of the model."""
        model_config = {
            "source": self.source,
            "dtype": self.dtype,
            "mode": self.mode,
            "lora": dict(self.lora),
            "train_vision": self.train_vision,
        }
        return RLModuleSpec(
            module_class=JudgeModule,
            observation_space=self.observation_space,
            action_space=self.action_space,
            model_config=model_config,
        )

    def get_default_learner_class(self) -> type:
        """The learner that holds a TRL trainer."""
        from flexgym.rm.learner import RewardModelLearner

        return RewardModelLearner

    def validate(self) -> None:
        """Refuse settings that cannot work, before anything is loaded.

        Raises:
            ConfigError: naming the setting, what was expected and what came.
            UnknownNameError: no such dtype, mode or sharding.
        """
        if not self.source:
            raise ConfigError("judge.source: expected a checkpoint folder or a hub id, got none")
        if not self.files:
            raise ConfigError('data.files: expected JSON Lines or Parquet, such as "data.files=[rows.jsonl]", got none')
        check_precision(dtype=self.dtype, compute_dtype=self.compute_dtype, trainer=self.trainer)
        if self.mode not in MODES:
            raise unknown_name("mode", self.mode, MODES)
        self._check_held_out()
        if self.sharding not in SHARDINGS:
            raise unknown_name("sharding", self.sharding, SHARDINGS)
        learners = max(1, self.num_learners)
        if self.shards and learners == 1:
            raise ConfigError(
                f"judge.sharding=fsdp cuts the model over learners: expected learners.num_learners of at least 2, got"
                f" {self.num_learners}; judge.sharding=none leaves it whole"
            )
        if self.batch_size % (learners * self.micro_batch_size):
            raise ConfigError(
                "training.batch_size must be a multiple of learners times training.micro_batch_size,"
                f" {learners} * {self.micro_batch_size}, got {self.batch_size}"
            )
        super().validate()
        check_steps(self.lr, self.trained_dtype)

    def check_devices(self) -> None:
        """Refuse to train where there is no GPU for a learner in this process.

        Raises:
            ConfigError: there is none.
        """
        if self.num_gpus_per_learner and not self.num_learners and not torch.cuda.is_available():
            raise ConfigError(
                f"learners.num_gpus_per_learner={self.num_gpus_per_learner}, and this machine has no GPU: set it to 0"
                " to train on the CPU, or learners.num_learners for GPUs of a cluster"
            )

    def _check_held_out(self) -> None:
        check_count("held_out.interval", self.held_out_interval)
        if self.held_out_max_rows is not None:
            check_count("held_out.max_rows", self.held_out_max_rows)
        trained = {Path(file).resolve() for file in self.files}
        for file in self.held_out_files:
            if Path(file).resolve() in trained:
                raise ConfigError(f"held_out.files: expected files that data.files does not name, got {file} in both")

    def _set(self, **values: Any) -> Self:
        for name, value in values.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self
