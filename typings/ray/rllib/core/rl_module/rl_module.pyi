from typing import Any

from gymnasium import Space
from ray.rllib.utils.checkpoints import Checkpointable

class RLModule(Checkpointable):
    framework: str | None
    model_config: Any
    def setup(self) -> None: ...
    def forward_train(self, batch: Any, **kwargs: Any) -> Any: ...
    def unwrapped(self) -> Any: ...

class MultiRLModule(RLModule):
    def __getitem__(self, key: str) -> Any: ...

class RLModuleSpec:
    module_class: type[RLModule] | None
    model_config: Any
    def __init__(
        self,
        *,
        module_class: type[RLModule] | None = None,
        observation_space: Space[Any] | None = None,
        action_space: Space[Any] | None = None,
        inference_only: bool = False,
        model_config: Any = None,
    ) -> None: ...
    def build(self) -> Any: ...
