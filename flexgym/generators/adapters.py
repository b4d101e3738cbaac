"""Low-rank adapters: their target layers, their values, switching them off, and merging them into the weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flexgym.core.errors import ConfigError, GeneratorError, unknown_name

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "default"
"""Name of the adapter that trains, among those of peft."""
_OF_PEFT = "merge_and_unload"
"""Method that only models of peft have."""
_BASE, _OF_ADAPTER = ".base_layer", re.compile(r"\.lora_[AB]\.")
"""End of the name of a layer that has adapters, and part of the names of these."""
_ADAPTABLE = (nn.Linear, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Adapter:
    """Values of a low-rank adapter of one module: a layer adds ``alpha / rank * up @ down`` to its weight.

    Attributes:
        down: by the names of the layers, ``[rank, in]``, of a convolution ``[rank, in, ...]``.
        up: by the names of the layers, ``[out, rank]``, of a convolution ``[out, rank, 1, ...]``.
        alpha: by the names of the layers.
    """

    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    alpha: Mapping[str, float]

    @property
    def rank(self) -> dict[str, int]:
        """Ranks by the names of the layers."""
        return {layer: len(down) for layer, down in self.down.items()}

    def parameters(self) -> dict[str, Tensor]:
        """Return the values by the names that the parameters have in a model of diffusers with the adapter."""
        parts = (("A", self.down), ("B", self.up))
        return {f"{layer}.lora_{part}.{ADAPTER}.weight": value for part, kept in parts for layer, value in kept.items()}


# --- targets ---------------------------------------------------------------------------------------------------------


def adaptable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a model that an adapter may have, by name; those of adapters themselves do not count."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, _ADAPTABLE)}
    return {name.removesuffix(_BASE): module for name, module in found.items() if not _OF_ADAPTER.search(name)}


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Reject adapter targets that match no layer.

    Args:
        model: the model to adapt.
        targets: ends of the names of layers.

    Raises:
        UnknownNameError: for the first target without a layer; the message lists the layers that exist.
        ConfigError: without any target.
    """
    if not targets:
        raise ConfigError("an adapter needs at least one target, such as 'to_q'")
    names = adaptable_layers(model)
    for target in targets:
        if not _matching(names, [target]):
            raise unknown_name("adapter target", target, {_ending(name) for name in names})


def _matching(layers: Iterable[str], targets: Collection[str]) -> set[str]:
    """Return the layers that peft adapts for a list of targets."""
    return {name for name in layers if any(name == target or name.endswith(f".{target}") for target in targets)}


def _ending(name: str) -> str:
    """Return the last part of a layer's name, with the one before it when it is a number: ``to_out.0``."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def new_config(rank: int, alpha: float | None, targets: Sequence[str]) -> LoraConfig:
    """Return peft's description of an adapter with one rank; arguments as for `Weights.add_lora`."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=list(targets), init_lora_weights="gaussian")


def config_of(adapter: Adapter, model: nn.Module) -> LoraConfig:
    """Return peft's description of an adapter of a model, in which every layer has its own rank and scale."""
    from peft import LoraConfig

    ranks = adapter.rank
    rank, alpha = _usual(ranks.values()), _usual(adapter.alpha.values())
    endings = sorted({_ending(layer) for layer in ranks})
    is_exact = _matching(adaptable_layers(model), endings) == ranks.keys()
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        # a text must match the complete name, an item of a list its end
        target_modules=endings if is_exact else "|".join(re.escape(layer) for layer in sorted(ranks)),
        rank_pattern={f"^{layer}": own for layer, own in ranks.items() if own != rank},
        alpha_pattern={f"^{layer}": own for layer, own in adapter.alpha.items() if own != alpha},
        init_lora_weights="gaussian",
    )


def _usual(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def check_same(
    adapter: Adapter, model: nn.Module, *, rank: int | None, alpha: float | None, targets: Sequence[str] | None
) -> None:
    """Reject settings of a new adapter that differ from the adapter that it starts from.

    Args:
        adapter: the adapter to start from.
        model: the model that it belongs to.
        rank: rank that was asked for; None for that of the adapter.
        alpha: the same for the scale.
        targets: the same for the layers.

    Raises:
        ConfigError: naming the setting and the value of the adapter.
    """
    for name, wanted, own in (("rank", rank, adapter.rank), ("alpha", alpha, adapter.alpha)):
        found = sorted(set(own.values()))
        if wanted is not None and found != [wanted]:
            raise ConfigError(
                f"the adapter to start from has {name} {', '.join(map(str, found))}, got {name}={wanted}: leave out"
                f" lora.{name}, or merge the adapter below a new one with adapter_as=merge"
            )
    differing = set() if targets is None else _matching(adaptable_layers(model), targets) ^ adapter.down.keys()
    if differing:
        raise ConfigError(
            f"the adapter to start from has other layers than lora.targets={list(targets or ())} selects, such as"
            f" {sorted(differing)[0]}: leave out lora.targets, or merge the adapter below a new one with"
            " adapter_as=merge"
        )


# --- switching -------------------------------------------------------------------------------------------------------


def switch_adapter(model: Any, *, on: bool) -> None:
    """Switch the adapter of a model on or off; switched off, its parameters count as frozen.

    Args:
        model: of diffusers with an adapter added, or of peft.
        on: switch it on.
    """
    if hasattr(model, "base_model") and hasattr(model.base_model, "disable_adapter_layers"):
        (model.base_model.enable_adapter_layers if on else model.base_model.disable_adapter_layers)()
    else:
        (model.enable_adapters if on else model.disable_adapters)()


# --- merging ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def merge_adapter(model: nn.Module, adapter: Adapter) -> None:
    """Add what an adapter adds to the weights of its layers, computed in float32 and rounded once.

    Args:
        model: the model, changed in place.
        adapter: an adapter of it.
    """
    for layer, down in adapter.down.items():
        weight: Any = model.get_submodule(layer).weight
        if weight.is_meta:
            continue
        product = adapter.up[layer].float().flatten(1) @ down.float().flatten(1)
        added = product.view(weight.shape) * (adapter.alpha[layer] / len(down))
        weight.data = (weight.data.float() + added.to(weight.device)).to(weight.dtype)


@torch.no_grad()
def merged_values(model: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """Return copies of a model's parameters with an adapter merged; the model stays as it is."""
    before = {name: parameter.data for name, parameter in model.named_parameters()}
    try:
        merge_adapter(model, adapter)
        return {name: parameter.data.clone() for name, parameter in model.named_parameters()}
    finally:
        for name, parameter in model.named_parameters():
            parameter.data = before[name]


def expressed(model: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """Return values of the adapter that trains in a model with which it adds what another adapter adds.

    Further ranks and layers get zeros. With the same scales the values are those of the adapter, to the bit.

    Args:
        model: of diffusers, with an adapter that trains.
        adapter: another one of the same model.

    Raises:
        ConfigError: the adapter that trains lacks a layer or has a lower rank there.
    """
    layers = {at: each for at, each in _adapted(model).items() if ADAPTER in each.lora_A}
    shapes = {at: (each.lora_A[ADAPTER].weight.shape, each.lora_B[ADAPTER].weight.shape) for at, each in layers.items()}
    for layer, rank in adapter.rank.items():
        own = shapes[layer][0][0] if layer in shapes else 0
        if own < rank:
            raise ConfigError(
                f"expected an adapter that trains of rank {rank} or more at {layer}, to express one of that rank; got"
                f" rank {own} there: raise generator.lora.rank, or add the layer to generator.lora.targets"
            )
    down, up = ({at: torch.zeros(each[side]) for at, each in shapes.items()} for side in (0, 1))
    for layer, rank in adapter.rank.items():
        down[layer][:rank] = adapter.down[layer]
        up[layer][:, :rank] = adapter.up[layer] * (adapter.alpha[layer] / rank / layers[layer].scaling[ADAPTER])
    return Adapter(down, up, adapter.alpha).parameters()


def adapter_in(model: Any) -> Adapter:
    """Return copies on the CPU of the adapter that trains in a model of diffusers."""
    return _adapter_named(model, ADAPTER)


def _adapter_named(model: nn.Module, name: str) -> Adapter:
    layers = {at: each for at, each in _adapted(model).items() if name in each.lora_A}
    ranks = {at: each.lora_A[name].weight.shape[0] for at, each in layers.items()}
    return Adapter(
        {at: each.lora_A[name].weight.detach().cpu().clone() for at, each in layers.items()},
        {at: each.lora_B[name].weight.detach().cpu().clone() for at, each in layers.items()},
        {at: each.scaling[name] * ranks[at] for at, each in layers.items()},
    )


def _adapted(model: nn.Module) -> dict[str, Any]:
    """Return the layers of a model that hold adapters of peft, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def combined(adapters: Sequence[Adapter]) -> Adapter:
    """Return the one adapter that adds what several add together; the scales become part of its values.

    Args:
        adapters: adapters of one module, at least one.
    """
    layers = sorted({layer for adapter in adapters for layer in adapter.down})
    having = {layer: [adapter for adapter in adapters if layer in adapter.down] for layer in layers}
    down = {layer: torch.cat([each.down[layer].float() for each in own]) for layer, own in having.items()}
    up = {layer: torch.cat([_scaled_up(each, layer) for each in own], dim=1) for layer, own in having.items()}
    return Adapter(down, up, {layer: float(len(value)) for layer, value in down.items()})


def _scaled_up(adapter: Adapter, layer: str) -> Tensor:
    return adapter.up[layer].float() * (adapter.alpha[layer] / len(adapter.down[layer]))


# --- adapters that a pipeline comes with -----------------------------------------------------------------------------


def take_loaded(modules: Mapping[str, Any]) -> dict[str, list[Adapter]]:
    """Merge the adapters that a pipeline has loaded into the weights of its transformers, and remove their layers.

    Args:
        modules: the modules of the pipeline by name, changed in place.

    Returns:
        What was merged, by the names of the modules that had adapters.

    Raises:
        GeneratorError: an adapter is not active, of a text encoder, or no plain LoRA, so that it would be lost.
    """
    adapted = {name: module for name, module in modules.items() if _adapted(module) or hasattr(module, _OF_PEFT)}
    for name, module in adapted.items():
        _check_plain(name, module)
        if not name.startswith("transformer"):
            raise GeneratorError(
                f"{name} comes with an adapter, which an export of the trained one would lose: merge it first with"
                f" fuse_lora(components=[{name!r}]) and unload_lora_weights()"
            )
    return {name: _take(name, module) for name, module in adapted.items()}


def _take(name: str, model: Any) -> list[Adapter]:
    """Merge the adapters of one transformer, and remove their layers."""
    layers = _adapted(model)
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    used = _used_names(name, layers)
    merged = {at for at, layer in layers.items() if layer.merged}
    found = [_adapter_named(model, each) for each in used]
    recurse_remove_peft_layers(model)
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        vars(model).pop(attribute, None)
    for adapter in found:
        down = {layer: value for layer, value in adapter.down.items() if layer not in merged}
        merge_adapter(model, Adapter(down, adapter.up, adapter.alpha))
    return found


def _check_plain(name: str, model: nn.Module) -> None:
    """Reject adapters of peft that are no plain LoRA of linear layers or convolutions."""
    if hasattr(model, _OF_PEFT):
        raise GeneratorError(f"{name} is wrapped by peft: give the pipeline {name}.{_OF_PEFT}() instead")
    for at, layer in _adapted(model).items():
        is_lora = isinstance(layer.get_base_layer(), _ADAPTABLE) and bool(getattr(layer, "lora_A", None))
        variants = (*getattr(layer, "lora_variant", {}).values(), *getattr(layer, "lora_magnitude_vector", {}).values())
        biased = any(getattr(part, "bias", None) is not None for part in getattr(layer, "lora_B", {}).values())
        if not is_lora or variants or biased:
            raise GeneratorError(
                f"{name} comes with an adapter that is no plain LoRA ({type(layer).__name__} at {at}): merge it first"
                " with fuse_lora() and unload_lora_weights(), or unload it"
            )


def _used_names(name: str, layers: Mapping[str, Any]) -> list[str]:
    """Return the adapters that the outputs of all their layers depend on; there must be no others."""
    used: dict[str, None] = {}
    for layer in layers.values():
        active = layer.merged_adapters if layer.merged else () if layer.disable_adapters else layer.active_adapters
        for each in layer.lora_A:
            if each not in active:
                raise GeneratorError(
                    f"{name} comes with the adapter {each!r}, which is not active and would be lost: activate it with"
                    f" set_adapters({each!r}), or remove it with delete_adapters({each!r})"
                )
            used[each] = None
    return list(used)
