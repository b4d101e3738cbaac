"""A vision-language judge as an RLlib module whose state holds the trainable parameters alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PeftModel
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from flexgym.config.judge import JudgeModelSettings
from flexgym.core.sharding import copies
from flexgym.generators.weights import Weights
from flexgym.rm.processor import load_model, load_processor, make_trainable


class JudgeModule(TorchRLModule):
    """Model that judge training trains.

    ``model_config`` holds ``judge``, the `JudgeModelSettings` of the run.

    Attributes:
        model: model of transformers, or a peft model around it.
        weights: its trainable parameters.
        processor: its tokenizer and image processor.
    """

    framework = "torch"
    processor: Any

    def setup(self) -> None:
        """Load the checkpoint and select the trainable parameters."""
        judge: JudgeModelSettings = self.model_config["judge"]
        model = load_model(judge.source, judge.dtype)
        model.config.use_cache = False
        self.model = make_trainable(model, judge)
        self.weights = Weights({"model": self.model}, mode=judge.mode)
        # Not registered as a submodule: a processor holds no weights.
        object.__setattr__(self, "processor", load_processor(judge.source))

    def _forward_train(self, batch: Mapping[str, Any], **kwargs: Any) -> Any:
        """Return the model's own output, so that TRL's losses can be computed through DDP."""
        return self.model(**batch)

    def saved_weights(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Return the content of a checkpoint folder, by the model's names: the adapter alone, or all weights.

        If the model is sharded, every learner must call this.

        Args:
            keep: True on learners that need the weights; the result is empty on the others.
        """
        weights = self.model.state_dict(keep_vars=True)
        if isinstance(self.model, PeftModel):
            weights = {name: weight for name, weight in weights.items() if weight.requires_grad}
        return copies(weights.items(), keep=keep)

    def get_state(self, *args: Any, inference_only: bool = False, **kwargs: Any) -> dict[str, Tensor]:
        """Return copies of the trainable parameters on the CPU.

        Args:
            *args: arguments of RLlib, not used.
            inference_only: return nothing; RLlib sets it for env runners, and there are none.
            **kwargs: arguments of RLlib, not used.

        Raises:
            CheckpointError: the model is sharded, and its shards were not gathered.
        """
        if inference_only:
            return {}
        return self.weights.state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `get_state`.

        Raises:
            CheckpointError: the state belongs to another model.
        """
        self.weights.load_state(state)
