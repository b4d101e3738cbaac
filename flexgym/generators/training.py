"""What trains in a generator, its state, and the policy before training."""

from __future__ import annotations

import copy
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flexgym.core.errors import CheckpointError, ConfigError, GeneratorError, unknown_name
from flexgym.generators.sampling import CONFIG_NAME

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_ADAPTABLE = (nn.Linear, nn.Conv2d, nn.Conv3d)


@dataclass
class _Progress:
    """What trains; one object, shared by all views of a generator."""

    mode: str = "frozen"
    before: dict[str, Tensor] = field(default_factory=dict)
    in_reference: bool = False


class Trainable:
    """Training of what predicts the velocity in a pipeline, by an adapter or in full.

    Args:
        pipe: the pipeline whose transformer trains.
    """

    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that get an adapter when the caller names none."""

    checkpoint_folder: Path | None = None
    """Where the pipeline was loaded from; None for one that was handed over."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe = pipe
        self._progress = _Progress()

    @property
    def transformer(self) -> Any:
        """The diffusers module that predicts the velocity; where several do, the one that acts first."""
        return self.pipe.transformer

    @property
    def device(self) -> torch.device:
        """Where the transformer lives."""
        return next(self.transformer.parameters()).device

    def denoisers(self) -> dict[str, Any]:
        """All modules that predict the velocity, by their name in the pipeline; all of them train.

        Where there are several, one step uses one of them: the parameters of the others then have no gradient.
        """
        return {"transformer": self.transformer}

    @property
    def mode(self) -> str:
        """What trains: ``"frozen"`` (nothing), ``"lora"`` or ``"full"``."""
        return self._progress.mode

    @property
    def weights_before(self) -> Mapping[str, Tensor]:
        """The weights that `reference` serves after full training that keeps them; empty otherwise."""
        return self._progress.before

    def add_lora(
        self, rank: int = 32, alpha: float | None = None, targets: Sequence[str] | None = None, *, seed: int = 0
    ) -> None:
        """Train a low-rank adapter (arXiv 2106.09685) on a frozen transformer.

        The adapter starts as zero, so the policy is unchanged to the bit. It is kept in float32.

        Args:
            rank: of the adapter.
            alpha: its scale is ``alpha / rank``; twice the rank by default, as in Flow-GRPO.
            targets: ends of the names of layers, such as ``"to_q"``; `lora_targets` by default.
            seed: of the adapter's first weights.

        Raises:
            UnknownNameError: when a target matches no layer; the message lists what exists.
            ConfigError: for a rank below 1.
            GeneratorError: when something trains already.
        """
        from peft import LoraConfig

        if rank < 1:
            raise ConfigError(f"the rank of an adapter must be at least 1, got {rank}")
        chosen = list(self.lora_targets if targets is None else targets)
        for module in self.denoisers().values():
            check_targets(module, chosen)
        self._start("lora")
        config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=chosen, init_lora_weights="gaussian")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.denoisers().values():
                module.add_adapter(config)
        for parameter in self.trainable_parameters():
            parameter.data = parameter.data.float()

    def train_full(self, *, keep_reference: bool = False) -> None:
        """Train every parameter of the transformer.

        Args:
            keep_reference: keep a copy of the weights as they are now, which `reference` then serves.

        Raises:
            GeneratorError: when something trains already.
        """
        self._start("full")
        for module in self.denoisers().values():
            module.requires_grad_(True)
        if keep_reference:
            self._progress.before = {name: tensor.detach().clone() for name, tensor in self.trained().items()}

    def checkpoint_gradients(self) -> None:
        """Keep the inputs of each block for the backward pass and compute what lies within again (arXiv 1604.06174).

        It costs about one more forward, and changes neither velocities nor gradients.

        Raises:
            GeneratorError: when a transformer cannot do it.
        """
        for part, module in self.denoisers().items():
            if not getattr(module, "_supports_gradient_checkpointing", False):
                raise GeneratorError(
                    f"{part} is a {type(module).__name__}, which cannot recompute its blocks: leave out"
                    " gradient_checkpointing"
                )
            module.enable_gradient_checkpointing()

    def _start(self, mode: str) -> None:
        if self.mode != "frozen":
            raise GeneratorError(
                f"expected a generator of which nothing trains yet, got mode {self.mode!r}: load a fresh one"
            )
        self._progress.mode = mode

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within this context the velocity is that of the policy before training, to the bit.

        With an adapter it is switched off (its parameters then count as frozen); with full training the kept weights
        are swapped in. May be nested.

        Raises:
            GeneratorError: after `train_full` without ``keep_reference``.
        """
        if self.mode == "full" and not self._progress.before:
            raise GeneratorError(
                "full training kept no reference: call train_full(keep_reference=True), or use add_lora"
            )
        if self.mode == "frozen" or self._progress.in_reference:
            yield
            return
        self._progress.in_reference = True
        swap = self._adapter_off if self.mode == "lora" else self._weights_before
        try:
            with swap():
                yield
        finally:
            self._progress.in_reference = False

    @contextmanager
    def _adapter_off(self) -> Iterator[None]:
        modules = list(self.denoisers().values())
        for module in modules:
            module.disable_adapters()
        try:
            yield
        finally:
            for module in modules:
                module.enable_adapters()

    @contextmanager
    def _weights_before(self) -> Iterator[None]:
        trained, before = self.trained(), self._progress.before
        _exchange(trained, before)
        try:
            yield
        finally:
            _exchange(trained, before)

    def cut_reference(self, part: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Keep parts of the weights before training, once what trains is cut over several processes.

        Args:
            part: makes of a whole value the part that belongs to a parameter.
        """
        trained = self.trained()
        self._progress.before = {name: part(value, trained[name]) for name, value in self._progress.before.items()}

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by the names of `trainable_state`; empty while frozen."""
        return {
            ("" if module is self.transformer else f"{part}.") + name: value
            for part, module in self.denoisers().items()
            for name, value in module.named_parameters()
            if value.requires_grad
        }

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that train, in a fixed order; empty while frozen."""
        return list(self.trained().values())

    def trainable_state(self) -> dict[str, Tensor]:
        """A copy on the CPU of what trains, and of nothing else, by name; of parts, a copy beside them.

        Names are those within `transformer`; those within another module begin with its name.
        """
        return {
            name: value.detach().clone() if isinstance(value, DTensor) else value.detach().to("cpu", copy=True)
            for name, value in self.trained().items()
        }

    @torch.no_grad()
    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Put a state of `trainable_state` back, in place.

        Args:
            state: tensors by name.

        Raises:
            CheckpointError: when names or shapes are not those of what trains; nothing is changed then.
        """
        trained = self.trained()
        differing = sorted(set(state) ^ set(trained))
        if differing:
            where = "the state" if differing[0] in trained else "this generator"
            raise CheckpointError(
                f"the state does not fit: {len(differing)} names differ; {differing[0]!r} is missing from {where}"
                f" (expected {len(trained)} parameters of mode {self.mode!r}, got {len(state)})"
            )
        for name, value in trained.items():
            if state[name].shape != value.shape:
                raise CheckpointError(f"{name} must have shape {tuple(value.shape)}, got {tuple(state[name].shape)}")
        for name, value in trained.items():
            value.copy_(state[name])

    def _save(self, target: Path, generation: Mapping[str, Any], whole: Mapping[str, Any]) -> Path:
        """Write to a hidden folder beside the target, then rename it."""
        if target.exists():
            raise CheckpointError(f"{target} exists already, and nothing saved is overwritten: choose another folder")
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        partial.mkdir(parents=True)
        if self.mode == "lora":
            for part, module in self.denoisers().items():
                folder = partial if module is self.transformer else partial / part
                self._save_adapter(whole.get(part, module), folder)
        else:
            self._write_pipeline(partial, whole)
            (partial / CONFIG_NAME).write_text(json.dumps(dict(generation), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, target)
        return target

    def _write_pipeline(self, folder: Path, whole: Mapping[str, Any]) -> None:
        pipe = copy.copy(self.pipe)
        pipe.register_modules(**whole)
        pipe.save_pretrained(folder, safe_serialization=True)

    def _save_adapter(self, module: Any, folder: Path) -> None:
        from diffusers.loaders.lora_pipeline import HunyuanVideoLoraLoaderMixin
        from peft import get_peft_model_state_dict

        # the same format where a pipeline cannot write it; `transformer.load_lora_adapter` reads it there
        writer = self.pipe if hasattr(self.pipe, "save_lora_weights") else HunyuanVideoLoraLoaderMixin
        # without the metadata a reader would take the scale to be 1
        writer.save_lora_weights(
            folder,
            transformer_lora_layers=get_peft_model_state_dict(module),
            transformer_lora_adapter_metadata=module.peft_config["default"].to_dict(),
        )


@torch.no_grad()
def _exchange(parameters: Mapping[str, nn.Parameter], kept: dict[str, Tensor]) -> None:
    """Swap the numbers of parameters with those that are kept."""
    for name, parameter in parameters.items():
        if isinstance(parameter, DTensor):
            # FSDP holds on to the memory of a part, so the numbers in it change
            mine, other = parameter.to_local(), cast(DTensor, kept[name]).to_local()
            before = mine.clone()
            mine.copy_(other)
            other.copy_(before)
        else:
            parameter.data, kept[name] = kept[name], parameter.data


def check_targets(transformer: nn.Module, targets: Sequence[str]) -> None:
    """Refuse targets of an adapter that match no layer.

    Args:
        transformer: that gets the adapter.
        targets: ends of the names of layers.

    Raises:
        UnknownNameError: for the first target without a layer; the message lists what exists.
        ConfigError: without any target.
    """
    if not targets:
        raise ConfigError("an adapter needs at least one target, such as 'to_q'")
    names = [name for name, module in transformer.named_modules() if isinstance(module, _ADAPTABLE)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise unknown_name("adapter target", target, {_ending(name) for name in names})


def _ending(name: str) -> str:
    """The last part of a layer's name, with the one before it when it is a number: ``to_out.0``."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
