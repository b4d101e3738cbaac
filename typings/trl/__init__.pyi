from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

class Accelerator:
    device: torch.device
    def prepare_model(self, model: Any, device_placement: bool | None = None, evaluation_mode: bool = False) -> Any: ...
    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor: ...

class _Config:
    place_model_on_device: bool
    def __init__(self, **options: Any) -> None: ...

class SFTConfig(_Config): ...
class DPOConfig(_Config): ...

class _Trainer:
    accelerator: Accelerator
    data_collator: Callable[[Sequence[Any]], dict[str, Tensor]]
    model: Any
    _metrics: Mapping[str, dict[str, list[float]]]
    _total_train_tokens: int
    def compute_loss(self, model: Any, inputs: dict[str, Any], **options: Any) -> Tensor: ...

class SFTTrainer(_Trainer):
    def __init__(
        self, model: Any, *, args: SFTConfig, train_dataset: Any, processing_class: Any, eval_dataset: Any = None
    ) -> None: ...

class DPOTrainer(_Trainer):
    def __init__(
        self, model: Any, *, ref_model: Any = None, args: DPOConfig, train_dataset: Any, processing_class: Any
    ) -> None: ...
