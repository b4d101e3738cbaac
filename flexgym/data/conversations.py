"""Convert preference pairs to conversations with exactly the text and image order that the judge is queried with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flexgym.core.errors import ConfigError
from flexgym.data.files import Clip, MediaFile, Source, num_pictures
from flexgym.data.media import count_frames
from flexgym.data.messages import PICTURE, Message, Part
from flexgym.data.problems import RowError
from flexgym.data.schema import DPORow, PreferencePair, SFTRow
from flexgym.judge.dialect import FLEX, THINK, Dialect, without_odd_scores
from flexgym.judge.inputs import frame_indices
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.template import Template


@dataclass(frozen=True)
class Question:
    """Settings for querying a judge about a pair; the training counterpart of `flexgym.judge.vision_judge.VisionJudge`.

    Attributes:
        dialect: prompt templates and reply format.
        template: prompt template; None uses the dialect's for images or videos.
        num_frames: number of frames shown per video; a shorter video shows all of its frames.

    Raises:
        ConfigError: if ``num_frames`` is below 1.
    """

    dialect: Dialect = FLEX
    template: Template | None = None
    num_frames: int = 8

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ConfigError(f"num_frames: expected at least 1, got {self.num_frames}")

    def ask(self, pair: PreferencePair) -> tuple[Message, tuple[Source, ...]]:
        """Build the message to the judge and the sources of its images.

        Args:
            pair: a pair of images, videos or frame lists.

        Raises:
            RowError: if a video file, whose frames must be counted, cannot be read.
        """
        first, second = (self._shown(pair, side) for side in (pair.first, pair.second))
        images = first + second
        template = self.template or self.dialect.template(pair.kind)
        text = template.fill(pair.prompt, pair.kind, (num_pictures(first), num_pictures(second)))
        placeholders = (PICTURE,) * num_pictures(images)
        return Message(role="user", content=(*placeholders, Part(type="text", text=text))), images

    def check_reply(self, reply: str) -> None:
        """Check that the dialect's parser accepts a reply.

        Raises:
            RowError: of kind ``invalid``, if it does not.
        """
        outcome = without_odd_scores(self.dialect.parse(reply, "stop"))
        if isinstance(outcome, JudgeFailure):
            raise RowError("invalid", f"expected a reply that can be parsed, got {outcome.kind}: {outcome.detail}")

    def _shown(self, pair: PreferencePair, side: tuple[MediaFile, ...]) -> tuple[Source, ...]:
        if pair.kind == "video" and side[0].is_video:
            return (Clip(video=side[0], num_frames=min(self.num_frames, count_frames(side[0]))),)
        return tuple(side[index] for index in frame_indices(len(side), self.num_frames))


def sft_row(pair: PreferencePair, reply: str | None = None, question: Question | None = None) -> SFTRow:
    """Build a supervised fine-tuning row from a pair and the judge's desired reply.

    Args:
        pair: the pair in the order in which it was judged.
        reply: the desired reply; None derives it from the pair's label, for dialects with one-line answers.
        question: how the judge is queried.

    Raises:
        RowError: if the reply cannot be parsed, the pair is a tie without a reply, or a video cannot be read.
        ConfigError: if there is no reply and the dialect cannot derive one from a label.
    """
    question = question or Question()
    reply = _reply_from_label(pair, question.dialect) if reply is None else reply
    question.check_reply(reply)
    message, images = question.ask(pair)
    answer = Message(role="assistant", content=(Part(type="text", text=reply),))
    return SFTRow(images=images, messages=(message, answer), **_about(pair))


def dpo_row(
    pair: PreferencePair, chosen: str, rejected: str, *, rule: str | None = None, question: Question | None = None
) -> DPORow:
    """Build a row for direct preference optimization (DPO) from a pair and two replies about it.

    Args:
        pair: the pair in the order in which it was judged for both replies.
        chosen: the better reply, which must be parseable.
        rejected: the worse reply, in any form.
        rule: why the chosen reply is better.
        question: how the judge is queried.

    Raises:
        RowError: if ``chosen`` cannot be parsed, or a video cannot be read.
    """
    question = question or Question()
    question.check_reply(chosen)
    message, images = question.ask(pair)
    return DPORow(images=images, prompt=(message,), chosen=chosen, rejected=rejected, rule=rule, **_about(pair))


def as_chat(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Convert messages to the format that TRL's trainers and chat templates accept."""
    return [message.model_dump(mode="json", exclude_none=True) for message in messages]


def _reply_from_label(pair: PreferencePair, dialect: Dialect) -> str:
    if dialect != THINK:
        raise ConfigError(
            "sft_row: expected the judge's reply; only the dialect THINK can derive one from the pair's label"
        )
    if pair.winner is None:
        raise RowError("invalid", "expected a pair with a winner, got a tie, for which the judge has no reply")
    return f"<answer>{pair.kind.capitalize()} {pair.winner + 1} is better</answer>"


def _about(pair: PreferencePair) -> dict[str, str | None]:
    return {"id": pair.id, "source": pair.source, "category": pair.category}
