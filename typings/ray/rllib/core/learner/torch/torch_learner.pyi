import torch
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.rl_module import MultiRLModule

class TorchLearner(Learner):
    _grad_scalers: dict[str, torch.amp.GradScaler] | None
    def _make_modules_ddp_if_necessary(self) -> None: ...
    def _map_module_to_device(self, module: MultiRLModule) -> None: ...
