"""Compute digests of all that encodings of prompts and samples depend on besides the request."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flexgym.core.json_text import parse_json
from flexgym.generators.tensor_cache import digest_of, json_bytes

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_FORMAT = 1
_NOT_TEXT = ("transformer", "vae", "scheduler")
# Where weights came from, what wrote them, and what a tokenizer was last called with: none of it changes an encoding.
_INCIDENTAL = frozenset(
    {"_name_or_path", "architectures", "dtype", "is_local", "local_files_only", "name_or_path", "padding"}
    | {"torch_dtype", "transformers_version", "truncation"}
)


def text_identity(pipe: DiffusionPipeline, *, autoencoder: bool = False) -> str:
    """Return a digest of everything besides the request that an embedding depends on.

    Equal weights have equal digests, wherever they were loaded from.

    Every byte of the text encoders is read, about a second for each gigabyte.

    Args:
        pipe: the loaded pipeline, with its text encoders.
        autoencoder: whether it counts as well, since it encodes first frames.

    Returns:
        A hexadecimal digest of the weights and configs of all components that are neither transformer nor autoencoder
        nor scheduler, of the tokenizers, the pipeline's class and plain settings, and the versions of the libraries.
    """
    settings = {name: value for name, value in pipe.config.items() if not name.startswith("_")}
    plain = {name: value for name, value in settings.items() if isinstance(value, bool | int | float | str)}
    libraries = {name: version(name) for name in ("diffusers", "transformers", "ftfy")}  # the last cleans prompts
    described = {"format": _FORMAT, "pipeline": type(pipe).__name__, "settings": plain, "libraries": libraries}
    digest = hashlib.sha256(json_bytes(described))
    for name, part in sorted(pipe.components.items()):
        if part is None or name.startswith(_NOT_TEXT) and not (autoencoder and name == "vae"):
            continue
        digest.update(f"{name} {type(part).__name__}".encode())
        for piece in _weights(part) if isinstance(part, torch.nn.Module) else _files(part):
            digest.update(piece)
    return digest.hexdigest()


def autoencoder_identity(pipe: DiffusionPipeline) -> str:
    """Return a digest of everything besides the sample that its latents depend on, see `text_identity`.

    Args:
        pipe: the loaded pipeline, with its autoencoder.
    """
    described = {"format": _FORMAT, "pipeline": type(pipe).__name__, "diffusers": version("diffusers")}
    digest = hashlib.sha256(json_bytes(described))
    for piece in _weights(pipe.vae):
        digest.update(piece)
    return digest.hexdigest()


def _weights(module: Any) -> Iterator[bytes]:
    config = getattr(module, "config", {})
    yield json_bytes(_settled(config.to_dict() if hasattr(config, "to_dict") else dict(config)))
    yield digest_of(module.state_dict()).encode()


def _files(tokenizer: Any) -> Iterator[bytes]:
    """Yield the files that a tokenizer or a processor is saved as."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            content = path.read_bytes()
            yield path.name.encode()
            yield json_bytes(_settled(parse_json(content, lenient=True))) if path.suffix == ".json" else content


def _settled(value: Any) -> Any:
    """Remove incidental settings, at any depth."""
    if isinstance(value, Mapping):
        return {str(name): _settled(inner) for name, inner in value.items() if name not in _INCIDENTAL}
    return [_settled(inner) for inner in value] if isinstance(value, list | tuple) else value
