"""UnifiedReward-Flex (arXiv 2602.02380): a vision-language judge that writes its own criteria for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexgym.errors import ConfigError
from flexgym.judge import Tournament
from flexgym.judge.backends.base import Backend, Decoding
from flexgym.judge.backends.opening import open_backend
from flexgym.judge.inputs import Inputs
from flexgym.judge.template import read_template
from flexgym.judge.vision_judge import VisionJudge
from rewards.base import JudgeReward, register


@register("unified_reward_flex")
class UnifiedRewardFlex(JudgeReward):
    """Win rates in a tournament judged by UnifiedReward-Flex, or by any model that answers in its form.

    Args:
        judge: addresses of OpenAI-compatible servers, a checkpoint folder, a hub id, or a backend, which stays open.
        backend: ``"server"``, ``"vllm"`` or ``"transformers"``; by default the server for addresses, else transformers.
        backend_settings: keyword arguments of the backend, such as ``max_concurrency`` or ``gpu_memory_utilization``.
        prompt_template: a text file with ``{prompt}`` in it, in place of the built-in wording.
        decoding: fields of `flexgym.judge.backends.base.Decoding` by name; greedy by default.
        inputs: fields of `flexgym.judge.inputs.Inputs` by name: picture format, frames of a video, size limits.
        tournament: fields of `flexgym.judge.Tournament` by name; all pairs with balanced sides by default.
    """

    def __init__(
        self,
        judge: str | Path | Sequence[str] | Backend = "",
        *,
        backend: str | None = None,
        backend_settings: Mapping[str, Any] | None = None,
        prompt_template: str | Path | None = None,
        decoding: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        tournament: Tournament | Mapping[str, Any] | None = None,
    ) -> None:
        template = read_template(prompt_template) if prompt_template else None
        sampling, pictures = _built("decoding", Decoding, decoding), _built("inputs", Inputs, inputs)
        self._backend = open_backend(judge, backend, backend_settings)
        self._opened_here = self._backend is not judge
        super().__init__(VisionJudge(self._backend, template=template, decoding=sampling, inputs=pictures), tournament)

    def metrics(self) -> dict[str, float]:
        """Requests, tokens, latency, cache hits and failures of the backend since it was made."""
        return self._backend.metrics()

    def close(self) -> None:
        """Wait for submitted work, then close a backend that was opened here."""
        super().close()
        if self._opened_here:
            self._backend.close()


def _built(name: str, kind: Any, values: Mapping[str, Any] | None) -> Any:
    """A dataclass from settings; its own errors say what is wrong with a value."""
    try:
        return kind(**(values or {}))
    except TypeError as error:
        known = ", ".join(field for field in kind.__dataclass_fields__)
        raise ConfigError(f"{name}: {error}. Known: {known}.") from error
