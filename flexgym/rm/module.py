"""A vision-language judge as an RLlib module, whose state holds what trains and nothing that is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from flexgym.core.sharding import copies
from flexgym.generators.weights import Weights
from flexgym.rm.processor import load_model, load_processor


class JudgeModule(TorchRLModule):
    """Model that `RewardSFT` and `RewardDPO` train.

    ``model_config`` holds ``source``, ``dtype``, ``mode`` (``"lora"`` or ``"full"``), ``lora`` (arguments of peft's
    `LoraConfig`) and ``train_vision``.
    """

    framework = "torch"

    def setup(self) -> None:
        """Load the checkpoint and select what trains."""
        config = self.model_config
        model = load_model(config["source"], config["dtype"])
        model.config.use_cache = False
        if config["mode"] == "lora":
            model.requires_grad_(False)
            adapter = LoraConfig(task_type="CAUSAL_LM", **config["lora"])
            # In float32, whatever the frozen weights are: small steps would be lost in bfloat16.
            model = get_peft_model(model, adapter, autocast_adapter_dtype=True)
        elif not config["train_vision"]:
            model.model.visual.requires_grad_(False)
        self.model = model
        self.weights = Weights({"model": model}, mode=config["mode"])
        # not a submodule: a processor holds no weights
        object.__setattr__(self, "processor", load_processor(config["source"]))

    def _forward_train(self, batch: Mapping[str, Any], **kwargs: Any) -> Any:
        """Return the model's own output, so that TRL's losses can be computed through DDP."""
        return self.model(**batch)

    def saved_weights(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Return what belongs in a checkpoint folder, by the model's names: an adapter alone, or all weights.

        Args:
            keep: whether this learner wants them; every learner must call it where the model is sharded.
        """
        weights = self.model.state_dict(keep_vars=True)
        if isinstance(self.model, PeftModel):
            weights = {name: weight for name, weight in weights.items() if weight.requires_grad}
        return copies(weights.items(), keep=keep)

    def get_state(self, *args: Any, inference_only: bool = False, **kwargs: Any) -> dict[str, Tensor]:
        """Return copies on the CPU of what trains.

        Args:
            *args: of RLlib.
            inference_only: nothing then: there are no env runners, for which RLlib asks so when an algorithm is built.
            **kwargs: of RLlib.

        Raises:
            CheckpointError: the model is sharded, and its parts were not gathered.
        """
        if inference_only:
            return {}
        return self.weights.state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `get_state` back.

        Raises:
            CheckpointError: when it is not of this model.
        """
        self.weights.load_state(state)
