"""What trains in a generator, its state, and the policy before training."""

from __future__ import annotations

import copy
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from flexgym.core.errors import CheckpointError
from flexgym.generators.sampling import CONFIG_NAME
from flexgym.generators.weights import Weights

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Trainable:
    """Training of what predicts the velocity in a pipeline, by an adapter or in full.

    Args:
        pipe: the pipeline whose transformer trains.
    """

    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that get an adapter when the caller names none."""

    checkpoint_folder: Path | None = None
    """Where the pipeline was loaded from; None for one that was handed over."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe = pipe
        modules = {"" if module is self.transformer else part: module for part, module in self.denoisers().items()}
        self.weights = Weights(modules, lora_targets=self.lora_targets)

    @property
    def transformer(self) -> Any:
        """The diffusers module that predicts the velocity; where several do, the one that acts first."""
        return self.pipe.transformer

    @property
    def device(self) -> torch.device:
        """Where the transformer lives."""
        return next(self.transformer.parameters()).device

    def denoisers(self) -> dict[str, Any]:
        """All modules that predict the velocity, by their name in the pipeline; all of them train.

        Where there are several, one step uses one of them: the parameters of the others then have no gradient.
        """
        return {"transformer": self.transformer}

    def _save(self, target: Path, generation: Mapping[str, Any], whole: Mapping[str, Any]) -> Path:
        """Write to a hidden folder beside the target, then rename it."""
        if target.exists():
            raise CheckpointError(f"{target} exists already, and nothing saved is overwritten: choose another folder")
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        partial.mkdir(parents=True)
        if self.weights.mode == "lora":
            for part, module in self.denoisers().items():
                folder = partial if module is self.transformer else partial / part
                self._save_adapter(whole.get(part, module), folder)
        else:
            self._write_pipeline(partial, whole)
            (partial / CONFIG_NAME).write_text(json.dumps(dict(generation), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, target)
        return target

    def _write_pipeline(self, folder: Path, whole: Mapping[str, Any]) -> None:
        pipe = copy.copy(self.pipe)
        pipe.register_modules(**whole)
        pipe.save_pretrained(folder, safe_serialization=True)

    def _save_adapter(self, module: Any, folder: Path) -> None:
        from diffusers.loaders.lora_pipeline import HunyuanVideoLoraLoaderMixin
        from peft import get_peft_model_state_dict

        # the same format where a pipeline cannot write it; `transformer.load_lora_adapter` reads it there
        writer = self.pipe if hasattr(self.pipe, "save_lora_weights") else HunyuanVideoLoraLoaderMixin
        # without the metadata a reader would take the scale to be 1
        writer.save_lora_weights(
            folder,
            transformer_lora_layers=get_peft_model_state_dict(module),
            transformer_lora_adapter_metadata=module.peft_config["default"].to_dict(),
        )
