"""Muon in float32, for training the small checkpoints on a CPU.

`torch.optim.Muon` orthogonalizes in bfloat16, which costs more than the model itself on processors without bfloat16
arithmetic; here matrices of one shape are orthogonalized together, in float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return the nearest semi-orthogonal matrices, by the quintic Newton-Schulz iteration (Jordan et al., 2024).

    Args:
        matrices: ``[B, rows, columns]``.
        steps: iterations; after five all singular values lie near 1.
    """
    flat = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = flat / (flat.flatten(1).norm(dim=1) + 1e-7)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if flat is not matrices else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalized, scaled to the root mean square of an AdamW update."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                updates = orthogonalize(torch.stack([self._momentum(p, group["momentum"]) for p in parameters]))
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_add_(tuple(parameters), updates.unbind(), alpha=-rate)

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        buffer = state.setdefault("momentum", torch.zeros_like(parameter))
        buffer.lerp_(gradient, 1.0 - momentum)
        return gradient.lerp(buffer, momentum)


def muon_and_adamw(module: nn.Module, learning_rate: float, *, inside: tuple[str, ...]) -> list[torch.optim.Optimizer]:
    """Make Muon for the matrices in the blocks of a transformer, and AdamW at half the rate for everything else.

    Args:
        module: what is trained.
        learning_rate: of Muon.
        inside: names of the lists of blocks.
    """
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        in_block = not set(inside).isdisjoint(name.split("."))
        (hidden if in_block and parameter.ndim == 2 and "norm" not in name else rest).append(parameter)
    return [Muon(hidden, learning_rate), torch.optim.AdamW(rest, learning_rate / 2, weight_decay=0.0)]
