"""The text side of a generator: what encodes prompts, where their embeddings are kept, and how the encoders leave."""

from __future__ import annotations

import gc
import inspect
import json
import shutil
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.generators.conditioning import Embedding, EmbeddingCache
from flexgym.generators.folder import MODEL_INDEX, read_json
from flexgym.generators.placement import Placed
from flexgym.generators.sampling import Sampling
from flexgym.generators.text_cache import TextCache, text_identity
from flexgym.types import Prompt

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass
class _TextState:
    """One object, shared by all views of a generator."""

    cache: TextCache | None = None
    released: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """Something to be encoded.

    Attributes:
        key: in the cache in memory.
        request: in the cache on the disk, see `TextCache`.
        encode: makes the embedding.
    """

    key: Hashable
    request: Mapping[str, Any]
    encode: Callable[[], Embedding]


class TextConditioned(Placed):
    """Encoding of prompts by the text encoders of a pipeline.

    Args:
        pipe: the pipeline.
    """

    encoded: ClassVar[tuple[str | None, ...]] = ("encoder_hidden_states",)
    """What each output of ``encode_prompt`` is called by the transformer; None for outputs that are not used."""
    takes_first_frame: ClassVar[bool] = False
    """Whether a prompt is a text and the picture that the video begins with."""

    settings: Sampling
    dtype: torch.dtype

    def __init__(self, pipe: DiffusionPipeline) -> None:
        super().__init__(pipe)
        self._cache = EmbeddingCache()
        self._text = _TextState()

    def cache_text(self, folder: str | Path) -> None:
        """Keep encoded prompts on the disk as well, see `TextCache`.

        Args:
            folder: of the cache; it may be shared with other processes, runs and models.

        Raises:
            ConfigError: when there can be no such folder, or the text encoders are released already.
        """
        if self._text.released:
            raise ConfigError("cache_text comes before release_text_encoders, since it must know what encodes")
        self._text.cache = TextCache(folder, text_identity(self.pipe, autoencoder=self.takes_first_frame))

    def release_text_encoders(self, prompts: Iterable[str | Prompt]) -> None:
        """Encode prompts and the empty one, then drop the text encoders from memory, for all views.

        Afterwards a text that is held neither in memory nor by `cache_text` is a ConfigError: nothing is loaded again
        behind the caller's back, in the middle of a run, where the memory may be taken.

        Args:
            prompts: all that will be asked for, with the settings of this view.

        Raises:
            ConfigError: when the embeddings do not fit the cache in memory and there is none on the disk; the encoders
                stay then.
        """
        wanted = list({each.key: each for each in self._wanted(["", *prompts])}.values())
        with self._acting(*self.text_encoders()):  # once for all
            for each in wanted:
                self._embed(each)
        lost = [each for each in wanted if not self._holds(each)]
        if lost:
            raise ConfigError(
                f"{len(lost)} of {len(wanted)} encoded prompts do not fit the cache in memory, so the text encoders"
                " cannot be released: set generator.text_cache=FOLDER (cache_text), and they are read from there"
            )
        names = tuple(self.text_encoders())
        self.pipe.register_modules(**dict.fromkeys(names))
        self._resting.difference_update(names)
        self._text.released += names
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def encode_text(self, text: str) -> Embedding:
        """A text alone, as arguments of the transformer, each ``[1, ...]``; kept as by `condition`."""
        return self._embed_all([self._text_of(text)], *self.text_encoders())[0]

    def _wanted(self, prompts: Sequence[str | Prompt]) -> list[Wanted]:
        """What the encoders that can be released make of prompts."""
        return [self._text_of(prompt) for prompt in prompts]

    def _text_of(self, prompt: str | Prompt) -> Wanted:
        text = prompt if isinstance(prompt, str) else prompt.text
        request = {"text": text, "max_sequence_length": self.settings.max_sequence_length, **self._place()}
        return Wanted(text, request, lambda: self._encode(text))

    def _place(self) -> dict[str, str]:
        """What every embedding depends on besides the encoders; kernels of another device round otherwise."""
        return {"dtype": str(self.dtype), "device": self.device.type}

    def _embed_all(self, wanted: Sequence[Wanted], *encoders: str) -> list[Embedding]:
        """Everything as by `_embed`; resting encoders come once for all that is new."""
        is_known = all(self._holds(each) for each in wanted)
        with self._acting(*(() if is_known else encoders)):
            return [self._embed(each) for each in wanted]

    def _embed(self, wanted: Wanted) -> Embedding:
        """One embedding on the device, each tensor ``[1, ...]``: from memory, from the disk, or encoded."""
        return self._cache.get(wanted.key, lambda _: self._find(wanted))

    def _find(self, wanted: Wanted) -> Embedding:
        if self._text.cache is None:
            return wanted.encode()
        entry = self._text.cache.get(wanted.request, wanted.encode)
        return {name: tensor.to(self.device) for name, tensor in entry.items()}

    def _holds(self, wanted: Wanted) -> bool:
        cache = self._text.cache
        return wanted.key in self._cache or cache is not None and cache.path(wanted.request).is_file()

    @torch.no_grad()
    def _encode(self, text: str, **options: Any) -> Embedding:
        if self._text.released:
            raise ConfigError(
                f"expected one of the prompts that were encoded before the text encoders were released, got {text!r}:"
                " name it among the prompts of the run, or set generator.release_text_encoders=false"
            )
        offered = {
            "prompt": [text],
            "device": self.device,
            "num_images_per_prompt": 1,
            "num_videos_per_prompt": 1,
            "do_classifier_free_guidance": False,
            "max_sequence_length": self.settings.max_sequence_length,
        }
        wanted = inspect.signature(self.pipe.encode_prompt).parameters
        arguments = {name: value for name, value in offered.items() if name in wanted and value is not None}
        # second and third encoders take the same text when they are given none
        for name, parameter in wanted.items():
            if name.startswith("prompt_") and parameter.default is parameter.empty:
                arguments[name] = None
        with self._acting(*self.text_encoders()):
            outputs = self.pipe.encode_prompt(**{**arguments, **self.encode_options(text), **options})
            embedding = self.embedding(outputs)
        return {name: tensor.to(self.device, self.dtype) for name, tensor in embedding.items()}

    def encode_options(self, text: str) -> dict[str, Any]:
        """Further arguments of ``encode_prompt`` for a text; the empty one is that of the unconditional branch."""
        return {}

    def embedding(self, outputs: Sequence[Any]) -> Embedding:
        """What ``encode_prompt`` returned for one text, as arguments of the transformer, each ``[1, ...]``."""
        return {name: output for name, output in zip(self.encoded, outputs, strict=False) if name is not None}

    def _write_pipeline(self, folder: Path, whole: Mapping[str, Any]) -> None:
        """The pipeline with its released text encoders: they never train, so those of the checkpoint are copied."""
        super()._write_pipeline(folder, whole)
        if not self._text.released:
            return
        if self.checkpoint_folder is None:
            raise CheckpointError(
                "the text encoders were released and came from no folder, so the pipeline cannot be written whole:"
                " load it with load_generator, or keep the text encoders"
            )
        index, source = read_json(folder / MODEL_INDEX), read_json(self.checkpoint_folder / MODEL_INDEX)
        for name in self._text.released:
            shutil.copytree(self.checkpoint_folder / name, folder / name)
            index[name] = source[name]
        (folder / MODEL_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
