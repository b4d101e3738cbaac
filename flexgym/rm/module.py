"""A vision-language judge as an RLlib module: what trains is its state, the frozen rest rides along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from flexgym.errors import CheckpointError
from flexgym.rm.processor import load_model, load_processor


class JudgeModule(TorchRLModule):
    """The model that `RewardSFT` and `RewardDPO` train.

    ``model_config`` holds ``source``, ``dtype``, ``mode`` (``"lora"`` or ``"full"``), ``lora`` (arguments of peft's
    `LoraConfig`) and ``train_vision``.
    """

    framework = "torch"

    def setup(self) -> None:
        """Load the checkpoint and say what trains."""
        config = self.model_config
        model = load_model(config["source"], config["dtype"])
        model.config.use_cache = False
        if config["mode"] == "lora":
            model.requires_grad_(False)
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config["lora"]))
        elif not config["train_vision"]:
            model.model.visual.requires_grad_(False)
        self.model = model
        # not a submodule: a processor holds no weights
        object.__setattr__(self, "processor", load_processor(config["source"]))

    def _forward_train(self, batch: Mapping[str, Any], **kwargs: Any) -> Any:
        """The model's own output, so that TRL's losses can be computed through DDP."""
        return self.model(**batch)

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """What trains, as copies on the CPU."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `get_state` back.

        Raises:
            CheckpointError: when it is not of this model.
        """
        own = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())[:3]
            raise CheckpointError(f"the checkpoint is of another model or adapter: they differ in {odd}")
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(torch.as_tensor(value))
