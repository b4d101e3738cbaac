"""Encoded prompts on disk, so that a text is encoded once for all processes and all runs."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.core.files import write_atomic
from flexgym.core.json_text import parse_json
from flexgym.generators.conditioning import Embedding

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MAX_BYTES = 1 << 28
"""Size of one file at most; embeddings in use take up to 16 MiB, encoded first frames up to 32 MiB."""

_FORMAT = 1
_SAID = "flexgym"
_NOT_TEXT = ("transformer", "vae", "scheduler")
# Where weights came from, what wrote them, and what a tokenizer was last called with: none of it changes an encoding.
_INCIDENTAL = frozenset(
    {"_name_or_path", "architectures", "dtype", "is_local", "local_files_only", "name_or_path", "padding"}
    | {"torch_dtype", "transformers_version", "truncation"}
)


class TextCache:
    """Folder with one safetensors file per encoded prompt.

    A file appears complete or not at all. One that is truncated, larger than `MAX_BYTES`, altered, or of another
    request counts as missing: the text is encoded and written again. Files are never removed.

    Args:
        folder: of the cache, made where it is missing; any number of processes and of models may share it.
        identity: of what encodes, see `text_identity`.

    Raises:
        ConfigError: when there can be no such folder.
    """

    def __init__(self, folder: str | Path, identity: str) -> None:
        self.folder = Path(folder).expanduser() / identity[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"text_cache must be a folder that can be written to, got {str(folder)!r}: {error}"
            ) from error

    def get(self, request: Mapping[str, Any], encode: Callable[[], Embedding]) -> Embedding:
        """Return the embedding of a request, and compute it by ``encode`` when the folder does not hold it.

        Args:
            request: the text and everything besides the encoders that its embedding depends on, as JSON values.
            encode: makes it.

        Returns:
            Tensors ``[1, ...]`` by name: on the CPU when they were read, else as ``encode`` gave them.

        Raises:
            OSError: when the new file cannot be written.
        """
        stored = self.read(request)
        if stored is not None:
            return stored
        embedding = encode()
        self._write(request, embedding)
        return embedding

    def path(self, request: Mapping[str, Any]) -> Path:
        """Return the file of a request."""
        return self.folder / f"{hashlib.sha256(_json(request)).hexdigest()[:40]}.safetensors"

    def read(self, request: Mapping[str, Any]) -> Embedding | None:
        """Read a stored embedding to the CPU; None when it is missing or cannot be trusted."""
        path = self.path(request)
        try:
            if path.stat().st_size > MAX_BYTES:
                return None
            with safe_open(path, framework="pt") as file:
                said = (file.metadata() or {}).get(_SAID)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (OSError, SafetensorError):
            return None
        return tensors if said == _said(request, tensors) else None

    def _write(self, request: Mapping[str, Any], embedding: Embedding) -> None:
        # copies of their own, since rows of an encoder's output may share memory
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in embedding.items()}
        data = save(tensors, metadata={_SAID: _said(request, tensors)})
        if len(data) <= MAX_BYTES:
            write_atomic(self.path(request), data)


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
    digest = hashlib.sha256(_json(described))
    for name, part in sorted(pipe.components.items()):
        if part is None or name.startswith(_NOT_TEXT) and not (autoencoder and name == "vae"):
            continue
        digest.update(f"{name} {type(part).__name__}".encode())
        for piece in _weights(part) if isinstance(part, torch.nn.Module) else _files(part):
            digest.update(piece)
    return digest.hexdigest()


def _weights(module: Any) -> Iterator[bytes]:
    config = getattr(module, "config", {})
    yield _json(_settled(config.to_dict() if hasattr(config, "to_dict") else dict(config)))
    yield _digest(module.state_dict()).encode()


def _files(tokenizer: Any) -> Iterator[bytes]:
    """Yield the files that a tokenizer or a processor is saved as."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            content = path.read_bytes()
            yield path.name.encode()
            yield _json(_settled(parse_json(content, lenient=True))) if path.suffix == ".json" else content


def _settled(value: Any) -> Any:
    """Remove incidental settings, at any depth."""
    if isinstance(value, Mapping):
        return {str(name): _settled(inner) for name, inner in value.items() if name not in _INCIDENTAL}
    return [_settled(inner) for inner in value] if isinstance(value, list | tuple) else value


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _said(request: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return what a file records about its content."""
    return _json({"digest": _digest(tensors), "request": request}).decode()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()
