import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

def get_device(config: AlgorithmConfig, num_gpus_requested: float = 1) -> torch.device: ...
