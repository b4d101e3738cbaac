"""The trainable weights of a model and named copies of them: reference, EMA and lagging policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flexgym.core.errors import CheckpointError, ConfigError, GeneratorError, check_names, unknown_name
from flexgym.core.pickling import recomputed
from flexgym.core.sharding import check_gathered, copies, is_sharded, local_part, part_like
from flexgym.generators.adapters import (
    Adapter,
    check_same,
    check_targets,
    config_of,
    expressed,
    merge_adapter,
    merged_values,
    new_config,
    switch_adapter,
)

CURRENT = "current"
"""The weights that train."""
REFERENCE = "reference"
"""The weights before training: with a new adapter the adapter switched off, otherwise a copy."""
DEFAULT_RANK = 32
"""Rank of a new adapter by default."""


@dataclass
class _Copy:
    """A named copy of the weights.

    Attributes:
        values: by parameter name.
        on_host: kept in host memory.
        fixed: not changed by training, so that it belongs to no checkpoint.
    """

    values: dict[str, Tensor]
    on_host: bool = False
    fixed: bool = False


class Weights:
    """The trainable parameters of some modules, and named copies of them.

    Inside ``with weights.using(name)`` the modules compute with that copy, in LoRA or full training, sharded or not.

    Args:
        modules: the modules by the prefix of their parameters' names; ``""`` adds no prefix.
        mode: ``"frozen"``, ``"lora"`` or ``"full"``: the parameters that are trainable already.
        lora_targets: layers that `add_lora` adapts when its caller names none.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], *, mode: str = "frozen", lora_targets: Sequence[str] = ()
    ) -> None:
        self.mode = mode
        self._modules: Mapping[str, Any] = dict(modules)
        self._lora_targets = tuple(lora_targets)
        self._copies: dict[str, _Copy] = {}
        self._active = CURRENT
        self._gathered: tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]] | None = None
        self._below: dict[str, list[Adapter]] = {}

    def add_lora(
        self,
        rank: int | None = None,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Train a new low-rank adapter (arXiv 2106.09685) on the frozen modules of a diffusers pipeline.

        The adapter starts at zero, so the output is unchanged to the bit. It is kept in float32.

        Args:
            rank: rank of the adapter, at least 1; 32 by default.
            alpha: the adapter is scaled by ``alpha / rank``; None is twice the rank, as in Flow-GRPO.
            targets: ends of the names of layers, such as ``"to_q"``; None takes the defaults of the model.
            seed: seed of the adapter's initial weights.

        Raises:
            UnknownNameError: a target matches no layer; the message lists the layers that exist.
            ConfigError: the rank is below 1.
            GeneratorError: something trains already.
        """
        rank = DEFAULT_RANK if rank is None else rank
        if rank < 1:
            raise ConfigError(f"the rank of an adapter must be at least 1, got {rank}")
        chosen = list(self._lora_targets if targets is None else targets)
        for module in self._modules.values():
            check_targets(module, chosen)
        self._start("lora")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self._modules.values():
                module.add_adapter(new_config(rank, alpha, chosen))
        for parameter in self.trained().values():
            parameter.data = parameter.data.float()

    def continue_lora(
        self,
        adapters: Mapping[str, Adapter],
        *,
        rank: int | None = None,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
    ) -> None:
        """Train adapters that exist already. The reference is the policy with them, a copy of their values.

        Args:
            adapters: for each module by its prefix.
            rank: None, or the rank that they have.
            alpha: None, or the alpha that they have.
            targets: None, or ends of the names of the layers that they have.

        Raises:
            ConfigError: they differ from what is asked for.
            GeneratorError: something trains already.
        """
        for prefix, module in self._modules.items():
            check_same(adapters[prefix], module, rank=rank, alpha=alpha, targets=targets)
        self._start("lora")
        values: dict[str, Tensor] = {}
        for prefix, module in self._modules.items():
            module.add_adapter(config_of(adapters[prefix], module))
            values |= {_qualified(prefix, name): each for name, each in adapters[prefix].parameters().items()}
        for parameter in self.trained().values():
            parameter.data = parameter.data.float()
        self.load_state(values)
        self._copies[REFERENCE] = _Copy(
            {name: _duplicate(value, host=False) for name, value in self.trained().items()}, fixed=True
        )

    def merge(self, adapters: Mapping[str, Sequence[Adapter]]) -> None:
        """Add adapters to the weights of the frozen modules, so that everything trains on top of them.

        Args:
            adapters: for modules by their prefixes.

        Raises:
            GeneratorError: something trains already.
        """
        self._check_frozen()
        for prefix, found in adapters.items():
            for adapter in found:
                merge_adapter(self._modules[prefix], adapter)
        self.note_merged(adapters)

    def note_merged(self, adapters: Mapping[str, Sequence[Adapter]]) -> None:
        """Note adapters that are part of the weights already, so that `merged` returns them."""
        for prefix, found in adapters.items():
            self._below.setdefault(prefix, []).extend(found)

    def merged(self, prefix: str) -> Sequence[Adapter]:
        """Return the adapters that were merged into a module; one that is saved must contain them."""
        return tuple(self._below.get(prefix, ()))

    def train_full(self) -> None:
        """Train every parameter of the modules. Call ``keep("reference")`` next where a reference is needed.

        Raises:
            GeneratorError: something trains already.
        """
        self._start("full")
        for module in self._modules.values():
            module.requires_grad_(True)

    def _start(self, mode: str) -> None:
        self._check_frozen()
        self.mode = mode

    def _check_frozen(self) -> None:
        if self.mode != "frozen":
            raise GeneratorError(f"expected a frozen generator, got mode {self.mode!r}: load a fresh one")

    def checkpoint_gradients(self) -> None:
        """Keep only the inputs of each block for the backward pass and recompute the block (arXiv 1604.06174).

        It costs about one more forward and changes neither outputs nor gradients.

        Raises:
            GeneratorError: a module does not support it.
        """
        for module in self._modules.values():
            if not getattr(module, "_supports_gradient_checkpointing", False):
                raise GeneratorError(
                    f"expected a model that supports gradient checkpointing, got a {type(module).__name__}, which"
                    " cannot recompute its blocks: leave out gradient_checkpointing"
                )
            module.enable_gradient_checkpointing(recomputed)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that train by name, in a fixed order; empty while frozen."""
        return {
            _qualified(prefix, name): value
            for prefix, module in self._modules.items()
            for name, value in module.named_parameters()
            if value.requires_grad
        }

    # --- copies ------------------------------------------------------------------------------------------------------

    def keep(self, name: str, *, host: bool = False) -> None:
        """Start a named copy at the current weights, replacing one of that name.

        With LoRA the reference needs no other copy, and ``keep("reference")`` does nothing.

        Args:
            name: name of the copy, such as ``"reference"``, ``"ema"`` or ``"old"``.
            host: keep it in host memory; a sharded copy stays beside its parts.

        Raises:
            ConfigError: the name is ``"current"``.
            GeneratorError: called inside `using`.
        """
        self._check_name(name)
        if name == REFERENCE and self.mode != "full":
            return
        values = {key: _duplicate(value, host=host) for key, value in self.trained().items()}
        self._copies[name] = _Copy(values, on_host=host, fixed=name == REFERENCE)

    def keep_adapter(self, name: str, adapters: Mapping[str, Adapter]) -> None:
        """Keep a named copy with which the modules compute what they do frozen, with other adapters.

        Training never changes it, so it belongs to no checkpoint.

        Args:
            name: name of the copy.
            adapters: for each module by its prefix.

        Raises:
            ConfigError: the adapter that trains has fewer layers or a lower rank; sharded weights that train in full;
                an adapter was merged below, or the name is ``"current"``.
            GeneratorError: the weights are frozen, or it is called inside `using`.
        """
        self._check_name(name)
        if self.mode == "frozen":
            raise GeneratorError("expected parameters that train, whose values a copy has: call add_lora first")
        if any(self._below.values()) or self.mode == "full" and any(map(is_sharded, self.trained().values())):
            raise ConfigError(
                f"the adapter {name!r}: expected the unmerged and unsharded weights that it belongs to, got others: set"
                " generator.mode=lora, and leave out generator.adapter_as=merge"
            )
        express = expressed if self.mode == "lora" else merged_values
        values = {
            _qualified(prefix, key): value
            for prefix, module in self._modules.items()
            for key, value in express(module, adapters[prefix]).items()
        }
        kept = {key: part_like(values[key].to(each.device, each.dtype), each) for key, each in self.trained().items()}
        self._copies[name] = _Copy(kept, fixed=True)

    @torch.no_grad()
    def update(self, name: str, decay: float) -> None:
        """Move a copy toward the current weights: ``decay * copy + (1 - decay) * current``.

        Args:
            name: name of the copy.
            decay: from 0 (take the current weights) to 1 (leave the copy as it is).

        Raises:
            UnknownNameError: there is no such copy.
            GeneratorError: called inside `using`.
        """
        self._check_unswapped()
        check_names("copy of the weights", [name], self._copies)
        kept = self._copies[name].values
        for key, value in self.trained().items():
            target, current = local_part(kept[key]), local_part(value.detach())
            if decay:
                target.lerp_(current.to(target.device), 1.0 - decay)
            else:
                target.copy_(current)

    @property
    def kept(self) -> dict[str, dict[str, Tensor]]:
        """The values of every copy, by the names of the copies and of the parameters."""
        return {name: kept.values for name, kept in self._copies.items()}

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Compute with a named copy inside this context. Contexts nest; the innermost counts.

        ``"current"`` are the weights that train. ``"reference"`` are those before training, to the bit: a new adapter
        is switched off (its parameters then count as frozen), for one that was there before and for full training a
        copy is swapped in.

        Args:
            name: ``"current"``, ``"reference"`` or the name of a copy.

        Raises:
            UnknownNameError: there is no such copy.
            GeneratorError: the reference of full training was not kept.
        """
        before = self._active
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, name: str) -> None:
        """Leave the copy in use and take another."""
        self._find(name)
        if name != self._active:
            self._swap(self._active)
            self._active = CURRENT
            self._swap(name)
            self._active = name

    def _swap(self, name: str) -> None:
        """Swap a copy with the current weights, or back: it is the same exchange."""
        if name == REFERENCE and self.mode == "lora" and REFERENCE not in self._copies:
            for module in self._modules.values():
                switch_adapter(module, on=self._active == REFERENCE)
        elif (kept := self._find(name)) is not None:
            _exchange(self.trained(), kept)

    def _find(self, name: str) -> _Copy | None:
        """Return a copy by name; None where the weights in the modules need no exchange."""
        if name in self._copies:
            return self._copies[name]
        if name == CURRENT or name == REFERENCE and self.mode != "full":
            return None
        if name == REFERENCE:
            raise GeneratorError(
                'full training kept no reference: call weights.keep("reference") before training, or use add_lora'
            )
        raise unknown_name("copy of the weights", name, [CURRENT, REFERENCE, *self._copies])

    def _check_name(self, name: str) -> None:
        if name == CURRENT:
            raise ConfigError("'current' are the weights that train: choose another name for a copy, such as 'old'")
        self._check_unswapped()

    def _check_unswapped(self) -> None:
        if self._active != CURRENT:
            raise GeneratorError(
                f"expected the current weights in use, got the copy {self._active!r}: leave `with"
                f" weights.using({self._active!r})` first"
            )

    # --- state -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return copies on the CPU of the weights in use that train, by name.

        Raises:
            CheckpointError: the weights are sharded and were not gathered.
        """
        if self._gathered is not None:
            return self._gathered[0]
        check_gathered(self.trained().values())
        return copies(self.trained().items())

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `state` back in place; of unsharded values a sharded model takes its part.

        Args:
            state: tensors or arrays by name.

        Raises:
            CheckpointError: names or shapes are not those of the trainable parameters; nothing is changed then.
            GeneratorError: called inside `using`.
        """
        self._check_unswapped()
        values = {name: torch.as_tensor(value) for name, value in state.items()}
        for name, value in self._fitting(values, "the state").items():
            value.copy_(part_like(values[name], value))

    def copies_state(self) -> dict[str, dict[str, Tensor]]:
        """Return copies on the CPU of the named copies that training changes, by copy and by parameter name.

        Raises:
            CheckpointError: the weights are sharded and were not gathered.
        """
        if self._gathered is not None:
            return self._gathered[1]
        for kept in self._changing().values():
            check_gathered(kept.values())
        return {name: copies(kept.items()) for name, kept in self._changing().items()}

    @torch.no_grad()
    def load_copies_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Put a state of `copies_state` back in place.

        Args:
            state: tensors or arrays by copy and by parameter name; every copy was kept before.

        Raises:
            UnknownNameError: a copy was not kept.
            CheckpointError: names or shapes are not those of the trainable parameters; that copy is unchanged then.
            GeneratorError: called inside `using`.
        """
        self._check_unswapped()
        check_names("copy of the weights", state, self._changing())
        for name, kept in state.items():
            values = {key: torch.as_tensor(value) for key, value in kept.items()}
            own = self._copies[name].values
            for key in self._fitting(values, f"the copy {name!r}"):
                own[key].copy_(part_like(values[key], own[key]))

    def gather(self, *, keep: bool = True) -> None:
        """Assemble the states of sharded weights; every process must call it.

        Until `release`, `state` and `copies_state` return what was gathered.

        Args:
            keep: this process wants the states; otherwise they are empty here.
        """
        current = copies(self.trained().items(), keep=keep)
        self._gathered = current, {name: copies(kept.items(), keep=keep) for name, kept in self._changing().items()}

    def release(self) -> None:
        """Drop what `gather` assembled."""
        self._gathered = None

    def shard(self, part: Callable[[Tensor, Tensor], Tensor] = part_like) -> None:
        """Keep this process's part of every copy, once the modules are sharded.

        Args:
            part: takes an unsharded value and its parameter, and returns the part that belongs to it.
        """
        trained = self.trained()
        for kept in self._copies.values():
            kept.values = {name: part(value, trained[name]) for name, value in kept.values.items()}

    def _changing(self) -> dict[str, dict[str, Tensor]]:
        return {name: kept.values for name, kept in self._copies.items() if not kept.fixed}

    def _fitting(self, values: Mapping[str, Tensor], what: str) -> dict[str, nn.Parameter]:
        """Return the parameters that train, after checking that values have their names and shapes."""
        trained = self.trained()
        differing = sorted(set(values) ^ set(trained))
        if differing:
            where = what if differing[0] in trained else "this model"
            raise CheckpointError(
                f"{what} does not fit: {len(differing)} names differ; {differing[0]!r} is missing from {where}"
                f" (expected {len(trained)} parameters of mode {self.mode!r}, got {len(values)})"
            )
        for name, value in trained.items():
            if values[name].shape != value.shape:
                raise CheckpointError(
                    f"{what} does not fit: {name} must have shape {tuple(value.shape)}, got {tuple(values[name].shape)}"
                )
        return trained


def _qualified(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _duplicate(value: Tensor, *, host: bool) -> Tensor:
    """Copy a parameter; the part of a sharded one stays on its device."""
    value = value.detach()
    return value.to("cpu", copy=True) if host and not is_sharded(value) else value.clone()


@torch.no_grad()
def _exchange(parameters: Mapping[str, nn.Parameter], kept: _Copy) -> None:
    """Swap the values of parameters with those of a copy."""
    for name, parameter in parameters.items():
        value = kept.values[name]
        if not (kept.on_host or is_sharded(parameter) or value.device != parameter.device):
            parameter.data, kept.values[name] = value, parameter.data
            continue
        # FSDP owns the memory of a part, and other devices have memory of their own: the values move.
        # `.data` keeps a backward pass valid whose forward ran before; the values are back by then.
        mine, other = local_part(parameter).data, local_part(value)
        before = mine.to(other.device, copy=True)
        mine.copy_(other)
        other.copy_(before)
