"""Generators of real size with random weights, which need no download: speed and memory do not depend on the values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexgym.config import GeneratorSettings
from flexgym.core.precision import dtype_named
from flexgym.generators import FlowGenerator
from flexgym.generators.family import Family
from flexgym.generators.folder import MODEL_INDEX, read_json
from flexgym.planning.skeleton import build_skeleton, config_folder
from flexgym.rllib.module import FlowModule


def write_configs_alone(source: str | None, modality: str, folder: Path) -> Path:
    """Write the config files of a generator without its text encoders, whose place random texts take.

    Args:
        source: source of the generator.
        modality: modality of the embedded generator, where ``source`` is None.
        folder: folder to make.

    Raises:
        CheckpointError: there are no such configs.
    """
    with config_folder(source, modality) as configs:
        shutil.copytree(configs, folder, ignore=_no_json)
    index = read_json(folder / MODEL_INDEX)
    kept = {name: value for name, value in index.items() if not name.startswith("text_encoder")}
    (folder / MODEL_INDEX).write_text(json.dumps(kept), encoding="utf-8")
    return folder


def _no_json(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".json") and not (Path(folder) / name).is_dir()]


class _RandomTexts(Family):
    """Encodes texts to random numbers."""

    def encode_text(self, text: str, *, negative: bool = False, **options: Any) -> dict[str, Tensor]:
        """Return random numbers in the shapes of encoded text, and masks of ones."""
        shapes = super().encode_text(text, negative=negative, **options)
        return {name: self._filled(name, like) for name, like in shapes.items()}

    def _filled(self, name: str, like: Tensor) -> Tensor:
        make = torch.ones if name.endswith("mask") else torch.randn
        return make(like.shape, device=self.device, dtype=self.dtype)


class RandomModule(FlowModule):
    """The policy of every algorithm, over a generator with random weights."""

    def open_generator(self, settings: GeneratorSettings, modality: str) -> FlowGenerator:
        """Make a generator of the configs in ``settings.source``; arguments as for `FlowModule.open_generator`."""
        skeleton = build_skeleton(Path(settings.source or ""), dtype_named(settings.dtype), dict(settings.sampling))
        return random_generator(skeleton, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def random_generator(skeleton: FlowGenerator, device: torch.device) -> FlowGenerator:
    """Make the generator of a skeleton, with random weights and texts.

    Args:
        skeleton: generator on the meta device.
        device: device of the weights, on which they are made.
    """
    pipe, default = skeleton.pipe, torch.get_default_dtype()
    torch.set_default_dtype(skeleton.dtype)
    try:
        with device:
            parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
            pipe.register_modules(**{name: _random(part) for name, part in parts.items()})
    finally:
        torch.set_default_dtype(default)
    own = type(skeleton.family)
    family = type(f"RandomTexts{own.__name__}", (_RandomTexts, own), {})
    return FlowGenerator(pipe, family, settings=vars(skeleton.settings))


def _random(like: nn.Module) -> nn.Module:
    """Make a module as its class starts it, each tensor in the precision that it has when weights are read."""
    kind, config = type(like), like.config
    module: nn.Module = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    made = module.state_dict(keep_vars=True)
    for name, tensor in like.state_dict().items():
        made[name].data = made[name].data.to(tensor.dtype)
    return module
