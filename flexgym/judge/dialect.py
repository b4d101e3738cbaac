"""Dialects of pairwise judges: the prompt template and the reply format that a judge was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from flexgym.core.errors import unknown_name
from flexgym.judge.assessment import Assessment
from flexgym.judge.pair_parser import parse_pair_scores, parse_rank
from flexgym.judge.parser import parse_assessment
from flexgym.judge.protocol import JudgeFailure, Outcome
from flexgym.judge.template import Template, built_in_template
from flexgym.judge.verdict_parser import parse_verdict
from flexgym.types import Modality


@dataclass(frozen=True)
class Dialect:
    """Prompt templates and reply parser of a family of judges.

    Attributes:
        image: name of the built-in template for two images, see `built_in_template`.
        video: name of the built-in template for two videos.
        parse: function from the text of a reply and its finish reason (``"stop"`` or ``"length"``) to an outcome; never
            raises.
    """

    image: str
    video: str
    parse: Callable[[str | None, str], Outcome]

    def template(self, modality: Modality) -> Template:
        """Return the built-in prompt template for a pair of the given modality."""
        return built_in_template(self.image if modality == "image" else self.video)


FLEX = Dialect("image", "video", parse_assessment)
"""UnifiedReward-Flex (arXiv 2602.02380): JSON replies with categories, parsed as assessments."""

THINK = Dialect("think_image", "think_video", parse_verdict)
"""UnifiedReward-Think (arXiv 2505.03318): reasoning per dimension, then a one-line answer, parsed as verdicts."""

RANK = Dialect("rank_image", "rank_video", parse_rank)
"""UnifiedReward 1.x and 2.0 (arXiv 2503.05236): a sentence such as ``Image 1 is better.``, parsed as verdicts."""

PAIR_SCORE = Dialect("pair_score_image", "pair_score_video", parse_pair_scores)
"""UnifiedReward 2.0: scores of both candidates on three axes, parsed as verdicts for the higher total."""

DIALECTS: Final[Mapping[str, Dialect]] = {"flex": FLEX, "think": THINK, "rank": RANK, "pair_score": PAIR_SCORE}
"""Dialects by the name used on the command line."""


def dialect_by_name(name: str) -> Dialect:
    """Return the dialect with the given name.

    Raises:
        UnknownNameError: if there is no such dialect; the message suggests the nearest name.
    """
    if name not in DIALECTS:
        raise unknown_name("dialect", name, DIALECTS)
    return DIALECTS[name]


def without_odd_scores(outcome: Outcome) -> Outcome:
    """Return an outcome as training data may hold it: an assessment whose scores were set aside is a failure."""
    if isinstance(outcome, Assessment) and outcome.odd_scores:
        return JudgeFailure("invalid", f"{outcome.odd_scores} criteria have odd scores")
    return outcome
