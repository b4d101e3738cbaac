"""Options that commands about pairs share, spelled out once: which pairs, and how a model is asked about them."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from flexgym.core.errors import ConfigError
from flexgym.judge.backends.base import Decoding
from flexgym.judge.backends.opening import open_backend
from flexgym.judge.backends.server import ServerBackend
from flexgym.judge.dialect import DIALECTS, dialect_by_name
from flexgym.judge.template import read_template
from flexgym.rm.data import BadRows, Question, ReadOptions
from flexgym.rm.items import ItemOptions
from flexgym.rm.replies import Asker, Cost, ModelTeacher, OracleTeacher, ReplyFile, Teacher
from flexgym.rm.trajectory import RulesTrajectoryJudge, TeacherTrajectoryJudge, TrajectoryJudge

ORACLE = "oracle"
"""Name of the rules of the small world where a model is asked for."""

RULES = "rules"
"""Name of the rules of the small world where a trajectory judge is asked for."""


@dataclass(frozen=True)
class AskOptions:
    """How a model is asked.

    Attributes:
        backend: who runs the model; None for what fits.
        dialect: name of one of `flexgym.judge.dialect.DIALECTS`.
        prompt_template: a text file in place of the dialect's own wording.
        num_frames: pictures per video.
        max_tokens: of a reply.
        model: its name on a server.
        api_key_env: name of the environment variable that holds a server's key.
        price: of a million tokens read, and of a million written.
    """

    backend: Annotated[str | None, typer.Option(help="server, vllm or transformers; by default what fits")] = None
    dialect: Annotated[str, typer.Option(help=f"of the replies: {' or '.join(DIALECTS)}")] = "flex"
    prompt_template: Annotated[Path | None, typer.Option(help="a text file with {prompt} in it")] = None
    num_frames: Annotated[int, typer.Option(help="pictures per video")] = 8
    max_tokens: Annotated[int, typer.Option(help="of a reply")] = 2048
    model: Annotated[str | None, typer.Option(help="its name on the servers; the first listed by default")] = None
    api_key_env: Annotated[str | None, typer.Option(help="environment variable with the key of the servers")] = None
    price: Annotated[
        tuple[float, float] | None, typer.Option(help="of a million prompt and a million completion tokens")
    ] = None

    @property
    def question(self) -> Question:
        """How a judge is asked about a pair.

        Raises:
            ConfigError: no such template, or no positive number of frames.
            UnknownNameError: no such dialect.
        """
        wording = read_template(self.prompt_template) if self.prompt_template else None
        return Question(dialect_by_name(self.dialect), wording, self.num_frames)

    @contextlib.contextmanager
    def opened(self, source: Sequence[str]) -> Iterator[Teacher]:
        """The model, until the block ends.

        Args:
            source: addresses of servers, one folder or hub id, or `ORACLE`.

        Raises:
            ConfigError: a model that cannot work, or an option that it does not have.
        """
        if list(source) == [ORACLE]:
            if self.backend or self.model or self.api_key_env or self.dialect != "flex":
                raise ConfigError(
                    f"{ORACLE!r} follows rules and runs no model: leave out --backend, --model and --api-key-env, and"
                    " take the dialect flex"
                )
            yield OracleTeacher()
            return
        backend = open_backend(source if len(source) > 1 else source[0], self.backend, self._settings(source))
        try:
            yield ModelTeacher(
                backend, self.model or " ".join(sorted(source)), one_by_one=isinstance(backend, ServerBackend)
            )
        finally:
            backend.close()

    def _settings(self, source: Sequence[str]) -> dict[str, Any]:
        settings: dict[str, Any] = {"model": self.model} if self.model else {}
        if self.api_key_env:
            settings["api_key"] = os.environ.get(self.api_key_env)
            if not settings["api_key"]:
                raise ConfigError(f"api_key_env: expected the key in the environment variable {self.api_key_env}")
        if settings and not source[0].startswith(("http://", "https://")):
            raise ConfigError(f"--model and --api-key-env are for addresses of servers, got {source[0]!r}")
        return settings


@dataclass(frozen=True)
class OpenedReferee:
    """A trajectory judge that can be asked.

    Attributes:
        judge: None where items with two right traces are discarded.
        cost: of asking it; None where that is free.
    """

    judge: TrajectoryJudge | None
    cost: Cost | None = None


@dataclass(frozen=True)
class RefereeOptions:
    """Who says which of two right traces reasons better.

    Attributes:
        trajectory: addresses of servers, one folder or hub id, or `RULES`.
        trajectory_model: its name on a server.
        trajectory_key_env: name of the environment variable that holds a server's key.
        without_both_right: discard items with two right traces.
    """

    trajectory: Annotated[
        list[str] | None, typer.Option(help="who judges reasoning: rules (small world), or a model as for --judge")
    ] = None
    trajectory_model: Annotated[str | None, typer.Option(help="its name on the servers of --trajectory")] = None
    trajectory_key_env: Annotated[str | None, typer.Option(help="environment variable with their key")] = None
    without_both_right: Annotated[bool, typer.Option(help="discard items with two right traces")] = False

    @contextlib.contextmanager
    def opened(self, asked: AskOptions, file: ReplyFile) -> Iterator[OpenedReferee]:
        """The trajectory judge, until the block ends.

        Args:
            asked: how the judge is asked; of it the length of replies holds here, too.
            file: keeps the replies.

        Raises:
            ConfigError: nobody is named, rules for a dialect that they cannot read, or a model that cannot work.
        """
        if self.without_both_right:
            yield OpenedReferee(None)
            return
        source = self._checked(asked.dialect)
        if source == [RULES]:
            yield OpenedReferee(RulesTrajectoryJudge())
            return
        own = AskOptions(model=self.trajectory_model, api_key_env=self.trajectory_key_env)
        with own.opened(source) as teacher:
            asker = Asker(teacher, file)
            yield OpenedReferee(TeacherTrajectoryJudge(asker, Decoding(max_tokens=asked.max_tokens)), asker.cost)

    def _checked(self, dialect: str) -> list[str]:
        if not self.trajectory:
            raise ConfigError(
                "items with two right traces need a trajectory judge: --trajectory rules in the small world, or a"
                " model; --without-both-right discards them"
            )
        if self.trajectory == [ORACLE]:
            raise ConfigError(f"--trajectory {ORACLE} compares samples, not assessments: take {RULES}")
        if self.trajectory == [RULES] and dialect != "flex":
            raise ConfigError(f"--trajectory {RULES} reads the dialect flex alone, got {dialect!r}")
        return self.trajectory


@dataclass(frozen=True)
class DataOptions:
    """Which pairs are read, and where the rows go.

    Attributes:
        out: the file to write.
        replies: the file that keeps replies; beside ``out`` when None.
        seed: of the coin that decides which candidate stands first.
        orders: in which each pair is asked about: by the coin, as in the file, or both.
        batch: pairs at once.
        media_root: a folder that holds all media.
        max_bad_share: of the rows, before reading stops.
        overwrite: replace ``out``.
    """

    out: Annotated[Path, typer.Option(help="the file to write, ending in .jsonl")]
    replies: Annotated[Path | None, typer.Option(help="where replies are kept; OUT.replies.jsonl by default")] = None
    seed: Annotated[int, typer.Option(help="of the coin that decides which candidate stands first")] = 0
    orders: Annotated[str, typer.Option(help="shuffled, given or both: which candidate stands first")] = "shuffled"
    batch: Annotated[int, typer.Option(help="pairs in memory and under way at once")] = 64
    media_root: Annotated[Path | None, typer.Option(help="a folder that holds all media")] = None
    max_bad_share: Annotated[float, typer.Option(help="stop where a larger share of the rows is bad")] = 0.05
    overwrite: Annotated[bool, typer.Option(help="replace OUT where it is there")] = False

    def items(self, files: Sequence[Path], question: Question, *, ties: bool = False) -> ItemOptions:
        """The pairs of these files.

        Raises:
            ConfigError: an option that makes no sense.
        """
        read = ReadOptions(root=self.media_root, bad=BadRows(max_share=self.max_bad_share))
        return ItemOptions(files, question, orders=self.orders, seed=self.seed, batch=self.batch, ties=ties, read=read)

    def reply_file(self) -> ReplyFile:
        """The file that keeps replies, to be opened."""
        return ReplyFile(self.replies or self.out.with_name(f"{self.out.stem}.replies.jsonl"))


def with_options(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with the fields of some dataclasses as options of its own.

    Args:
        groups: by the keyword under which the command takes an instance.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {name: _parameters(group) for name, group in groups.items()}

        @functools.wraps(command)
        def spelled_out(**given: Any) -> None:
            built = {
                name: group(**{option.name: given.pop(option.name) for option in options[name]})
                for name, group in groups.items()
            }
            command(**built, **given)

        own = inspect.signature(command, eval_str=True)
        kept = [parameter for name, parameter in own.parameters.items() if name not in groups]
        signature = own.replace(parameters=[*kept, *(option for group in options.values() for option in group)])
        # What typer reads.
        spelled_out.__signature__ = signature  # type: ignore[attr-defined]
        spelled_out.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        return spelled_out

    return decorate


def _parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
