"""Loads generators from a folder, a hub id or the package itself."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format, convert_conv3d_weight_memory_format

from flexgym.core.errors import CheckpointError, GeneratorError, nearest_name, unknown_name
from flexgym.core.precision import dtype_named
from flexgym.core.pretrained import LOADING_ERRORS, load_pretrained
from flexgym.core.terminal import without_progress_bars
from flexgym.core.weight_files import check_variant
from flexgym.generators.base import FlowGenerator
from flexgym.generators.checks import check_parts
from flexgym.generators.family import Family
from flexgym.generators.folder import MODEL_INDEX, check_folder, component_classes, component_variant, read_json
from flexgym.generators.generic import build, family_of
from flexgym.generators.pipelines import pipeline_class, without_torchvision_notes
from flexgym.generators.sampling import read_generation_config
from flexgym.generators.schedulers import check_scheduler, restore_grid_scheduler

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

EMBEDDED = {"shapes-t2i": "t2i", "shapes-t2v": "t2v"}
DEFAULTS = {"image": "shapes-t2i", "video": "shapes-t2v"}
CHECKPOINTS = Path(__file__).parents[1] / "shapes" / "checkpoints"
_LIBRARIES = ("diffusers", "transformers")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_generator(
    source: str | Path | None = None,
    *,
    modality: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    variant: str | None = None,
    channels_last: bool = False,
    offload: bool = False,
    **settings: Any,
) -> FlowGenerator:
    """Load a text-to-image or text-to-video pipeline as a flow policy.

    Weights are read from safetensors files only, and code that a checkpoint carries is never run.

    Rollouts take Euler steps on the noise levels of the pipeline's scheduler, whatever its own solver is: UniPC (as
    published with Wan), DPM-Solver++ (Sana) and the stochastic sampling of distilled LTX differ from them. The setting
    ``verification.sampler`` and `flexgym.algorithm.rollout.sample` choose between the two, and
    `flexgym.generators.schedulers.SCHEDULERS` lists the meaning of each setting of a scheduler.

    Args:
        source: a diffusers pipeline folder, a hub id, ``"shapes-t2i"`` or ``"shapes-t2v"``; None takes the embedded
            checkpoint of ``modality``.
        modality: ``"image"`` or ``"video"``, to reject a pipeline of the other kind.
        device: for all modules; by default the first GPU where there is one.
        dtype: of the weights: ``"float32"`` (the default), ``"bfloat16"`` or ``"float16"``.
        variant: variant of the weight files, such as ``"fp16"`` for ``model.fp16.safetensors``; components without it
            are read from their plain files.
        channels_last: memory format of the autoencoder's convolutions. It makes some of them faster, and they round
            differently from those of a stock pipeline.
        offload: keep encoders and autoencoder in host memory except while they are used, see `Placement.offload`; they
            are never all on the device at once, not while loading either.
        settings: sampling settings that override the checkpoint's, see `Sampling`.

    Returns:
        The generator, frozen.

    Raises:
        CheckpointError: when the folder is missing, half written or not in the standard format, or a component has
            missing, unexpected or misshapen tensors; the message names them.
        GeneratorError: when the pipeline is not flow matching, of another modality, or of a kind that needs a family,
            or when its scheduler has a setting that rollouts cannot follow.
        UnknownNameError: for an unknown setting or modality.
        ConfigError: for a value that cannot work.
    """
    if modality is not None and modality not in DEFAULTS:
        raise unknown_name("modality", modality, DEFAULTS)
    check_variant(variant)
    folder = _locate(DEFAULTS[modality or "image"] if source is None else source, variant)
    check_folder(folder, variant)
    family = _family(folder)
    if modality not in (None, family.modality):
        kind = {"image": "FlexT2I-v0", "video": "FlexT2V-v0"}[family.modality]
        raise GeneratorError(
            f"expected a pipeline for modality {modality!r}, got one for {family.modality!r}: use {kind} for {folder}"
        )
    checkpoint = read_generation_config(folder)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipe = _load(folder, dtype_named(dtype or "float32"), variant)
    restore_grid_scheduler(pipe, folder)
    if not offload:
        pipe.to(place)
    if channels_last:
        convert_conv2d_weight_memory_format(pipe.vae, torch.channels_last)
        convert_conv3d_weight_memory_format(pipe.vae, torch.channels_last_3d)
    generator = build(family, pipe, checkpoint=checkpoint, settings=settings)
    generator.checkpoint_folder = folder
    if offload:
        generator.placement.offload()
        generator.placement.to(place)
    return generator


def wrap_pipeline(pipe: DiffusionPipeline, **settings: Any) -> FlowGenerator:
    """Make a generator of a pipeline that is loaded already.

    A pipeline of no known family is tried out: it is accepted where the general family samples exactly as the pipeline.

    Args:
        pipe: the pipeline; it is frozen.
        settings: sampling settings that override the pipeline's.

    Raises:
        GeneratorError: when the pipeline cannot serve.
        UnknownNameError: for an unknown setting.
        ConfigError: for a value that cannot work.
    """
    check_parts(pipe)
    return build(family_of(type(pipe).__name__, type(pipe)), pipe, settings=settings)


def _locate(source: str | Path, variant: str | None) -> Path:
    """Find the folder of a source; one that is a hub id is downloaded."""
    text = str(source)
    if text in EMBEDDED:
        return CHECKPOINTS / EMBEDDED[text]
    folder = Path(source).expanduser()
    if folder.exists() or isinstance(source, Path) or not _HUB_ID.fullmatch(text):
        return folder
    from diffusers import DiffusionPipeline

    try:
        with _quiet():
            return Path(
                DiffusionPipeline.download(text, variant=variant, use_safetensors=True, trust_remote_code=False)
            )
    except (OSError, ValueError) as error:
        hint = nearest_name(text, EMBEDDED)
        raise CheckpointError(
            f"{text!r} is no folder here, and as a hub id it could not be fetched ({type(error).__name__}: {error})."
            f" Embedded checkpoints: {hint}"
        ) from error


def _family(folder: Path) -> type[Family]:
    index = read_json(folder / MODEL_INDEX)
    family = family_of(str(index.get("_class_name")))
    scheduler = component_classes(index).get("scheduler")
    if scheduler is None:
        raise GeneratorError(
            f"{folder} has no scheduler: expected one of flow matching, such as FlowMatchEulerDiscreteScheduler"
        )
    check_scheduler(scheduler, read_json(folder / "scheduler" / "scheduler_config.json"))
    return family


def _load(folder: Path, dtype: torch.dtype, variant: str | None) -> DiffusionPipeline:
    from diffusers import DiffusionPipeline

    try:
        with _quiet():
            return DiffusionPipeline.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                **_absent_components(folder),
                **_modules(folder, dtype, variant),
            )
    except CheckpointError:
        raise
    except LOADING_ERRORS as error:
        raise CheckpointError(f"{folder} could not be loaded as a diffusers pipeline: {error}") from error


def _modules(folder: Path, dtype: torch.dtype, variant: str | None) -> dict[str, nn.Module]:
    """Load the modules of a pipeline, each of them complete; diffusers itself would not report what they lack."""
    listed = read_json(folder / MODEL_INDEX)
    kinds = {name: _component_class(*listed[name]) for name in component_classes(listed)}
    return {
        name: load_pretrained(
            kind,
            folder / name,
            dtype=dtype,
            variant=component_variant(folder / name, variant),
            local_files_only=True,
        )
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, nn.Module)
    }


def _component_class(library: str, name: str) -> Any:
    """Return the class of a component; None where it is in no library that is trusted to run."""
    import diffusers

    if library in _LIBRARIES:
        return getattr(importlib.import_module(library), name, None)
    return getattr(getattr(diffusers.pipelines, library, None), name, None)


def _absent_components(folder: Path) -> dict[str, None]:
    """Return the components that a pipeline was saved without as None, which diffusers must be given again."""
    index = read_json(folder / MODEL_INDEX)
    parameters = inspect.signature(pipeline_class(str(index["_class_name"])).__init__).parameters.values()
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    return dict.fromkeys(name for name in required[1:] if name not in component_classes(index))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars of diffusers and transformers, and notes about torchvision, inside this context."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    with without_progress_bars(diffusers_logging, transformers_logging), without_torchvision_notes():
        yield
