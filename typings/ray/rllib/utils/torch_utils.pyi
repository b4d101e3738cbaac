from collections.abc import Hashable, Mapping

from torch import Tensor

def clip_gradients(
    gradients_dict: Mapping[Hashable, Tensor | None],
    *,
    grad_clip: float | None = None,
    grad_clip_by: str = "value",
) -> Tensor | None: ...
