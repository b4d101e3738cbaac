"""Backend that runs a judge model in this process with vLLM's offline engine."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import torch

from flexgym.core.errors import ConfigError
from flexgym.core.text import one_line
from flexgym.core.weight_files import check_weight_files
from flexgym.judge.backends.base import ChatRequest, Decoding, Reply
from flexgym.judge.backends.local import TEMPLATE_SETTINGS, check_source, open_picture, user_message
from flexgym.judge.backends.usage import Usage
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.sources import picture_limit

_PICTURES_KEPT = 64
_COUNTERS = ("prefix_cache_queries", "prefix_cache_hits", "mm_cache_queries", "mm_cache_hits")


class VLLMBackend:
    """Chat with a vision-language model through vLLM, with all requests of a call at once.

    Shared prompt prefixes are processed once (prefix cache). Images are identified by id, so each one is preprocessed
    once as long as it stays in the cache. The checkpoint's sampling settings are ignored.

    Args:
        source: a checkpoint folder or a hub id.
        gpu_memory_utilization: fraction of the GPU's memory that vLLM allocates.
        max_model_len: maximum length of prompt and reply together, in tokens; the checkpoint's limit by default. A
            lower value needs less memory.
        enforce_eager: disable compilation and CUDA graphs, which starts faster but runs slower.
        share_gpu: sleep between calls to free memory for a policy on the same GPU: weights are offloaded to host
            memory, and caches are cleared.
        max_pictures: maximum number of images per request: 2 for image pairs, twice the number of frames for videos;
            by default the value given by the checkpoint's `JudgeConfig`.
        dtype: data type of the weights; ``"auto"`` uses the checkpoint's (float16 if that is float32).
        engine: additional arguments of `vllm.LLM`, such as ``tensor_parallel_size``. Images are encoded once per group
            if the tokens of all of them fit into ``max_num_batched_tokens``.

    Raises:
        ConfigError: if vLLM is not installed, or the number of images is below 1.
        CheckpointError: if the checkpoint does not exist.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        enforce_eager: bool = False,
        share_gpu: bool = False,
        max_pictures: int | None = None,
        dtype: str = "auto",
        **engine: Any,
    ) -> None:
        self._vllm = _import_vllm()
        check_source(source)
        if Path(source).expanduser().is_dir():
            check_weight_files(Path(source).expanduser())
        self._llm = self._vllm.LLM(
            str(source),
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_model_len,
            enforce_eager=enforce_eager,
            enable_sleep_mode=share_gpu,
            limit_mm_per_prompt=picture_limit(source, max_pictures),
            dtype=dtype,
            generation_config="vllm",
            enable_prefix_caching=True,
            disable_log_stats=False,
            **engine,
        )
        self._share_gpu = share_gpu
        self._open = functools.lru_cache(maxsize=_PICTURES_KEPT)(open_picture)
        self._usage = Usage()
        self._lock = Lock()  # the engine serves one caller at a time
        if share_gpu:
            self._llm.sleep(level=1)

    def complete(self, requests: Sequence[ChatRequest], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """Answer every request, see `Backend.complete`."""
        with self._lock, self._awake():
            outcomes = self._answer(requests, self._sampling(decoding))
        self._usage.count(outcomes)
        return outcomes

    def metrics(self) -> dict[str, float]:
        """Return counters of `Usage`, ``prefix_cache_queries`` and ``_hits`` (tokens), and ``pictures_encoded``."""
        counters = dict.fromkeys(_COUNTERS, 0)
        for metric in self._llm.get_metrics():
            name = metric.name.removeprefix("vllm:")
            if name in counters:
                counters[name] += metric.value
        pictures_encoded = counters.pop("mm_cache_queries") - counters.pop("mm_cache_hits")
        return {**self._usage.metrics(), **counters, "pictures_encoded": pictures_encoded}

    def close(self) -> None:
        """Shut down the engine and free its memory; the backend cannot be used afterwards."""
        self._llm.llm_engine.engine_core.shutdown()
        self._open.cache_clear()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        if not self._share_gpu:
            yield
            return
        # Memory cached by the policy's allocator would not be available for the weights.
        torch.cuda.empty_cache()
        self._llm.wake_up()
        try:
            yield
        finally:
            self._llm.sleep(level=1)

    def _sampling(self, decoding: Decoding) -> Any:
        schema = decoding.json_schema
        return self._vllm.SamplingParams(
            temperature=decoding.temperature,
            seed=decoding.seed,
            max_tokens=decoding.max_tokens,
            logprobs=decoding.top_logprobs or None,
            structured_outputs=schema and self._vllm.sampling_params.StructuredOutputsParams(json=dict(schema)),
        )

    def _answer(self, requests: Sequence[ChatRequest], sampling: Any) -> list[Reply | JudgeFailure]:
        asked: list[str | JudgeFailure] = []
        try:
            for request in requests:
                asked.append(self._ask(request, sampling))
            outputs = iter(self._llm.wait_for_completion(use_tqdm=False))
        except BaseException:
            # Abort queued requests, since their replies would be taken for those of the next call.
            names = [name for name in asked if isinstance(name, str)]
            self._llm.llm_engine.abort_request(names, internal=True)
            raise
        return [name if isinstance(name, JudgeFailure) else _outcome(next(outputs)) for name in asked]

    def _ask(self, request: ChatRequest, sampling: Any) -> str | JudgeFailure:
        """Queue a request and return the engine's id for it, or a failure if it is rejected."""
        pictures = [
            {"type": "image_pil", "image_pil": self._open(picture), "uuid": picture.id} for picture in request.pictures
        ]
        try:
            (name,) = self._llm.enqueue_chat(
                user_message(request.text, pictures), sampling, use_tqdm=False, chat_template_kwargs=TEMPLATE_SETTINGS
            )
        except (ValueError, self._vllm.exceptions.VLLMClientError) as error:
            return JudgeFailure("server_error", one_line(str(error)))
        return name


def _outcome(output: Any) -> Reply | JudgeFailure:
    written, times = output.outputs[0], output.metrics
    if written.finish_reason not in ("stop", "length"):
        return JudgeFailure("server_error", f"vLLM ended the request without a reply: {written.finish_reason}")
    return Reply(
        text=written.text,
        finish_reason=written.finish_reason,
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(written.token_ids),
        cached_tokens=output.num_cached_tokens or 0,
        seconds=times.last_token_ts - times.queued_ts,
        first_tokens=_first_tokens(written),
    )


def _first_tokens(written: Any) -> tuple[tuple[str, float], ...]:
    if not written.logprobs:
        return ()
    candidates = [(one.decoded_token, one.logprob) for one in written.logprobs[0].values()]
    return tuple(sorted(candidates, key=lambda one: -one[1]))


def _import_vllm() -> ModuleType:
    """Import vLLM lazily, since it is an optional dependency and takes seconds to import."""
    # vLLM sends usage statistics unless they are disabled.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm
        import vllm.exceptions  # noqa: F401  (reached as vllm.exceptions)
        import vllm.sampling_params  # noqa: F401  (reached as vllm.sampling_params)
    except ImportError as error:
        raise ConfigError(
            f"the vllm backend needs vLLM, which cannot be imported here ({error}): pip install 'flexgym[vllm]'. If its"
            " versions of torch and transformers conflict with yours, serve the judge from a separate environment"
            " (flexgym judge serve) and give the server's address instead"
        ) from error
    return vllm
