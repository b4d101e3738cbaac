import torch
from ray.rllib.core.learner.learner import Learner

class TorchLearner(Learner):
    _grad_scalers: dict[str, torch.amp.GradScaler] | None
