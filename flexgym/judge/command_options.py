"""The options by which every command names its judge, spelled out once."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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
"""Name of the rule-based judge of the small world where a judge is asked for."""


@dataclass(frozen=True)
class JudgeOptions:
    """Which judge a command asks, and how.

    Attributes:
        judge: addresses of servers, or one folder, hub id, the embedded judge's name or `ORACLE`.
        backend: who runs the model; None for what fits.
        dialect: name of a dialect, see `flexgym.judge.dialect.DIALECTS`.
        prompt_template: a text file in place of the dialect's own wording.
    """

    judge: Annotated[
        list[str], typer.Option("--judge", help="server addresses, a folder, a hub id, shapes-judge or oracle")
    ]
    backend: Annotated[str | None, typer.Option(help="server, vllm or transformers; by default what fits")] = None
    dialect: Annotated[
        str, typer.Option(help="how it was trained to answer: flex (UnifiedReward-Flex) or think (UnifiedReward-Think)")
    ] = "flex"
    prompt_template: Annotated[
        Path | None, typer.Option(help="a text file with {prompt} in place of the built-in wording")
    ] = None

    @property
    def inputs(self) -> Inputs:
        """How the judge is shown its pictures: as its checkpoint folder says, if it is one that does."""
        return built_settings("inputs", Inputs, read_judge_config(self.judge).inputs)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Judge]:
        """The judge, until the block ends.

        Raises:
            ConfigError: a judge, backend or template that cannot work, or an option that the oracle does not have.
            UnknownNameError: no such backend or dialect; the message holds the nearest one.
        """
        dialect = dialect_by_name(self.dialect)
        if self.judge == [ORACLE]:
            yield self._oracle()
            return
        wording = read_template(self.prompt_template) if self.prompt_template else None
        decoding = built_settings("decoding", Decoding, read_judge_config(self.judge).decoding)
        backend = open_backend(self.judge if len(self.judge) > 1 else self.judge[0], self.backend)
        try:
            yield VisionJudge(backend, dialect=dialect, template=wording, decoding=decoding, inputs=self.inputs)
        finally:
            backend.close()

    def _oracle(self) -> Judge:
        from flexgym.shapes.oracle import OracleJudge

        for field in fields(self):
            if field.default is not MISSING and getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"judge {ORACLE!r} follows rules and runs no model: leave out --{field.name.replace('_', '-')}"
                )
        return OracleJudge()


def with_judge_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the fields of `JudgeOptions` as options of its own.

    Args:
        command: takes them together as the keyword ``asked``.
    """
    hints = get_type_hints(JudgeOptions, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(JudgeOptions)
    ]

    @functools.wraps(command)
    def spelled_out(**arguments: Any) -> None:
        command(asked=JudgeOptions(**{option.name: arguments.pop(option.name) for option in options}), **arguments)

    own = inspect.signature(command, eval_str=True)
    kept = [parameter for name, parameter in own.parameters.items() if name != "asked"]
    signature = own.replace(parameters=[*kept, *options])
    # What typer reads.
    spelled_out.__signature__ = signature  # type: ignore[attr-defined]
    spelled_out.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return spelled_out
