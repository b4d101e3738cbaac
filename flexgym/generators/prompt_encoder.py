"""Encoded prompts: text and conditioning images, cached in memory and on disk."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.generators.conditioning import Conditioning, Embedding, EmbeddingCache, stack_rows
from flexgym.generators.family import FIRST_FRAME, Family
from flexgym.generators.identity import text_identity
from flexgym.generators.placement import AUTOENCODER, Placement
from flexgym.generators.tensor_cache import TensorCache
from flexgym.types import FirstFrame, Prompt

_IMAGE_ENCODER = "image_encoder"
Images = Mapping[str, FirstFrame]
"""Conditioning images of one prompt by role; empty for generators from text alone."""


@dataclass
class _Store:
    """Caches and released encoders: one object, shared by all views of a generator."""

    memory: EmbeddingCache = field(default_factory=EmbeddingCache)
    disk: TensorCache | None = None
    released: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Encoding:
    """One embedding to look up or to compute.

    Attributes:
        request: everything that it depends on besides the weights, as JSON values; its key in both caches.
        encode: computes it.
    """

    request: Mapping[str, Any]
    encode: Callable[[], Embedding]

    @property
    def key(self) -> tuple[tuple[str, Any], ...]:
        """The request as a key of the cache in memory."""
        return tuple(self.request.items())


class PromptEncoder:
    """Encodes prompts by the encoders of a pipeline, each text and each set of images once.

    Args:
        family: how the pipeline does it.
        placement: brings encoders to the device when they are offloaded.
    """

    def __init__(self, family: Family, placement: Placement) -> None:
        self._family = family
        self._placement = placement
        self._store = _Store()

    def view(self, family: Family) -> PromptEncoder:
        """Return an encoder for other sampling settings, which shares caches and encoders."""
        view = copy.copy(self)
        view._family = family
        return view

    # --- encoding ----------------------------------------------------------------------------------------------------

    def condition(self, prompts: Sequence[str | Prompt], *, guided: bool) -> Conditioning:
        """Encode prompts. Each text is encoded alone, so that it does not depend on the others beside it.

        Args:
            prompts: P texts, or prompts with conditioning images where the generator takes them.
            guided: encode the text of the unconditional branch as well: ``negative_prompt``, or the empty one.

        Returns:
            P rows on the generator's device.

        Raises:
            ConfigError: there is no prompt, or a new one after `release`; see also `images`.
        """
        if isinstance(prompts, str) or not prompts:
            raise ConfigError(f"expected a sequence of at least one prompt, got {prompts!r}")
        images = self.encode_images(prompts)
        texts = [self._text_of(text) for text in prompts]
        entries = self._look_up([*texts, self._negative()] if guided else texts)
        empty = entries.pop() if guided else {}
        return Conditioning(_rows(entries), empty, _rows(images))

    def encode_text(self, text: str) -> Embedding:
        """Encode one text as arguments of the transformer, each ``[1, ...]``; cached like those of `condition`."""
        return self._look_up([self._text_of(text)])[0]

    def encode_images(self, prompts: Sequence[str | Prompt]) -> list[Embedding]:
        """Encode the conditioning images of prompts, one embedding per prompt; none for generators from text alone.

        Args:
            prompts: P of them.

        Raises:
            ConfigError: see `images`, or new images after `release`.
        """
        wanted = [self._images_of(images) for images in self.images(prompts) if images]
        return self._look_up(wanted, AUTOENCODER, _IMAGE_ENCODER)

    def images(self, prompts: Sequence[str | Prompt]) -> list[dict[str, FirstFrame]]:
        """Return the conditioning images of prompts by role, at the size of the sample.

        Args:
            prompts: P of them.

        Returns:
            One mapping per prompt, empty for a generator from text alone.

        Raises:
            ConfigError: a prompt lacks an image, or has one that the generator does not take.
            PromptSourceError: a file cannot be read.
        """
        size = (self._family.settings.height, self._family.settings.width)
        found = [self._checked(prompt) for prompt in prompts]
        return [{role: image.fitted(*size) for role, image in images.items()} for images in found]

    def _checked(self, prompt: str | Prompt) -> dict[str, FirstFrame]:
        frame = None if isinstance(prompt, str) else prompt.first_frame
        found = {} if frame is None else {FIRST_FRAME: frame}
        if tuple(found) != self._family.image_roles:
            raise ConfigError(_mismatch(self._family.name, prompt))
        return found

    def _negative(self) -> _Encoding:
        """Return the text of the unconditional branch of guidance."""
        return self._text_of(self._family.settings.negative_prompt or "", negative=True)

    def _text_of(self, prompt: str | Prompt, *, negative: bool = False) -> _Encoding:
        text = prompt if isinstance(prompt, str) else prompt.text
        request = {"text": text, "max_sequence_length": self._family.settings.max_sequence_length, **self._place()}
        if negative and text:
            request["negative"] = True
        if not self._family.text_sees_images:
            return _Encoding(request, lambda: self._encode_text(text, negative=negative))
        # the text is read together with the images, so that the embedding is that of both
        prompted = not isinstance(prompt, str)
        images = self.images([prompt])[0] if prompted else self._black_images()
        options = self._family.image_options(prompted)
        request |= {role: image.digest for role, image in images.items()} | options
        options["image"] = Image.fromarray(next(iter(images.values())).pixels)
        return _Encoding(request, lambda: self._encode_text(text, negative=negative, **options))

    def _black_images(self) -> dict[str, FirstFrame]:
        settings = self._family.settings
        black = FirstFrame(np.zeros((settings.height, settings.width, 3), np.uint8))
        return dict.fromkeys(self._family.image_roles, black)

    def _images_of(self, images: Images) -> _Encoding:
        tiled = bool(getattr(self._family.pipe.vae, "use_tiling", False))
        digests = {role: image.digest for role, image in images.items()}
        request = {**digests, "num_frames": self._family.settings.num_frames, "tiled": tiled, **self._place()}
        return _Encoding(request, lambda: self._encode_images(images))

    def _place(self) -> dict[str, str]:
        """Return what every embedding depends on besides the encoders; kernels of another device round otherwise."""
        return {"dtype": str(self._family.dtype), "device": self._placement.device.type}

    @torch.no_grad()
    def _encode_text(self, text: str, *, negative: bool, **options: Any) -> Embedding:
        if self._store.released:
            raise ConfigError(
                f"expected one of the prompts that were encoded before the text encoders were released, got {text!r}:"
                " name it among the prompts of the run, or set generator.release_text_encoders=false"
            )
        with self._placement.using(*self._placement.encoders()):
            return self._family.encode_text(text, negative=negative, **options)

    @torch.no_grad()
    def _encode_images(self, images: Images) -> Embedding:
        if _IMAGE_ENCODER in self._store.released:
            raise ConfigError(
                "expected one of the first frames that were encoded before the encoders were released, got another:"
                " name it among the prompts of the run, or set generator.release_text_encoders=false"
            )
        with self._placement.using(AUTOENCODER, _IMAGE_ENCODER):
            loaded = {role: Image.fromarray(image.pixels) for role, image in images.items()}
            embedding = self._family.encode_images(loaded)
        return {name: tensor.to(self._placement.device) for name, tensor in embedding.items()}

    # --- caches ------------------------------------------------------------------------------------------------------

    def cached(self) -> list[Tensor]:
        """Return the tensors that the cache in memory holds."""
        return self._store.memory.tensors()

    def cache_on_disk(self, folder: str | Path) -> None:
        """Keep encoded prompts on disk as well, see `TensorCache`.

        Args:
            folder: folder of the cache; other processes, runs and models may share it.

        Raises:
            ConfigError: there can be no such folder, or the text encoders are released already.
        """
        if self._store.released:
            raise ConfigError("cache_on_disk comes before release, since the cache must know what encodes")
        identity = text_identity(self._family.pipe, autoencoder=bool(self._family.image_roles))
        self._store.disk = TensorCache(folder, identity, setting="text_cache")

    def release(self, prompts: Iterable[str | Prompt]) -> None:
        """Encode prompts and the unconditional text, then drop the encoders from memory, for all views.

        Afterwards, a prompt that neither cache holds is a ConfigError: nothing is loaded again in the middle of a run,
        where the memory may be taken.

        Args:
            prompts: every prompt that will be asked for, with the settings of this view.

        Raises:
            ConfigError: the embeddings do not fit the cache in memory and there is none on disk; the encoders stay.
        """
        wanted = list({each.key: each for each in self._released_with(list(prompts))}.values())
        names = tuple(self._placement.encoders())
        with self._placement.using(*names):  # once for all
            for each in wanted:
                self._embed(each)
        lost = [each for each in wanted if not self._holds(each)]
        if lost:
            raise ConfigError(
                f"{len(lost)} of {len(wanted)} encoded prompts do not fit the cache in memory, so the text encoders"
                " cannot be released: set generator.text_cache=FOLDER (cache_on_disk), and they are read from there"
            )
        self._placement.remove(names)
        self._store.released += names
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def released(self) -> tuple[str, ...]:
        """The names in the pipeline of the encoders that `release` dropped."""
        return self._store.released

    def _released_with(self, prompts: Sequence[str | Prompt]) -> list[_Encoding]:
        """Return what must be encoded first: texts, and images where their encoder is dropped with the others."""
        texts = [self._negative(), *(self._text_of(prompt) for prompt in prompts)]
        if not (self._family.image_roles and _IMAGE_ENCODER in self._placement.encoders()):
            return texts
        return texts + [self._images_of(images) for images in self.images(prompts)]

    def _look_up(self, wanted: Sequence[_Encoding], *encoders: str) -> list[Embedding]:
        """Return embeddings; offloaded encoders come to the device once for all that are new."""
        names = encoders or tuple(self._placement.encoders())
        is_known = all(self._holds(each) for each in wanted)
        with self._placement.using(*(() if is_known else names)):
            return [self._embed(each) for each in wanted]

    def _embed(self, wanted: _Encoding) -> Embedding:
        """Return one embedding on the device, each tensor ``[1, ...]``: from memory, from disk, or encoded."""
        return self._store.memory.get(wanted.key, lambda _: self._find(wanted))

    def _find(self, wanted: _Encoding) -> Embedding:
        if self._store.disk is None:
            return wanted.encode()
        entry = self._store.disk.get(wanted.request, wanted.encode)
        return {name: tensor.to(self._placement.device) for name, tensor in entry.items()}

    def _holds(self, wanted: _Encoding) -> bool:
        disk = self._store.disk
        return wanted.key in self._store.memory or disk is not None and disk.path(wanted.request).is_file()


def _rows(entries: Sequence[Embedding]) -> dict[str, Tensor]:
    """Stack embeddings ``[1, ...]`` by name."""
    return {name: stack_rows([entry[name] for entry in entries]) for name in (entries[0] if entries else ())}


def _mismatch(name: str, prompt: str | Prompt) -> str:
    text = prompt if isinstance(prompt, str) else prompt.text
    if isinstance(prompt, str) or prompt.first_frame is None:
        return (
            f"{name} makes videos from their first frame, and the prompt {text[:80]!r} has none: give"
            ' Prompt(text, first_frame=FirstFrame(path)), or {"prompt": ..., "first_frame": path} in a .jsonl file'
        )
    return f"{name} makes samples from text alone: expected a prompt without first_frame, got one for {text[:80]!r}"
