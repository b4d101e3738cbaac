"""Command-line options that select a judge, shared by all commands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from flexgym.core.errors import ConfigError
from flexgym.core.options import built_settings
from flexgym.judge.backends.base import Decoding
from flexgym.judge.backends.opening import open_backend
from flexgym.judge.dialect import dialect_by_name
from flexgym.judge.inputs import Inputs
from flexgym.judge.protocol import Judge
from flexgym.judge.sources import read_judge_config
from flexgym.judge.template import read_template
from flexgym.judge.vision_judge import VisionJudge

ORACLE = "oracle"
"""Name of the rule-based judge of the small world, accepted wherever a judge is named."""


@dataclass(frozen=True)
class JudgeOptions:
    """Command-line options that select a judge and how it is queried.

    Attributes:
        judge: server addresses, or a single folder, hub id, name of the embedded judge, or `ORACLE`.
        backend: name of the backend; None chooses one that fits the judge.
        dialect: name of the dialect, see `flexgym.judge.dialect.DIALECTS`.
        prompt_template: text file that replaces the dialect's built-in template.
        api_key_env: name of the environment variable with the API key of the servers.
    """

    judge: Annotated[
        list[str], typer.Option("--judge", help="server addresses, a folder, a hub id, shapes-judge, or oracle")
    ]
    backend: Annotated[
        str | None, typer.Option(help="server, vllm or transformers; chosen to fit the judge by default")
    ] = None
    dialect: Annotated[
        str,
        typer.Option(
            help="reply format of the judge: flex (UnifiedReward-Flex), think (UnifiedReward-Think), rank or pair_score"
            " (UnifiedReward)"
        ),
    ] = "flex"
    prompt_template: Annotated[
        Path | None, typer.Option(help="text file with {prompt} that replaces the built-in prompt template")
    ] = None
    api_key_env: Annotated[str | None, typer.Option(help="environment variable with the API key of the servers")] = None

    @property
    def inputs(self) -> Inputs:
        """Return the input settings: those of the judge's checkpoint folder if it has any, otherwise the defaults."""
        return built_settings("inputs", Inputs, read_judge_config(self.judge).inputs)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Judge]:
        """Open the judge and close it when the block ends.

        Raises:
            ConfigError: if the judge, backend or template is not usable, or an option does not apply to the oracle.
            UnknownNameError: if the backend or dialect does not exist; the message suggests the nearest name.
        """
        dialect = dialect_by_name(self.dialect)
        if self.judge == [ORACLE]:
            yield self._oracle()
            return
        wording = read_template(self.prompt_template) if self.prompt_template else None
        decoding = built_settings("decoding", Decoding, read_judge_config(self.judge).decoding)
        settings = {"api_key_env": self.api_key_env} if self.api_key_env else None
        backend = open_backend(self.judge if len(self.judge) > 1 else self.judge[0], self.backend, settings)
        try:
            yield VisionJudge(backend, dialect=dialect, template=wording, decoding=decoding, inputs=self.inputs)
        finally:
            backend.close()

    def _oracle(self) -> Judge:
        from flexgym.shapes.oracle import OracleJudge

        for field in fields(self):
            if field.default is not MISSING and getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"judge {ORACLE!r} is rule-based and runs no model: leave out --{field.name.replace('_', '-')}"
                )
        return OracleJudge()
