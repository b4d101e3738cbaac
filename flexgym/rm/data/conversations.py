"""From pairs to conversations: the judge is trained on the very text and order of pictures that it is asked with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flexgym.core.errors import ConfigError
from flexgym.judge.dialect import FLEX, THINK, Dialect
from flexgym.judge.inputs import frame_indices
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.template import Template
from flexgym.rm.data.files import Clip, MediaFile, Source, num_pictures
from flexgym.rm.data.media import load_frames
from flexgym.rm.data.problems import RowError
from flexgym.rm.data.schema import PICTURE, DPORow, Message, Part, PreferencePair, SFTRow


@dataclass(frozen=True)
class Question:
    """How a judge is asked about a pair; the counterpart of `flexgym.judge.vision_judge.VisionJudge`.

    Attributes:
        dialect: how the model is asked and how it answers.
        template: the text below the pictures; the dialect's for images or videos when None.
        num_frames: pictures per video; a shorter video gives one per frame.

    Raises:
        ConfigError: no positive number of frames.
    """

    dialect: Dialect = FLEX
    template: Template | None = None
    num_frames: int = 8

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ConfigError(f"num_frames: expected at least 1, got {self.num_frames}")

    def ask(self, pair: PreferencePair) -> tuple[Message, tuple[Source, ...]]:
        """The message to the judge, and its pictures.

        Args:
            pair: of images, videos or frames.

        Raises:
            RowError: a video file that cannot be read, whose frames have to be counted.
        """
        first, second = (self._shown(pair, side) for side in (pair.first, pair.second))
        images = first + second
        template = self.template or self.dialect.template(pair.kind)
        text = template.fill(pair.prompt, pair.kind, (num_pictures(first), num_pictures(second)))
        places = (PICTURE,) * num_pictures(images)
        return Message(role="user", content=(*places, Part(type="text", text=text))), images

    def check_reply(self, reply: str) -> None:
        """Refuse a reply that a judge's parser would refuse.

        Raises:
            RowError: of the kind ``invalid``.
        """
        outcome = self.dialect.parse(reply, "stop")
        if isinstance(outcome, JudgeFailure):
            raise RowError("invalid", f"expected a reply that can be read, got {outcome.kind}: {outcome.detail}")

    def _shown(self, pair: PreferencePair, side: tuple[MediaFile, ...]) -> tuple[Source, ...]:
        if pair.kind == "video" and side[0].is_video:
            count = len(load_frames(side[0], self.num_frames))
            return (Clip(video=side[0], num_frames=count),)
        return tuple(side[index] for index in frame_indices(len(side), self.num_frames))


def sft_row(pair: PreferencePair, reply: str | None = None, question: Question | None = None) -> SFTRow:
    """A pair and what a judge shall say about it, as a conversation.

    Args:
        pair: in the order in which it was judged.
        reply: the judgement; for a dialect that answers in one line, None takes that line from the pair's label.
        question: how the judge is asked.

    Raises:
        RowError: a reply that cannot be read, a tie without a reply, or a video that cannot be read.
        ConfigError: no reply, for a dialect in which a label alone makes none.
    """
    question = question or Question()
    reply = _line(pair, question.dialect) if reply is None else reply
    question.check_reply(reply)
    message, images = question.ask(pair)
    answer = Message(role="assistant", content=(Part(type="text", text=reply),))
    return SFTRow(images=images, messages=(message, answer), **_about(pair))


def dpo_row(
    pair: PreferencePair, chosen: str, rejected: str, *, rule: str | None = None, question: Question | None = None
) -> DPORow:
    """A pair and two judgements of it, as a row for direct preference optimisation.

    Args:
        pair: in the order in which both were made.
        chosen: the better judgement, which must be one that can be read.
        rejected: the worse one, of any form.
        rule: why the better one is better.
        question: how the judge is asked.

    Raises:
        RowError: ``chosen`` cannot be read, or a video cannot.
    """
    question = question or Question()
    question.check_reply(chosen)
    message, images = question.ask(pair)
    return DPORow(images=images, prompt=(message,), chosen=chosen, rejected=rejected, rule=rule, **_about(pair))


def as_chat(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages in the form that TRL's trainers and chat templates read."""
    return [message.model_dump(mode="json", exclude_none=True) for message in messages]


def _line(pair: PreferencePair, dialect: Dialect) -> str:
    if dialect != THINK:
        raise ConfigError(
            "sft_row: expected the judge's reply; the label of a pair makes one in the dialect THINK alone"
        )
    if pair.winner is None:
        raise RowError("invalid", "expected a pair with a winner, got a tie, which a judge has no words for")
    return f"<answer>{pair.kind.capitalize()} {pair.winner + 1} is better</answer>"


def _about(pair: PreferencePair) -> dict[str, str | None]:
    return {"id": pair.id, "source": pair.source, "category": pair.category}
