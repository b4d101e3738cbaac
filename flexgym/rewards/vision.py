"""Shared code of the rewards by vision-language models: how the model is reached, asked and closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypedDict, Unpack

from flexgym.core.errors import check_names
from flexgym.core.options import built_settings
from flexgym.core.typed import check_fields
from flexgym.judge import Tournament, make_tournament
from flexgym.judge.backends.base import Backend, Decoding
from flexgym.judge.backends.opening import check_backend, open_backend
from flexgym.judge.dialect import Dialect
from flexgym.judge.inputs import Inputs
from flexgym.judge.sources import read_judge_config
from flexgym.judge.template import Template, read_template
from flexgym.judge.vision_judge import VisionJudge
from flexgym.reward import JudgeReward, Reward

JudgeSource = str | Path | Sequence[str] | Backend
"""Addresses of OpenAI-compatible servers, a checkpoint folder, a hub id, ``"shapes-judge"`` for the embedded judge, or
a backend, which is not closed."""


class ModelSettings(TypedDict, total=False):
    """Settings of every reward by a vision-language model.

    Attributes:
        backend: ``"server"``, ``"vllm"`` or ``"transformers"``; by default the server for addresses, else transformers.
        backend_settings: keyword arguments of the backend, such as ``max_concurrency`` or ``gpu_memory_utilization``.
        prompt_template: a text file that contains ``{prompt}``, instead of the built-in wording.
        decoding: fields of `flexgym.judge.backends.base.Decoding` by name; greedy by default.
        inputs: fields of `flexgym.judge.inputs.Inputs` by name: image format, frames of a video, size limits. The
            defaults of ``decoding`` and ``inputs`` are those of the checkpoint folder, if it has a
            `flexgym.judge.sources.JudgeConfig`.
    """

    backend: str | None
    backend_settings: Mapping[str, Any] | None
    prompt_template: str | Path | None
    decoding: Mapping[str, Any] | None
    inputs: Mapping[str, Any] | None


@dataclass(frozen=True)
class Wording:
    """Form of the requests to a model.

    Attributes:
        template: the text below the images; None for the built-in one.
        decoding: sampling settings of replies.
        inputs: settings that turn samples into images.
    """

    template: Template | None
    decoding: Decoding
    inputs: Inputs

    @classmethod
    def read(cls, judge: JudgeSource, settings: Mapping[str, Any]) -> Wording:
        """Read the wording from `ModelSettings` and, where they say nothing, from the judge's checkpoint folder."""
        template, trained_as = settings.get("prompt_template"), read_judge_config(judge)
        return cls(
            template=read_template(template) if template else None,
            decoding=built_settings("decoding", Decoding, settings.get("decoding"), defaults=trained_as.decoding),
            inputs=built_settings("inputs", Inputs, settings.get("inputs"), defaults=trained_as.inputs),
        )


class VisionReward(Reward):
    """Base class of rewards that query a vision-language model.

    Args:
        judge: the model, see `JudgeSource`.
        settings: how the model is opened and queried; all settings are checked before the model is loaded.

    Attributes:
        backend: backend that runs the model.
        wording: how the model is queried.

    Raises:
        ConfigError: if a setting is not valid.
        UnknownNameError: if there is no such setting; the message suggests the nearest name.
    """

    pickled_as_settings = True
    default_judge: ClassVar[str] = ""

    def __init__(self, judge: JudgeSource | None, settings: ModelSettings) -> None:
        check_names(f"setting of {self.name}", settings, ModelSettings.__annotations__)
        judge = self.default_judge if judge is None else judge
        self.wording = Wording.read(judge, settings)
        self.backend = open_backend(judge, settings.get("backend"), settings.get("backend_settings"))
        self._opened_here = self.backend is not judge

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Check how the model is reached and asked, without loading it."""
        super().check_settings(settings)
        judge = settings.get("judge")
        judge = cls.default_judge if judge is None else judge
        check_backend(judge, settings.get("backend"), settings.get("backend_settings"))
        check_fields("decoding", Decoding, settings.get("decoding"))
        check_fields("inputs", Inputs, settings.get("inputs"))
        Wording.read(judge, settings)

    def metrics(self) -> dict[str, float]:
        """Return requests, tokens, latency, cache hits and failures of the backend since it was opened."""
        return self.backend.metrics()

    def close(self) -> None:
        """Wait for submitted work, then close a backend that was opened here."""
        super().close()
        if self._opened_here:
            self.backend.close()


class PairwiseReward(VisionReward, JudgeReward):
    """Win rates in a tournament judged by a vision-language model; a subclass names the model's dialect.

    Args:
        judge: see `JudgeSource`; the default of the subclass if None.
        tournament: fields of `flexgym.judge.Tournament` by name; all pairs with balanced sides by default.
        **model: see `ModelSettings`.
    """

    dialect: ClassVar[Dialect]

    def __init__(
        self,
        judge: JudgeSource | None = None,
        *,
        tournament: Tournament | Mapping[str, Any] | None = None,
        **model: Unpack[ModelSettings],
    ) -> None:
        settings = make_tournament(tournament)
        VisionReward.__init__(self, judge, model)
        wording = self.wording
        looking = VisionJudge(
            self.backend,
            dialect=self.dialect,
            template=wording.template,
            decoding=wording.decoding,
            inputs=wording.inputs,
        )
        JudgeReward.__init__(self, looking, settings)
