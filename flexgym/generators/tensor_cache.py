"""Encodings on disk, so that a text or a sample is encoded once for all processes and all runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.core.files import write_atomic
from flexgym.generators.conditioning import Embedding

MAX_BYTES = 1 << 28
"""Size of one file at most; embeddings in use take up to 16 MiB, encoded first frames up to 32 MiB."""

_SAID = "flexgym"


class TensorCache:
    """Folder with one safetensors file per encoding, such as that of a prompt.

    A file appears complete or not at all. One that is truncated, larger than `MAX_BYTES`, altered, or of another
    request counts as missing: it is computed and written again. Files are never removed.

    Args:
        folder: of the cache, made where it is missing; any number of processes and of models may share it.
        identity: digest of what encodes.
        setting: name of the setting that chose the folder, for messages.

    Raises:
        ConfigError: when there can be no such folder.
    """

    def __init__(self, folder: str | Path, identity: str, *, setting: str) -> None:
        self.folder = Path(folder).expanduser() / identity[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{setting} must be a folder that can be written to, got {str(folder)!r}: {error}"
            ) from error

    def get(self, request: Mapping[str, Any], encode: Callable[[], Embedding]) -> Embedding:
        """Return the embedding of a request, and compute it by ``encode`` when the folder does not hold it.

        Args:
            request: everything besides what encodes that the embedding depends on, as JSON values.
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
        return self.folder / f"{hashlib.sha256(json_bytes(request)).hexdigest()[:40]}.safetensors"

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


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return a hexadecimal digest of tensors with their names, precisions and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _said(request: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return what a file records about its content."""
    return json_bytes({"digest": digest_of(tensors), "request": request}).decode()


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON with sorted keys; what JSON lacks is written as its text."""
    return json.dumps(value, sort_keys=True, default=str).encode()
