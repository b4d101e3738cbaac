"""Command-line options shared by commands about pairs: which pairs to read, and how a model is queried about them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flexgym.core.errors import ConfigError
from flexgym.core.options import built_settings
from flexgym.data import BadRows, Question, ReadOptions
from flexgym.judge.backends.base import Decoding
from flexgym.judge.backends.opening import open_backend
from flexgym.judge.backends.server import ServerBackend
from flexgym.judge.dialect import DIALECTS, dialect_by_name
from flexgym.judge.inputs import Inputs
from flexgym.judge.sources import read_judge_config
from flexgym.judge.template import read_template
from flexgym.rm.items import ItemOptions
from flexgym.rm.replies import Asker, Cost, ModelTeacher, OracleTeacher, ReplyFile, Teacher
from flexgym.rm.trajectory import RulesTrajectoryJudge, TeacherTrajectoryJudge, TrajectoryJudge

ORACLE = "oracle"
"""Name of the rules of the small world, accepted wherever a model is named."""

RULES = "rules"
"""Name of the rules of the small world, accepted as a trajectory judge."""


@dataclass(frozen=True)
class AskOptions:
    """Command-line options for querying a model.

    Attributes:
        backend: name of the backend; None chooses one that fits the model.
        dialect: name of one of `flexgym.judge.dialect.DIALECTS`.
        prompt_template: text file that replaces the dialect's built-in template.
        num_frames: number of frames shown per video; None for the model's own, by its ``judge_config.json``.
        max_tokens: maximum length of a reply, in tokens; None for the model's own.
        model: name of the model on a server.
        api_key_env: name of the environment variable with a server's API key.
        price: price of a million prompt tokens and of a million completion tokens.
    """

    backend: Annotated[
        str | None, typer.Option(help="server, vllm or transformers; chosen to fit the model by default")
    ] = None
    dialect: Annotated[str, typer.Option(help=f"format of the replies: {', '.join(DIALECTS)}")] = "flex"
    prompt_template: Annotated[
        Path | None, typer.Option(help="text file with {prompt} that replaces the built-in prompt template")
    ] = None
    num_frames: Annotated[
        int | None, typer.Option(help="frames shown per video; by judge_config.json of the model, or 8")
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(help="maximum length of a reply, in tokens; by judge_config.json of the model, or 2048"),
    ] = None
    model: Annotated[str | None, typer.Option(help="model name on the servers; the first listed by default")] = None
    api_key_env: Annotated[str | None, typer.Option(help="environment variable with the API key of the servers")] = None
    price: Annotated[
        tuple[float, float] | None, typer.Option(help="price of a million prompt and a million completion tokens")
    ] = None

    def question(self, source: Sequence[str]) -> Question:
        """Return how a model is queried about a pair.

        Raises:
            ConfigError: if the template cannot be read, or the number of frames is below 1.
            UnknownNameError: if there is no such dialect.
        """
        wording = read_template(self.prompt_template) if self.prompt_template else None
        return Question(dialect_by_name(self.dialect), wording, self.inputs(source).num_frames)

    def inputs(self, source: Sequence[str]) -> Inputs:
        """Return how samples are converted to images for a model: as its ``judge_config.json`` says, or as usual.

        Raises:
            CheckpointError, ConfigError: if a setting is not valid.
        """
        own = {} if self.num_frames is None else {"num_frames": self.num_frames}
        return built_settings("inputs", Inputs, own, defaults=read_judge_config(source).inputs)

    def decoding(self, source: Sequence[str]) -> Decoding:
        """Return greedy decoding with the maximum length of a model's replies.

        Raises:
            CheckpointError, ConfigError: if a setting is not valid.
        """
        stated = built_settings("decoding", Decoding, read_judge_config(source).decoding)
        return Decoding(max_tokens=stated.max_tokens if self.max_tokens is None else self.max_tokens)

    @contextlib.contextmanager
    def opened(self, source: Sequence[str]) -> Iterator[Teacher]:
        """Open the model and close it when the block ends.

        Args:
            source: server addresses, or a single folder, hub id, or `ORACLE`.

        Raises:
            ConfigError: if the model is not usable, or an option does not apply to it.
        """
        if list(source) == [ORACLE]:
            if self.backend or self.model or self.api_key_env or self.dialect != "flex":
                raise ConfigError(
                    f"{ORACLE!r} is rule-based and runs no model: leave out --backend, --model and --api-key-env, and"
                    " use the dialect flex"
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
            settings["api_key_env"] = self.api_key_env
        if settings and not source[0].startswith(("http://", "https://")):
            raise ConfigError(f"--model and --api-key-env apply to server addresses only, got {source[0]!r}")
        return settings


@dataclass(frozen=True)
class OpenedReferee:
    """An open trajectory judge.

    Attributes:
        judge: the trajectory judge; None discards items with two right traces.
        cost: counts of its requests and tokens; None if it is free.
    """

    judge: TrajectoryJudge | None
    cost: Cost | None = None


@dataclass(frozen=True)
class RefereeOptions:
    """Options that select the trajectory judge, which decides between two right traces.

    Attributes:
        trajectory: server addresses, or a single folder, hub id, or `RULES`.
        trajectory_model: name of the model on a server.
        trajectory_key_env: name of the environment variable with a server's API key.
        without_both_right: discard items with two right traces.
    """

    trajectory: Annotated[
        list[str] | None,
        typer.Option(help="judge of the reasoning: rules (small world), or a model, given as for --judge"),
    ] = None
    trajectory_model: Annotated[str | None, typer.Option(help="model name on the servers of --trajectory")] = None
    trajectory_key_env: Annotated[
        str | None, typer.Option(help="environment variable with the API key of the servers of --trajectory")
    ] = None
    without_both_right: Annotated[bool, typer.Option(help="discard items with two right traces")] = False

    @contextlib.contextmanager
    def opened(self, asked: AskOptions, file: ReplyFile) -> Iterator[OpenedReferee]:
        """Open the trajectory judge and close it when the block ends.

        Args:
            asked: how the judge is queried; its maximum reply length also applies to the trajectory judge.
            file: open file that stores the replies.

        Raises:
            ConfigError: if no judge is named, the rules do not support the dialect, or the model is not usable.
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
            yield OpenedReferee(TeacherTrajectoryJudge(asker, asked.decoding(source)), asker.cost)

    def _checked(self, dialect: str) -> list[str]:
        if not self.trajectory:
            raise ConfigError(
                "items with two right traces need a trajectory judge: set --trajectory to rules in the small world, or"
                " to a model; --without-both-right discards such items"
            )
        if self.trajectory == [ORACLE]:
            raise ConfigError(f"--trajectory {ORACLE} compares samples, not assessments: use {RULES}")
        if self.trajectory == [RULES] and dialect != "flex":
            raise ConfigError(f"--trajectory {RULES} supports only the dialect flex, got {dialect!r}")
        return self.trajectory


@dataclass(frozen=True)
class DataOptions:
    """Command-line options for reading pairs and writing rows.

    Attributes:
        out: file to write.
        replies: file that stores replies; None places it next to ``out``.
        seed: seed of the coin that decides which candidate is shown first.
        orders: orders in which each pair is judged: by the coin, as in the file, or both.
        batch: number of pairs processed at once.
        media_root: folder that contains all media.
        max_bad_share: share of bad rows above which reading stops.
        overwrite: replace ``out``.
    """

    out: Annotated[Path, typer.Option(help="file to write, ending in .jsonl")]
    replies: Annotated[Path | None, typer.Option(help="file to store replies; OUT.replies.jsonl by default")] = None
    seed: Annotated[int, typer.Option(help="seed of the coin that decides which candidate is shown first")] = 0
    orders: Annotated[str, typer.Option(help="which candidate is shown first: shuffled, given, or both in turn")] = (
        "shuffled"
    )
    batch: Annotated[int, typer.Option(help="pairs in memory and processed at once")] = 64
    media_root: Annotated[Path | None, typer.Option(help="folder that contains all media")] = None
    max_bad_share: Annotated[float, typer.Option(help="stop if a larger share of the rows is bad")] = 0.05
    overwrite: Annotated[bool, typer.Option(help="replace OUT if it exists")] = False

    def items(
        self, files: Sequence[Path], asked: AskOptions, source: Sequence[str], *, ties: bool = False
    ) -> ItemOptions:
        """Return the options for reading the pairs of these files and asking a model about them.

        Args:
            files: JSON Lines or Parquet files of preference pairs.
            asked: how the model is queried.
            source: the model.
            ties: also ask about pairs without a winner.

        Raises:
            ConfigError: if an option is out of range.
        """
        read = ReadOptions(root=self.media_root, bad=BadRows(max_share=self.max_bad_share))
        return ItemOptions(
            files,
            asked.question(source),
            inputs=asked.inputs(source),
            orders=self.orders,
            seed=self.seed,
            batch=self.batch,
            ties=ties,
            read=read,
        )

    def reply_file(self) -> ReplyFile:
        """Return the file that stores replies; it must still be opened."""
        return ReplyFile(self.replies or self.out.with_name(f"{self.out.stem}.replies.jsonl"))
