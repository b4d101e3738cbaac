"""Convert published weights of scorers for the rewards: ``python -m flexgym.rewards.convert KIND SOURCE TARGET``.

The authors of HPSv2, ImageReward and the aesthetic predictor published files of ``torch.save``. They are read once,
with ``weights_only``, which runs no code of the file, and are written as safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save_file
from transformers import AutoTokenizer, BlipConfig, CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.terminal import say, teaching_errors
from flexgym.rewards.checkpoints import load_part

Weights = dict[str, torch.Tensor]

CLIP_TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
BERT_TOKENIZER = "google-bert/bert-base-uncased"
_HEAD_WIDTH = 64  # width of an attention head in CLIP and BLIP
_ATTENTION = ("q_proj", "k_proj", "v_proj")
_CLIP_NAMES = (
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
)
_BLIP_NAMES = (
    (r"^blip\.", ""),
    (r"^visual_encoder\.blocks\.", "vision_model.encoder.layers."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"^mlp\.layers\.", "head."),
)
_UNUSED_BY_BLIP = re.compile(r"^(blip\.)?(vision_proj|text_proj|text_encoder\.embeddings\.position_ids)")


def read_weights(file: Path) -> Weights:
    """Read the tensors of a file of ``torch.save``, or those in its entry ``state_dict``.

    Raises:
        CheckpointError: if the file is missing, or holds anything but tensors, numbers and texts.
    """
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        raise CheckpointError(f"{file}: expected a file of weights written by torch.save: {error}") from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(f"{file}: expected tensors by name, got {type(content).__name__}")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def clip_weights(weights: Mapping[str, torch.Tensor]) -> Weights:
    """Rename the weights of open_clip's CLIP with a vision transformer to their names in transformers.

    Args:
        weights: the weights from `read_weights`.

    Raises:
        CheckpointError: if they belong to another model.
    """
    named: Weights = {}
    for name, value in weights.items():
        new = _renamed(name, _CLIP_NAMES)
        if name.endswith((".attn.in_proj_weight", ".attn.in_proj_bias")):
            layer, _, kind = new.rpartition(".attn.in_proj_")
            parts = zip(_ATTENTION, value.chunk(3), strict=True)
            named |= {f"{layer}.self_attn.{part}.{kind}": chunk for part, chunk in parts}
        elif name in ("visual.proj", "text_projection"):
            named["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = value.T
        elif name != "attn_mask":
            named[new] = value
    return {name: value.contiguous() for name, value in named.items()}


def clip_config(weights: Mapping[str, torch.Tensor]) -> CLIPConfig:
    """Return the configuration of open_clip's weights, derived from their shapes.

    The activation is the exact GELU of open_clip, as in HPSv2's ViT-H-14, not the approximation of OpenAI.

    Raises:
        CheckpointError: if they do not belong to a CLIP model with a vision transformer.
    """
    try:
        patches, token_width = weights["visual.conv1.weight"], weights["token_embedding.weight"].shape[1]
        vision_width, _, patch, _ = patches.shape
        positions = weights["visual.positional_embedding"].shape[0] - 1
        vision = _transformer_shape(weights, "visual.transformer.", vision_width)
        text = _transformer_shape(weights, "transformer.", token_width)
        vocabulary, length = len(weights["token_embedding.weight"]), len(weights["positional_embedding"])
        width = weights["visual.proj"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"expected the weights of an open_clip CLIP model, but {error} is missing") from error
    return CLIPConfig(
        vision_config={**vision, "patch_size": patch, "image_size": patch * round(positions**0.5)},
        text_config={
            **text,
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
        },
        projection_dim=width,
    )


def _transformer_shape(weights: Mapping[str, torch.Tensor], prefix: str, width: int) -> dict[str, Any]:
    layers = {int(name.split(".resblocks.")[1].split(".")[0]) for name in weights if name.startswith(f"{prefix}res")}
    return {
        "hidden_size": width,
        "intermediate_size": weights[f"{prefix}resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // _heads_of(width)),
        "hidden_act": "gelu",
    }


def _heads_of(width: int) -> int:
    """Return the width of an attention head: 80 in the vision tower of ViT-H-14, else 64."""
    return 80 if width == 1280 else _HEAD_WIDTH


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def convert_hpsv2(source: Path, target: Path, *, tokenizer: str = CLIP_TOKENIZER) -> None:
    """Convert the published file to a folder for `rewards.hpsv2.HPSv2`.

    Args:
        source: ``HPS_v2.1_compressed.pt`` or ``HPS_v2_compressed.pt``.
        target: the folder.
        tokenizer: folder or hub id of a CLIP tokenizer.

    Raises:
        CheckpointError: if the file or the tokenizer cannot be read.
    """
    weights = read_weights(source)
    config = clip_config(weights)
    with torch.device("meta"):
        model = CLIPModel(config)
    _fill(model, clip_weights(weights), source)
    model.float().save_pretrained(target)
    side = config.vision_config.image_size
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        target
    )
    load_part(AutoTokenizer, tokenizer).save_pretrained(target)


def convert_aesthetic(source: Path, target: Path, *, tokenizer: str = "") -> None:
    """Convert the published head to a safetensors file for `rewards.aesthetic.Aesthetic`.

    Args:
        source: ``sac+logos+ava1-l14-linearMSE.pth``.
        target: the new file, ``something.safetensors``.
        tokenizer: unused.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    weights = {name: value.float().contiguous() for name, value in read_weights(source).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(target))


def convert_image_reward(source: Path, target: Path, *, tokenizer: str = BERT_TOKENIZER) -> None:
    """Convert the published file to a folder for `rewards.image_reward.ImageReward`.

    Args:
        source: ``ImageReward.pt``.
        target: the folder.
        tokenizer: folder or hub id of BERT's tokenizer.

    Raises:
        CheckpointError: if the file or the tokenizer cannot be read.
    """
    from flexgym.rewards.image_reward import ImageRewardModel, image_processor

    weights = {name: value for name, value in read_weights(source).items() if not _UNUSED_BY_BLIP.match(name)}
    config = blip_config(weights)
    with torch.device("meta"):
        model = ImageRewardModel(config)
    _fill(model, {_renamed(name, _BLIP_NAMES): value for name, value in weights.items()}, source)
    model.float().save_pretrained(target)
    image_processor(config.vision_config.image_size).save_pretrained(target)
    words = load_part(AutoTokenizer, tokenizer)
    words.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})  # as BLIP does
    words.save_pretrained(target)


def blip_config(weights: Mapping[str, torch.Tensor]) -> BlipConfig:
    """Return the configuration of the weights of ImageReward, derived from their shapes.

    Raises:
        CheckpointError: if they belong to another model.
    """
    try:
        patches = weights["blip.visual_encoder.patch_embed.proj.weight"]
        positions = weights["blip.visual_encoder.pos_embed"].shape[1] - 1
        words = weights["blip.text_encoder.embeddings.word_embeddings.weight"]
        vision_mlp = weights["blip.visual_encoder.blocks.0.mlp.fc1.weight"]
        text_mlp = weights["blip.text_encoder.encoder.layer.0.intermediate.dense.weight"]
        length = len(weights["blip.text_encoder.embeddings.position_embeddings.weight"])
    except KeyError as error:
        raise CheckpointError(f"expected the weights of ImageReward, but {error} is missing") from error
    patch = patches.shape[-1]
    return BlipConfig(
        vision_config={
            "hidden_size": patches.shape[0],
            "intermediate_size": vision_mlp.shape[0],
            "num_hidden_layers": _count(weights, r"^blip\.visual_encoder\.blocks\.(\d+)\."),
            "num_attention_heads": max(1, patches.shape[0] // _HEAD_WIDTH),
            "patch_size": patch,
            "image_size": patch * round(positions**0.5),
            "layer_norm_eps": 1e-6,  # as in timm's vision transformer
        },
        text_config={
            "vocab_size": len(words),
            "hidden_size": words.shape[1],
            "intermediate_size": text_mlp.shape[0],
            "num_hidden_layers": _count(weights, r"^blip\.text_encoder\.encoder\.layer\.(\d+)\."),
            "num_attention_heads": max(1, words.shape[1] // _HEAD_WIDTH),
            "max_position_embeddings": length,
        },
    )


def _count(weights: Mapping[str, torch.Tensor], layer: str) -> int:
    return len({found[1] for found in map(re.compile(layer).match, weights) if found})


def _fill(model: torch.nn.Module, weights: Weights, source: Path) -> None:
    """Load the weights into a model on the meta device; none may be missing or left over."""
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: not the weights of a {type(model).__name__}: {error}") from error


KINDS: dict[str, Callable[..., None]] = {
    "hpsv2": convert_hpsv2,
    "aesthetic": convert_aesthetic,
    "image_reward": convert_image_reward,
}


def main(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.")],
    source: Annotated[Path, typer.Argument(help="The published file.")],
    target: Annotated[Path, typer.Argument(help="The folder to create; for 'aesthetic', the safetensors file.")],
    *,
    tokenizer: Annotated[
        str, typer.Option(help="Folder or hub id of the tokenizer; that of the original model by default.")
    ] = "",
) -> None:
    """Convert the published weights of a scorer for its reward."""
    with teaching_errors():
        if kind not in KINDS:
            raise ConfigError(f"expected one of {', '.join(KINDS)}, got {kind!r}")
        if target.exists():
            raise ConfigError(f"{target} already exists: choose another name")
        KINDS[kind](source, target, **({"tokenizer": tokenizer} if tokenizer else {}))
        say(f"wrote {target}")


if __name__ == "__main__":
    typer.run(main)
