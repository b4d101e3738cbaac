"""Backend that runs a judge model in this process with transformers; the default, which needs no server.

It supports Qwen-VL architectures (Qwen2-VL to Qwen3.5, including UnifiedReward-Flex). Tokenizer and image processor are
loaded separately, since the checkpoint's joint processor also loads a video processor, which needs torchvision.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)
from transformers.utils import logging

from flexgym.core.errors import CheckpointError, ConfigError, unknown_name
from flexgym.core.pretrained import load_part, load_pretrained
from flexgym.core.terminal import without_progress_bars
from flexgym.judge.backends.base import ChatRequest, Decoding, Picture, Reply
from flexgym.judge.backends.local import CHECKPOINT_KIND, TEMPLATE_SETTINGS, check_source, open_picture, user_message
from flexgym.judge.backends.usage import Usage
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.sources import read_judge_config
from flexgym.judge.special_tokens import SpecialTokens

_DTYPES = ("auto", "bfloat16", "float16", "float32")
_PICTURES_KEPT = 64
_TEXTS_KEPT = 64
FirstTokens = tuple[tuple[str, float], ...]
Patches = tuple[torch.Tensor, torch.Tensor]


class TransformersBackend:
    """Chat with a Qwen-VL vision-language model in batches, in this process.

    Weights are only read from safetensors files, and code in the checkpoint is never executed. The checkpoint's stop
    tokens are used, but its sampling settings are ignored.

    Args:
        source: a checkpoint folder or a hub id.
        device: device of the model; by default the first GPU if there is one, otherwise the CPU.
        dtype: data type of the weights, such as ``"float32"``; ``"auto"`` uses the checkpoint's.
        batch_size: number of requests processed at once; by default the checkpoint's, see
            `flexgym.judge.sources.JudgeConfig`.

    Raises:
        CheckpointError: if the checkpoint is missing, incomplete, or of another architecture.
        UnknownNameError: if there is no such dtype.
        ConfigError: if the batch size is below 1.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        batch_size: int | None = None,
    ) -> None:
        batch_size = read_judge_config(source).batch_size if batch_size is None else batch_size
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        self._tokenizer, self._images, model = _load(source, dtype)
        self._model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        self._stops = _stop_tokens(self._model, self._tokenizer)
        # Replace the whole configuration, since the checkpoint's sampling settings would fill in any unset value.
        self._model.generation_config = GenerationConfig(
            eos_token_id=sorted(self._stops), pad_token_id=self._tokenizer.pad_token_id
        )
        self._special = SpecialTokens(self._tokenizer)
        self._batch_size = batch_size
        # Pairs of one group repeat the same images and the same text.
        self._patches = functools.lru_cache(maxsize=_PICTURES_KEPT)(self._preprocess)
        self._tokens = functools.lru_cache(maxsize=_TEXTS_KEPT)(self._tokenize)
        self._usage = Usage()
        self._lock = Lock()  # the model stores the positions of the batch that it is generating

    def complete(self, requests: Sequence[ChatRequest], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """Answer every request, see `Backend.complete`.

        Raises:
            ConfigError: if a JSON schema is given, which only the vllm and server backends can enforce.
        """
        if decoding.json_schema is not None:
            raise ConfigError(
                "the transformers backend cannot enforce a json_schema: leave it out, or use the vllm or server backend"
            )
        outcomes: list[Reply | JudgeFailure] = []
        with self._lock:
            for start in range(0, len(requests), self._batch_size):
                outcomes += self._answer(requests[start : start + self._batch_size], decoding)
        return outcomes

    def metrics(self) -> dict[str, float]:
        """Return the counters of `Usage`, and ``pictures_encoded``: how many images were decoded into patches."""
        return {**self._usage.metrics(), "pictures_encoded": self._patches.cache_info().misses}

    def close(self) -> None:
        """Free the weights; the backend cannot be used afterwards. May be called repeatedly."""
        self._patches.cache_clear()
        self._model = None

    def _answer(self, requests: Sequence[ChatRequest], decoding: Decoding) -> list[Reply | JudgeFailure]:
        start = time.perf_counter()
        patches = {picture.id: self._patches(picture) for request in requests for picture in request.pictures}
        prompts = [self._prompt(request, patches, decoding) for request in requests]
        asked = {index: prompt for index, prompt in enumerate(prompts) if not isinstance(prompt, JudgeFailure)}
        shown = [picture.id for index in asked for picture in requests[index].pictures]
        pictures = self._encode(shown, patches) if shown else {}
        written = iter(self._generate(list(asked.values()), pictures, decoding) if asked else [])
        seconds = time.perf_counter() - start
        outcomes = [
            prompt if isinstance(prompt, JudgeFailure) else self._reply(next(written), len(prompt), seconds)
            for prompt in prompts
        ]
        self._usage.count(outcomes)
        return outcomes

    def _prompt(
        self, request: ChatRequest, patches: Mapping[str, Patches], decoding: Decoding
    ) -> list[int] | JudgeFailure:
        """Return the tokens of a request, or a failure if it cannot be processed."""
        if token := self._special.found_in([request.text]):
            return JudgeFailure(
                "server_error",
                f"the text of the request contains {token}: expected no image token or other special token",
            )
        tokens = self._tokens(request.text, len(request.pictures))
        config = self._model.config
        merged = self._images.merge_size**2
        lengths = [int(patches[picture.id][1].prod()) // merged for picture in request.pictures]
        prompt = _expand(tokens, config.image_token_id, lengths)
        context = config.get_text_config().max_position_embeddings
        if len(prompt) + decoding.max_tokens > context:
            return JudgeFailure(
                "server_error",
                f"a prompt of {len(prompt)} tokens and max_tokens={decoding.max_tokens} exceed the model's context of"
                f" {context}: send smaller images or lower max_tokens",
            )
        return prompt

    def _tokenize(self, text: str, num_pictures: int) -> list[int]:
        """Tokenize the conversation of a request, with one image token per image."""
        return self._tokenizer.apply_chat_template(
            user_message(text, [{"type": "image"}] * num_pictures),
            add_generation_prompt=True,
            return_dict=False,
            **TEMPLATE_SETTINGS,
        )

    def _preprocess(self, picture: Picture) -> Patches:
        """Return the patches ``[N, D]`` of an image and its grid of time, height and width ``[3]``."""
        batch = self._images(images=[open_picture(picture)], return_tensors="pt")
        return batch["pixel_values"], batch["image_grid_thw"][0]

    @torch.no_grad()
    def _encode(self, shown: Sequence[str], patches: Mapping[str, Patches]) -> dict[str, Any]:
        """Run the vision tower on each distinct image once, and return its outputs in the order of ``shown``."""
        places = {picture: place for place, picture in enumerate(dict.fromkeys(shown))}
        pixels, grids = zip(*(patches[picture] for picture in places), strict=True)
        seen = self._model.get_image_features(
            torch.cat(pixels).to(self._model.device), torch.stack(grids).to(self._model.device), return_dict=True
        )
        order = [places[picture] for picture in shown]
        seen.pooler_output = [seen.pooler_output[place] for place in order]
        if hasattr(seen, "deepstack_features"):
            seen.deepstack_features = [[layer[place] for place in order] for layer in seen.deepstack_features]
        return {
            "mm_encoder_outputs": {"image": seen},
            "image_grid_thw": torch.stack([patches[picture][1] for picture in shown]).to(self._model.device),
        }

    @torch.no_grad()
    def _generate(
        self, prompts: list[list[int]], pictures: Mapping[str, Any], decoding: Decoding
    ) -> list[tuple[list[int], FirstTokens]]:
        """Generate a reply per prompt: its tokens up to the first stop token, and its most likely first tokens."""
        inputs = dict(self._tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt"))
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == self._model.config.image_token_id).int()
        device = self._model.device
        processors = LogitsProcessorList()
        if decoding.temperature > 0:
            processors.append(SeededSampling(len(prompts), decoding, device))
        output = self._model.generate(
            **{name: value.to(device) for name, value in inputs.items()},
            **pictures,
            do_sample=False,
            max_new_tokens=decoding.max_tokens,
            logits_processor=processors,
            return_dict_in_generate=True,
            output_logits=decoding.top_logprobs > 0,
        )
        written = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        first = self._first_tokens(output.logits[0], decoding.top_logprobs) if output.logits else [()] * len(written)
        return [(self._until_stop(row), top) for row, top in zip(written, first, strict=True)]

    def _first_tokens(self, logits: torch.Tensor, count: int) -> list[FirstTokens]:
        """Return the ``count`` most likely tokens and their log-probabilities for logits ``[B, V]``."""
        best = logits.float().log_softmax(-1).topk(min(count, logits.shape[-1]))
        return [
            tuple((self._tokenizer.decode([token]), value) for token, value in zip(tokens, values, strict=True))
            for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _until_stop(self, tokens: list[int]) -> list[int]:
        """Remove the padding after the first stop token."""
        end = next((index for index, token in enumerate(tokens) if token in self._stops), len(tokens))
        return tokens[: end + 1]

    def _reply(self, written: tuple[list[int], FirstTokens], prompt_tokens: int, seconds: float) -> Reply:
        tokens, first_tokens = written
        return Reply(
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            finish_reason="stop" if tokens[-1] in self._stops else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(tokens),
            seconds=seconds,
            first_tokens=first_tokens,
        )


class SeededSampling(LogitsProcessor):
    """Turn greedy decoding into sampling by adding Gumbel noise: the largest noisy logit is a draw from the softmax.

    Each row has its own random generator, so a reply depends neither on the other requests in the batch nor on the
    global random state, which is left unchanged.

    Args:
        rows: batch size B.
        decoding: temperature, above 0, and the seed of every row.
        device: device of the logits.
    """

    def __init__(self, rows: int, decoding: Decoding, device: torch.device) -> None:
        self._temperature = decoding.temperature
        self._generators = [torch.Generator(device).manual_seed(decoding.seed) for _ in range(rows)]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the logits divided by the temperature, plus Gumbel noise.

        Args:
            input_ids: ignored.
            scores: logits ``[B, V]``.

        Returns:
            Noisy logits ``[B, V]``.
        """
        noise = torch.stack([torch.empty_like(scores[0]).exponential_(generator=random) for random in self._generators])
        return scores / self._temperature - noise.log()


def _load(source: str | Path, dtype: str | torch.dtype) -> tuple[Any, Any, Any]:
    """Load tokenizer, image processor and model."""
    if isinstance(dtype, str) and dtype not in _DTYPES:
        raise unknown_name("dtype", dtype, _DTYPES)
    check_source(source)
    tokenizer, images = (load_part(kind, source, what=CHECKPOINT_KIND) for kind in (AutoTokenizer, AutoImageProcessor))
    with without_progress_bars(logging):
        model = load_pretrained(
            AutoModelForImageTextToText, source, what=CHECKPOINT_KIND, dtype=dtype, trust_remote_code=False
        )
    if not hasattr(model.config, "image_token_id") or "image_grid_thw" not in images.model_input_names:
        raise CheckpointError(
            f"expected a Qwen-VL checkpoint, such as qwen3_vl, got {model.config.model_type!r} in {source}:"
            " serve it with vLLM and use the server backend"
        )
    if tokenizer.chat_template is None:
        raise CheckpointError(f"{source} has no chat template: expected chat_template.jinja next to its tokenizer")
    return tokenizer, images, model


def _stop_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end a reply according to the checkpoint's generation settings and tokenizer."""
    stops = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])} - {None}


def _expand(tokens: Sequence[int], placeholder: int, lengths: Sequence[int]) -> list[int]:
    """Repeat the n-th placeholder ``lengths[n]`` times."""
    remaining = iter(lengths)
    expanded: list[int] = []
    for token in tokens:
        expanded += [token] * (next(remaining) if token == placeholder else 1)
    return expanded
