"""The dialects of pairwise judges: how they are asked, and how they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from flexgym.core.errors import unknown_name
from flexgym.judge.parser import parse_assessment
from flexgym.judge.protocol import Outcome
from flexgym.judge.template import Kind, Template, built_in_template
from flexgym.judge.verdict_parser import parse_verdict


@dataclass(frozen=True)
class Dialect:
    """What a judge was trained to be asked, and the form of its replies.

    Attributes:
        image: name of the built-in template for two images, see `built_in_template`.
        video: the same for two videos.
        parse: takes the text of a reply and why it ended (``"stop"`` or ``"length"``); never raises.
    """

    image: str
    video: str
    parse: Callable[[str | None, str], Outcome]

    def template(self, kind: Kind) -> Template:
        """The built-in text below the pictures."""
        return built_in_template(self.image if kind == "image" else self.video)


FLEX = Dialect("image", "video", parse_assessment)
"""UnifiedReward-Flex (arXiv 2602.02380): JSON with categories; judgements are assessments."""

THINK = Dialect("think_image", "think_video", parse_verdict)
"""UnifiedReward-Think (arXiv 2505.03318): thoughts by dimension, then one line; judgements are verdicts."""

DIALECTS: Final[Mapping[str, Dialect]] = {"flex": FLEX, "think": THINK}
"""By the name that a command takes."""


def dialect_by_name(name: str) -> Dialect:
    """One of `DIALECTS`.

    Raises:
        UnknownNameError: no such dialect; the message holds the nearest one.
    """
    if name not in DIALECTS:
        raise unknown_name("dialect", name, DIALECTS)
    return DIALECTS[name]
