"""Pointwise judging: each sample on its own, its reply read as a number for each axis.

UnifiedReward 2.0 writes one line for each axis, ``Alignment Score (1-5): 2.7``; UnifiedReward 1.x (arXiv 2503.05236)
explains itself and ends with ``Final Score: 3.5``. The line between form and content is drawn as in
`flexgym.judge.parser`: layout, case and prose are form; a number that is missing, out of range, cut off or told in two
ways is a failure, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from typing import Final

from flexgym.judge.backends.base import Backend, ChatRequest, Decoding, Reply
from flexgym.judge.inputs import Inputs, encode_sample
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.reply import UntrustedError, nothing_found, quoted, read_reply, split_thoughts
from flexgym.judge.template import Kind, Template, built_in_template
from flexgym.judge.vision_judge import ask
from flexgym.types import SampleGroup

Points = dict[str, float]
"""Score of each axis, by the axis's name."""


@dataclass(frozen=True)
class Axis:
    """One number of a pointwise reply.

    Attributes:
        name: of the axis in scores and weights.
        label: the words before the number.
        lowest: of the scale.
        highest: of the scale.
    """

    name: str
    label: str
    lowest: float = 1.0
    highest: float = 5.0


@dataclass(frozen=True)
class Sheet:
    """What is asked about one sample.

    Attributes:
        template: name of the built-in text below the pictures, see `built_in_template`.
        axes: what the reply must hold.
    """

    template: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Form:
    """A form of pointwise replies.

    Attributes:
        image: what is asked about an image.
        video: what is asked about a video.
    """

    image: Sheet
    video: Sheet

    def sheet(self, kind: Kind) -> Sheet:
        """What is asked about a sample of the kind."""
        return self.image if kind == "image" else self.video


_ALIGNMENT = Axis("alignment", "Alignment Score")
_STYLE = Axis("style", "Style Score")

FORMS: Final[Mapping[str, Form]] = {
    "axes": Form(
        image=Sheet("points_image", (_ALIGNMENT, Axis("coherence", "Coherence Score"), _STYLE)),
        video=Sheet("points_video", (_ALIGNMENT, Axis("physics", "Physics Score"), _STYLE)),
    ),
    "final_score": Form(
        image=Sheet("final_image", (Axis("final_score", "Final Score"),)),
        video=Sheet("final_video", (Axis("final_score", "Final Score", highest=10.0),)),
    ),
}
"""By name: ``"axes"`` of UnifiedReward 2.0, and ``"final_score"`` of 1.x, where the other lines of a reply explain its
final score and are not read. The second axis is coherence for images (no glitches, no distortion) and physics for
videos (plausible motion)."""

# Every repetition has a bound: a reply in a loop must not take minutes.
_MAX_VALUE = 200
_DECORATION = r"[\s*_`\"']{0,9}"
_PLACEHOLDER = re.compile(r"[\[<({]{0,3}\s{0,3}x(?!\w)", re.IGNORECASE)
# Not the beginning of something else: a longer word, a decimal comma, a range or another denominator.
_NUMBER = re.compile(
    r"([-+]?\d{1,30}(?:\.\d{1,30})?)"
    r"(?:[ \t*_]{0,4}(?:/|out[ \t]{1,3}of)[ \t*_]{0,4}(\d{1,3}(?:\.0)?))?"
    r"(?!\w|%|[.,]\d|[ \t*_]{0,4}(?:[-\u2013\u2014~/]|to|or|out[ \t]{1,3}of)[ \t*_]{0,4}\d)",
    re.IGNORECASE,
)


@cache
def _label(axis: Axis) -> re.Pattern[str]:
    """The words of an axis up to its number; the group is the scale in brackets."""
    words = r"[\s_*-]{1,5}".join(map(re.escape, axis.label.split()))
    return re.compile(
        rf"(?<![^\W_]){words}{_DECORATION}(?:\(([^()\n]{{0,40}})\))?{_DECORATION}[:=\uff1a]{_DECORATION}", re.IGNORECASE
    )


def parse_points(text: str | None, finish_reason: str = "stop", *, sheet: Sheet) -> Points | JudgeFailure:
    """Read the scores out of a pointwise reply.

    Args:
        text: the reply; None stands for an empty one.
        finish_reason: ``"length"`` for a reply that was cut off. Scores that were whole by then are kept.
        sheet: what was asked.

    Returns:
        A finite number within its scale for every axis, or a `JudgeFailure` that says why the reply cannot be trusted.
        Nothing is raised.
    """
    return read_reply(partial(_read, sheet=sheet), text, finish_reason)


def _read(text: str, cut_off: bool, *, sheet: Sheet) -> Points:
    _, answer = split_thoughts(text)
    told = {axis: _told(answer, axis, cut_off=cut_off) for axis in sheet.axes}
    missing = [axis.label for axis, values in told.items() if not values]
    if len(missing) == len(told):
        raise nothing_found(f"a line such as '{missing[0]}: 3.5'", answer, cut_off=cut_off)
    if missing:
        raise UntrustedError(
            "truncated" if cut_off else "invalid", f"expected one number after {missing[0]!r}, got none"
        )
    for axis, values in told.items():
        if len(values) > 1:
            raise UntrustedError("contradictory", f"{axis.label} is told as {' and '.join(map(str, sorted(values)))}")
    return {axis.name: values.pop() for axis, values in told.items()}


def _told(answer: str, axis: Axis, *, cut_off: bool) -> set[float]:
    """The different numbers that stand for an axis."""
    return {_value(answer, axis, label, cut_off=cut_off) for label in _label(axis).finditer(answer)}


def _value(answer: str, axis: Axis, label: re.Match[str], *, cut_off: bool) -> float:
    rest = answer[label.end() : label.end() + _MAX_VALUE]
    if _PLACEHOLDER.match(rest):
        raise UntrustedError("echoed_template", f"{axis.label}: the template was echoed in place of a number")
    number = _NUMBER.match(rest)
    # Of a number at the very end of a reply that was cut off, digits may be missing.
    if not rest.strip() or (cut_off and number and not rest[number.end() :].strip(" ./")):
        raise UntrustedError("truncated", f"{axis.label}: the reply ends before its number does")
    if number is None:
        raise UntrustedError("invalid", f"{axis.label}: expected a number, got {quoted(rest[:40])}")
    scales = [*re.findall(r"\d+", label[1] or "")[-1:], *([number[2]] if number[2] else [])]
    if any(float(scale) != axis.highest for scale in scales):
        raise UntrustedError("invalid", f"{axis.label}: expected a scale up to {axis.highest:g}, got {scales[-1]}")
    value = float(number[1])
    if not axis.lowest <= value <= axis.highest:
        raise UntrustedError(
            "invalid", f"{axis.label}: expected a number from {axis.lowest:g} to {axis.highest:g}, got {number[1]}"
        )
    return value


class PointwiseJudge:
    """A vision-language model that scores samples one by one.

    Args:
        backend: who runs the model.
        form: of the replies, such as ``FORMS["axes"]``.
        template: the text below the pictures; the form's for images or videos when None.
        decoding: how replies are sampled; greedily when None.
        inputs: how samples are turned into pictures; as the authors do when None.

    Attributes:
        backend: who runs the model; whoever made it closes it.
        form: of the replies.
    """

    def __init__(
        self,
        backend: Backend,
        form: Form,
        *,
        template: Template | None = None,
        decoding: Decoding | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.backend = backend
        self.form = form
        self._template = template
        self._decoding = decoding or Decoding()
        self._inputs = inputs or Inputs()

    def assess(self, groups: Sequence[SampleGroup]) -> list[list[Points | JudgeFailure]]:
        """Score every sample of every group with one call to the backend; each sample is encoded once.

        Args:
            groups: finished samples; those of one group stand together in the call. References are not looked at,
                since a score on a fixed scale rises with the policy without them.

        Returns:
            One outcome per sample for each group, in order. A group holds images or videos; the axes are those of its
            kind.

        Raises:
            ConfigError: samples that are no images and no videos.
            RewardError: the backend did not answer once per request.
        """
        requests = [self._request(group, index) for group in groups for index in range(len(group))]
        sheets = [self.form.sheet(group_kind(group)) for group in groups]
        replies = iter(ask(self.backend, requests, self._decoding))
        return [
            [_outcome(reply, sheet) for reply in islice(replies, len(group))]
            for group, sheet in zip(groups, sheets, strict=True)
        ]

    def _request(self, group: SampleGroup, index: int) -> ChatRequest:
        kind = group_kind(group)
        template = self._template or built_in_template(self.form.sheet(kind).template)
        pictures = encode_sample(group.samples[index], self._inputs)
        return ChatRequest(pictures, template.fill(group.prompt.text, kind, (len(pictures),)))


def _outcome(reply: Reply | JudgeFailure, sheet: Sheet) -> Points | JudgeFailure:
    if isinstance(reply, JudgeFailure):
        return reply
    return parse_points(reply.text, reply.finish_reason, sheet=sheet)


def group_kind(group: SampleGroup) -> Kind:
    """What the samples of a group are: images with four axes in all, videos with five."""
    return "image" if group.samples.ndim == 4 else "video"
