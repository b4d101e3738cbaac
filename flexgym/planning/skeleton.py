"""Build a generator without weights from config files alone: the real pipeline and modules, on the meta device."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from flexgym.core.errors import CheckpointError, GeneratorError, nearest_name
from flexgym.generators.base import FlowGenerator
from flexgym.generators.conditioning import Embedding
from flexgym.generators.family import Family
from flexgym.generators.folder import MODEL_INDEX, read_json
from flexgym.generators.generic import family_of
from flexgym.generators.loader import DEFAULTS, EMBEDDED
from flexgym.generators.pipelines import pipeline_class
from flexgym.generators.sampling import read_generation_config
from flexgym.planning.architectures import PUBLISHED, write_configs

_CHECKPOINTS = Path(__file__).parents[1] / "shapes" / "checkpoints"
_LIBRARIES = ("diffusers", "transformers")
_WIDTHS = ("joint_attention_dim", "text_dim", "text_embed_dim", "caption_channels", "cap_feat_dim")
"""Names of the width of encoded text in the configs of transformers."""
_OWN_NAMES = {"ZImagePipeline": ("texts", "mask")}
"""Names of encoded text in families that do not pass it to the transformer as it is."""
_READ = ("encoder_hidden_states_mask", "mask")
"""Masks whose values a family reads, so that they need data."""
_READ_INSIDE = {"Lumina2Pipeline": ("encoder_attention_mask",)}
"""Masks that the transformer of a pipeline reads."""
_TOKENS = 512
_SEEN_TOKENS, _CUT_TOKENS = 576, 4
"""Tokens of an image that Llava reads, and of its template, which HunyuanVideo's pipeline drops after a text."""


class _Textless(Family):
    """Encodes text without an encoder, to the right width and the largest length of a prompt."""

    def encode_text(self, text: str, *, negative: bool = False, **options: Any) -> Embedding:
        """Return embeddings without values, except for masks that are read; arguments as for `Family.encode_text`."""
        config = self.transformer.config
        width = next((config[name] for name in _WIDTHS if config.get(name)), None)
        if width is None:
            raise GeneratorError(
                f"expected a {type(self.transformer).__name__} whose config has the width of its text"
                f" ({', '.join(_WIDTHS)}), got none of them: this pipeline cannot be planned"
            )
        names = [name for name in _OWN_NAMES.get(self.name, self.encoded) if name is not None]
        if _has_two_lengths(self.pipe):
            return self._two_texts(names)
        seen = _SEEN_TOKENS // options["image_embed_interleave"] - _CUT_TOKENS if self.text_sees_images else 0
        return {name: self._row(name, width, further=seen) for name in names}

    def _two_texts(self, names: Iterable[str]) -> Embedding:
        """Return the texts of HunyuanVideo 1.5, with lengths from its pipeline and widths from its transformer."""
        pipe, config = self.pipe, self.transformer.config
        made = {}
        for name in names:
            second = name.endswith("_2")
            shape = [1, pipe.tokenizer_2_max_length if second else pipe.tokenizer_max_length]
            if "mask" not in name:
                shape.append(config.text_embed_2_dim if second else config.text_embed_dim)
            made[name] = torch.empty(shape, dtype=self.dtype, device="meta")
        return made

    def encode_images(self, images: Mapping[str, Image.Image]) -> Embedding:
        """Encode images as the family does, with the number of tokens that CLIP or SigLIP makes, if there is one."""
        encoder = self.pipe.components.get("image_encoder")
        if encoder is not None:  # its image processor is not there
            config = encoder.config
            of_all = "CLIP" in type(encoder).__name__  # CLIP adds one class token for the whole image
            tokens = (config.image_size // config.patch_size) ** 2 + of_all
            made = torch.empty(1, tokens, config.hidden_size, dtype=self.dtype, device="meta")
            self.pipe.encode_image = lambda *_: made
        return super().encode_images(images)

    def _row(self, name: str, width: int, *, further: int) -> Tensor:
        tokens = (self.settings.max_sequence_length or _TOKENS) + further
        if self.name == "StableDiffusion3Pipeline":
            tokens += self.pipe.tokenizer_max_length  # the states of CLIP come before those of T5
        if name == "pooled_projections":
            return torch.empty(1, self.transformer.config.pooled_projection_dim, dtype=self.dtype, device="meta")
        if name in (*_READ, *_READ_INSIDE.get(self.name, ())):
            return torch.ones(1, tokens)
        shape = (1, tokens) if name.endswith("mask") else (1, tokens, width)
        return torch.empty(shape, dtype=self.dtype, device="meta")


@contextmanager
def config_folder(source: str | Path | None, modality: str = "image") -> Iterator[Path]:
    """Open the folder with the config files of a generator; only such files are read or fetched.

    Args:
        source: source as for `load_generator`. A folder needs no weights. The hub is asked only for a source that is
            neither a folder nor among `PUBLISHED`.
        modality: modality of the embedded generator, where ``source`` is None.

    Yields:
        The folder.

    Raises:
        CheckpointError: there are no such configs.
    """
    text = str(source or DEFAULTS[modality])
    if text in EMBEDDED:
        yield _CHECKPOINTS / EMBEDDED[text]
    elif Path(text).expanduser().is_dir():
        yield Path(text).expanduser()
    elif text in PUBLISHED:
        with TemporaryDirectory() as folder:
            yield write_configs(text, Path(folder))
    else:
        yield _fetch(text)


def _fetch(source: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=["*.json"]))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{source!r} is not a local folder, and its configs could not be fetched from the hub"
            f" ({type(error).__name__}: {error}). Known without the hub:"
            f" {nearest_name(source, [*EMBEDDED, *PUBLISHED])}"
        ) from error


def build_skeleton(folder: Path, dtype: torch.dtype, settings: Mapping[str, Any]) -> FlowGenerator:
    """Build the generator that `load_generator` would load from a folder, on the meta device.

    Args:
        folder: folder of a pipeline, of which only JSON files are read.
        dtype: precision of the weights.
        settings: sampling settings by name.

    Returns:
        The frozen generator, with modules of full size that hold no data. All texts have the largest length.

    Raises:
        CheckpointError: a file is missing or not JSON, or a component comes from another library.
        GeneratorError: the pipeline cannot be used as a policy.
        ConfigError: a setting is not valid.
    """
    index = read_json(folder / MODEL_INDEX)
    family = family_of(str(index.get("_class_name")))
    kind = pipeline_class(str(index["_class_name"]))
    parts = {name: _component(folder / name, *value, dtype=dtype) for name, value in index.items() if _is_part(value)}
    options = {name: value for name, value in index.items() if not name.startswith("_") and not isinstance(value, list)}
    required = dict.fromkeys(name for name, default in _parameters(kind) if default is inspect.Parameter.empty)
    pipe = kind(**{**required, **parts, **options})
    tokenizer = folder / "tokenizer" / "tokenizer_config.json"
    if tokenizer.is_file() and hasattr(pipe, "tokenizer_max_length") and not _has_two_lengths(pipe):
        pipe.tokenizer_max_length = read_json(tokenizer).get("model_max_length") or pipe.tokenizer_max_length
    textless = type(f"Textless{family.__name__}", (_Textless, family), {})
    return FlowGenerator(pipe, textless, checkpoint=read_generation_config(folder), settings=settings)


def _has_two_lengths(pipe: Any) -> bool:
    """Return whether a pipeline sets the lengths of its texts itself, like that of HunyuanVideo 1.5."""
    return hasattr(pipe, "tokenizer_2_max_length")


def _is_part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)


def _parameters(kind: type) -> list[tuple[str, Any]]:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    return [(parameter.name, parameter.default) for parameter in parameters]


def _component(folder: Path, library: str, name: str, *, dtype: torch.dtype) -> Any:
    """Make a module without data, a scheduler or a guider; None for tokenizers and processors."""
    if library not in _LIBRARIES:
        raise CheckpointError(
            f"{folder}: expected a component of {' or '.join(_LIBRARIES)}, got {library}.{name}: code that comes with a"
            " checkpoint is never run"
        )
    kind = getattr(importlib.import_module(library), name, None)
    if kind is None:
        raise CheckpointError(f"{folder}: {library} has no class {name!r}; is its version new enough?")
    for ending, file in (("Scheduler", "scheduler_config.json"), ("Guidance", "guider_config.json")):
        if name.endswith(ending):
            return kind.from_config(read_json(folder / file))
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        return None
    return _cast(
        _build(kind, library, read_json(folder / "config.json")), dtype, single=_kept_single(kind, library, dtype)
    )


def _build(kind: Any, library: str, config: Mapping[str, Any]) -> nn.Module:
    """Make a module without data from its config."""
    with torch.device("meta"):
        return kind.from_config(config) if library == "diffusers" else kind(kind.config_class.from_dict(config))


def _kept_single(kind: Any, library: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Return the parts that stay in float32 when weights are read in half precision, by the rules of either library."""
    always = "_keep_in_fp32_modules" if library == "diffusers" else "_keep_in_fp32_modules_strict"
    names = {*(getattr(kind, always, None) or ())}
    if dtype == torch.float16:
        names |= {*(getattr(kind, "_keep_in_fp32_modules", None) or ())}
    return tuple(names)


def _cast(model: nn.Module, dtype: torch.dtype, *, single: tuple[str, ...]) -> nn.Module:
    """Cast parameters and saved buffers to the precision in which weights are read; other buffers keep theirs."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            kept = any(part in name.split(".") for part in single)
            tensor.data = tensor.data.to(torch.float32 if kept else dtype)
    return model
