"""Section ``generator``: the generator, what of it trains, and its memory."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from flexgym.core.seeds import Seed
from flexgym.core.settings import Names, Settings

Precision = Literal["float32", "bfloat16", "float16"]


class LoraSettings(Settings):
    """A low-rank adapter (arXiv 2106.09685) on the frozen transformer."""

    rank: int | None = Field(
        default=None, ge=1, description="rank of the adapter; 32 by default, or that of generator.adapter"
    )
    alpha: float | None = Field(default=None, gt=0, description="its scale is alpha / rank; twice the rank by default")
    targets: Names | None = Field(
        default=None,
        min_length=1,
        description="ends of layer names, such as to_q; by default those of the generator's family or of the adapter"
        " that it starts from",
    )
    seed: Seed = Field(default=0, description="seed of its first weights")


class SamplingSettings(Settings):
    """How samples are made; what is left out is the checkpoint's or the pipeline's."""

    num_steps: int | None = Field(default=None, ge=1, description="denoising steps T")
    guidance_scale: float | None = Field(
        default=None, ge=0, description="classifier-free guidance; at most 1 is without"
    )
    height: int | None = Field(default=None, ge=1, description="height in pixels")
    width: int | None = Field(default=None, ge=1, description="width in pixels")
    num_frames: int | None = Field(default=None, ge=1, description="frames of a video")
    max_sequence_length: int | None = Field(
        default=None, ge=1, description="text tokens, where the pipeline takes this number"
    )
    true_cfg_scale: float | None = Field(
        default=None, ge=0, description="classifier-free guidance where guidance_scale is an input of the transformer"
    )
    guidance_scale_2: float | None = Field(
        default=None,
        ge=0,
        description="guidance of the second transformer, for low noise (Wan 2.2); that of the first by default",
    )
    negative_prompt: str | None = Field(
        default=None, description="text of the unconditional branch of guidance; the empty one by default"
    )


class GeneratorSettings(Settings):
    """The generator, what of it trains, and how it uses memory (docs/memory.md)."""

    source: str | None = Field(
        default=None, min_length=1, description="folder or hub id; null for the embedded generator"
    )
    mode: Literal["lora", "full"] = Field(
        default="lora", description="train an adapter or all weights of the transformer"
    )
    lora: LoraSettings = LoraSettings()
    adapter: str | None = Field(
        default=None,
        min_length=1,
        description="adapter that training starts from: a folder or file of diffusers, peft or kohya, or a hub id",
    )
    adapter_as: Literal["start", "merge"] = Field(
        default="start",
        description="train generator.adapter itself, or merge it into the weights below the trainable parameters",
    )
    sampling: SamplingSettings = SamplingSettings()
    distilled: bool | None = Field(
        default=None,
        description="made for few steps, so that only the sampler's own noise levels train; null asks a local pipeline",
    )
    variant: str | None = Field(
        default=None, pattern=r"^\w+$", description="variant of the weight files, such as fp16; null for plain files"
    )
    dtype: Precision = Field(default="float32", description="precision of the weights; an adapter is always float32")
    channels_last: bool = Field(
        default=False, description="memory format of the VAE's convolutions; often faster on CPUs"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute blocks in the backward pass to save memory"
    )
    text_cache: str | None = Field(
        default=None, pattern=r"\S", description="folder that keeps encoded prompts; null for none"
    )
    release_text_encoders: bool = Field(
        default=False, description="encode all prompts of the run at its start, then free the text encoders"
    )
    vae_tiling: bool = Field(default=False, description="decode samples in tiles")
    offload: bool = Field(default=False, description="keep text encoders and VAE in host memory while idle")
    sharding: Literal["none", "fsdp"] = Field(
        default="none", description="unsharded on each learner, or sharded over the learners by FSDP"
    )

    @property
    def training(self) -> dict[str, Any]:
        """Return the arguments of `FlowGenerator.make_trainable`."""
        return {
            "mode": self.mode,
            "lora": dict(self.lora),
            "adapter": self.adapter,
            "adapter_as": self.adapter_as,
        }

    @property
    def is_half(self) -> bool:
        """Return whether weights are float16, whose small range needs a scaled loss."""
        return self.dtype == "float16"

    @property
    def shards(self) -> bool:
        """Return whether the transformer is sharded over the learners."""
        return self.sharding == "fsdp"
