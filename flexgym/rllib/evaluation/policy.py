"""The generator of a run: as it was before training, then as a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from flexgym.algorithm.divergence import path_kl
from flexgym.algorithm.rollout import sample
from flexgym.config import AgentSettings
from flexgym.config.load import load_settings
from flexgym.core.errors import CheckpointError
from flexgym.environment import environment_modality
from flexgym.generators.weights import REFERENCE
from flexgym.rllib.module import arrange, load
from flexgym.rllib.process import shared_cores
from flexgym.rllib.trainable import AgentTrainable, verified_weights
from flexgym.runs.checkpoints import iteration_of, resolve_checkpoint
from flexgym.runs.manifest import read_manifest
from flexgym.runs.recipe import saved_recipe
from flexgym.types import Prompt


class RunPolicy:
    """Samples as a run does when it verifies, without Ray's processes.

    Args:
        settings: of the run.
        checkpoint: a complete checkpoint of it.

    Attributes:
        modality: ``"image"`` or ``"video"``.
        iteration: finished iterations of the checkpoint.
    """

    def __init__(self, settings: AgentSettings, checkpoint: Path) -> None:
        self.settings, self._checkpoint = settings, checkpoint
        self.modality = environment_modality(settings.environment.env)
        self.iteration = iteration_of(checkpoint)
        self._generator = arrange(load(settings.generator, self.modality), settings.generator)
        on_gpu = settings.resources.num_gpus_per_learner > 0 and torch.cuda.is_available()
        self._generator.placement.to("cuda" if on_gpu else "cpu")
        self._generator.weights.keep(REFERENCE)

    @classmethod
    def open(cls, run: str | Path) -> Self:
        """Load the generator of a run as it was before training.

        Args:
            run: a run folder, whose newest complete checkpoint is taken, or one checkpoint in it.

        Raises:
            CheckpointError: there is no complete checkpoint, or it is not that of an agent that trains a generator.
        """
        checkpoint = resolve_checkpoint(run)
        if read_manifest(checkpoint).lacks(AgentTrainable.required):
            raise CheckpointError(
                f"{checkpoint}: expected the run of an agent that trains a generator, such as agents.pref_grpo, got one"
                " of another program"
            )
        return cls(load_settings(AgentSettings, saved_recipe(run)), checkpoint)

    def take_trained(self) -> None:
        """Take the weights that the run verified at the checkpoint: the EMA where it keeps one.

        Raises:
            CheckpointError: they cannot be read, or belong to another generator.
        """
        averaged = bool(self.settings.training.ema_decay)
        self._generator.weights.load_state(verified_weights(self._checkpoint, averaged=averaged))

    def samples(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Make one sample for each prompt from the seed of its first latents, uint8 ``[N, ...]``.

        They are equal to those of the run to the bit, on the same machine with as many threads.
        """
        chosen = self.settings.verification
        make = partial(sample, self._generator, max_rows=chosen.rows_per_forward, sampler=chosen.sampler)
        guidance = self.settings.algorithm.guidance.verification
        with shared_cores():
            return make(prompts, seeds=seeds, guidance=guidance, trained_share=chosen.trained_share)

    def kl(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> float:
        """Estimate the KL divergence of sampling paths from those before training, in nats per dimension.

        Args:
            prompts: N of them.
            seeds: of their paths.
        """
        chosen, guidance = self.settings.verification, self.settings.algorithm.guidance.verification
        with shared_cores():
            return path_kl(self._generator, prompts, seeds=seeds, max_rows=chosen.rows_per_forward, guidance=guidance)
