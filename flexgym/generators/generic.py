"""Pipelines without a family of their own: served by the general one where it fits, which a short run decides."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from flexgym.core.errors import FlexGymError, GeneratorError, nearest_name
from flexgym.generators.base import FlowGenerator
from flexgym.generators.conformance import own_run, pipeline_run
from flexgym.generators.families import families
from flexgym.generators.family import Family
from flexgym.generators.pipelines import pipeline_class

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_PATCHES = 4
"""Tokens along a side of the samples of the trial: they are small, whatever the settings say."""
_FAILURES = (AttributeError, LookupError, TypeError, ValueError, RuntimeError)


class GenericImages(Family):
    """A text-to-image pipeline without a family."""


class GenericVideos(Family):
    """A text-to-video pipeline without a family."""

    modality: ClassVar = "video"


def family_of(name: str, pipeline: type | None = None) -> type[Family]:
    """Find the family of a class of pipelines.

    Args:
        name: of the class.
        pipeline: the class; by default diffusers' own of that name.

    Returns:
        The family, or a general one of the right modality, which `build` tries out.

    Raises:
        GeneratorError: when there is no such class.
    """
    known = families()
    if name in known:
        return known[name]
    pipeline = pipeline or pipeline_class(name)
    if pipeline is None:
        raise GeneratorError(f"diffusers has no pipeline class {name!r}. {nearest_name(name, known)}")
    return GenericVideos if "num_frames" in inspect.signature(pipeline.__call__).parameters else GenericImages


def build(
    family: type[Family],
    pipe: DiffusionPipeline,
    *,
    checkpoint: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any],
) -> FlowGenerator:
    """Make a generator of a pipeline; one without a family must first sample as its pipeline does, to the bit.

    Args:
        family: from `family_of`.
        pipe: the loaded pipeline.
        checkpoint: sampling settings that came with the weights.
        settings: of the user, see `Sampling`.

    Raises:
        GeneratorError: when the pipeline cannot serve, or has no family and needs one.
        UnknownNameError: for an unknown setting.
        ConfigError: for a value that cannot work.
    """
    if family not in (GenericImages, GenericVideos):
        return FlowGenerator(pipe, family, checkpoint=checkpoint, settings=settings)
    try:
        generator = FlowGenerator(pipe, family, checkpoint=checkpoint, settings=settings)
        difference = _difference(generator)
    except FlexGymError:
        raise
    except _FAILURES as error:
        difference = f"{type(error).__name__}: {str(error).strip()[:300]}"
    if difference:
        raise GeneratorError(
            f"{type(pipe).__name__} has no family here, and the general one does not sample as its own call does"
            f" ({difference}). Write a family, at most 80 lines: docs/adding_a_generator.md."
            f" {nearest_name(type(pipe).__name__, families())}"
        )
    return generator


def _difference(generator: FlowGenerator) -> str:
    """Say what two steps of a small sample differ in, with and without guidance; empty when they are equal."""
    side = _PATCHES * generator.family.size_multiple()
    frames = None if generator.settings.num_frames is None else 1 + generator.family.frames_multiple()
    for scale in (1.0, 3.0):
        size = {"height": side, "width": side, "num_frames": frames}
        trial = generator.with_settings(num_steps=2, guidance_scale=scale, **size)
        noise = trial.initial_latents(2, 0).to(trial.dtype).float()
        ours, theirs = own_run(trial, noise, "a red cube"), pipeline_run(trial, noise, "a red cube")
        what = "latents" if not torch.equal(ours.latents, theirs.latents) else "decoded samples"
        if what == "latents" or not np.array_equal(ours.samples, theirs.samples):
            return f"with guidance_scale={scale} its {what} differ"
    return ""
