"""Pointwise judging: score each sample on its own, with one number per axis parsed from the reply.

UnifiedReward 2.0 writes one line per axis, ``Alignment Score (1-5): 2.7``. UnifiedReward 1.x (arXiv 2503.05236) writes
an explanation that ends with ``Final Score: 3.5``. As in `flexgym.judge.parser`, formatting is ignored: layout, case
and prose. A number that is missing, out of range, truncated or stated twice with different values is a failure, never
a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

from flexgym.judge.axes import Axis, axis_label
from flexgym.judge.backends.base import Backend, ChatRequest, Decoding, Reply
from flexgym.judge.inputs import Inputs, encode_sample
from flexgym.judge.numbers import read_number
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.reply import UntrustedError, nothing_found, quoted, read_reply, split_thoughts
from flexgym.judge.template import Template, built_in_template
from flexgym.judge.vision_judge import ask
from flexgym.types import Modality, SampleGroup

Points = dict[str, float]
"""Scores by the name of the axis."""


@dataclass(frozen=True)
class Sheet:
    """Prompt template and expected axes for samples of one modality.

    Attributes:
        template: name of the built-in prompt template, see `built_in_template`.
        axes: axes that the reply must contain.
    """

    template: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Form:
    """Format of pointwise replies, for images and for videos.

    Attributes:
        image: template and axes for an image.
        video: template and axes for a video.
    """

    image: Sheet
    video: Sheet

    def sheet(self, modality: Modality) -> Sheet:
        """Return the template and axes for samples of the given modality."""
        return self.image if modality == "image" else self.video


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
"""Reply formats by name: ``"axes"`` of UnifiedReward 2.0, and ``"final_score"`` of UnifiedReward 1.x, where all lines
but the final score are explanations and are ignored. The second axis is coherence for images (no glitches, no
distortion) and physics for videos (plausible motion)."""

_MAX_VALUE = 200
_PLACEHOLDER = re.compile(r"[\[<({]{0,3}\s{0,3}x(?!\w)", re.IGNORECASE)


def parse_points(text: str | None, finish_reason: str = "stop", *, sheet: Sheet) -> Points | JudgeFailure:
    """Parse the scores from a pointwise reply.

    Args:
        text: the reply; None is treated as empty.
        finish_reason: ``"length"`` if the reply was truncated. Scores that are complete by then are kept.
        sheet: the axes to look for.

    Returns:
        A finite number within the scale for every axis, or a `JudgeFailure` that explains why the reply cannot be
        trusted. Never raises.
    """
    return read_reply(partial(_read, sheet=sheet), text, finish_reason)


def _read(text: str, cut_off: bool, *, sheet: Sheet) -> Points:
    _, answer = split_thoughts(text)
    stated = {axis: _stated_values(answer, axis, cut_off=cut_off) for axis in sheet.axes}
    missing = [axis.label for axis, values in stated.items() if not values]
    if len(missing) == len(stated):
        raise nothing_found(f"a line such as '{missing[0]}: 3.5'", answer, cut_off=cut_off)
    if missing:
        raise UntrustedError(
            "truncated" if cut_off else "invalid", f"expected one number after {missing[0]!r}, got none"
        )
    for axis, values in stated.items():
        if len(values) > 1:
            raise UntrustedError("contradictory", f"{axis.label} is given as {' and '.join(map(str, sorted(values)))}")
    return {axis.name: values.pop() for axis, values in stated.items()}


def _stated_values(answer: str, axis: Axis, *, cut_off: bool) -> set[float]:
    """Return the distinct numbers given for an axis."""
    return {_value(answer, axis, label, cut_off=cut_off) for label in axis_label(axis).finditer(answer)}


def _value(answer: str, axis: Axis, label: re.Match[str], *, cut_off: bool) -> float:
    rest = answer[label.end() : label.end() + _MAX_VALUE]
    if _PLACEHOLDER.match(rest):
        raise UntrustedError("echoed_template", f"{axis.label}: the reply repeats the template instead of a number")
    number = read_number(rest)
    if not rest.strip() or (cut_off and _may_lack_digits(rest)):
        raise UntrustedError("truncated", f"{axis.label}: the reply ends before its number does")
    if number is None:
        raise UntrustedError("invalid", f"{axis.label}: expected one number, got {quoted(rest[:40])}")
    scales = [*map(float, re.findall(r"\d+", label[1] or "")[-1:]), *([] if number.scale is None else [number.scale])]
    if any(scale != axis.highest for scale in scales):
        raise UntrustedError("invalid", f"{axis.label}: expected a scale up to {axis.highest:g}, got {scales[-1]:g}")
    if not axis.lowest <= number.value <= axis.highest:
        expected = f"expected a number from {axis.lowest:g} to {axis.highest:g}"
        raise UntrustedError("invalid", f"{axis.label}: {expected}, got {quoted(rest[: number.end])}")
    return number.value


def _may_lack_digits(rest: str) -> bool:
    """Return True if a truncated text consists of a number only, whose last digits may be missing."""
    return re.fullmatch(r"[-+]?\d[\d ./]*", rest) is not None


class PointwiseJudge:
    """Vision-language model that scores samples one by one.

    Args:
        backend: backend that runs the model.
        form: reply format, such as ``FORMS["axes"]``.
        template: prompt template; None uses the built-in one for images or videos.
        decoding: decoding settings; None uses greedy decoding.
        inputs: how samples are converted to model inputs; None uses the settings of the UnifiedReward authors.

    Attributes:
        backend: backend that runs the model. It is not closed by this class.
        form: reply format.
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
        """Score every sample of every group in one call to the backend; each sample is encoded once.

        Args:
            groups: finished samples. Requests of one group are adjacent in the call. References are ignored, since
                scores on a fixed scale already measure progress without them.

        Returns:
            One outcome per sample of each group, in order. The axes are those for images or for videos, depending on
            the group.

        Raises:
            ConfigError: if samples are neither images nor videos.
            RewardError: if the backend does not return one reply per request.
        """
        requests = [self._request(group, index) for group in groups for index in range(len(group))]
        sheets = [self.form.sheet(group.modality) for group in groups]
        replies = iter(ask(self.backend, requests, self._decoding))
        return [
            [_outcome(reply, sheet) for reply in islice(replies, len(group))]
            for group, sheet in zip(groups, sheets, strict=True)
        ]

    def _request(self, group: SampleGroup, index: int) -> ChatRequest:
        template = self._template or built_in_template(self.form.sheet(group.modality).template)
        pictures = encode_sample(group.samples[index], self._inputs)
        return ChatRequest(pictures, template.fill(group.prompt.text, group.modality, (len(pictures),)))


def _outcome(reply: Reply | JudgeFailure, sheet: Sheet) -> Points | JudgeFailure:
    if isinstance(reply, JudgeFailure):
        return reply
    return parse_points(reply.text, reply.finish_reason, sheet=sheet)
