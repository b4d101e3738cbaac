"""UnifiedReward (arXiv 2503.05236): a vision-language judge that scores each sample on its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np

from flexgym.core.errors import ConfigError, check_names
from flexgym.core.typed import Share
from flexgym.judge.failures import check_failure_share, count_failures
from flexgym.judge.points import FORMS, Form, Points, PointwiseJudge
from flexgym.judge.protocol import JudgeFailure
from flexgym.rewards.vision import JudgeSource, ModelSettings, VisionReward
from flexgym.types import GroupScores, Modality, SampleGroup


class UnifiedReward(VisionReward):
    """Scores by UnifiedReward, or by any model that answers in its form.

    The form ``"axes"`` is that of UnifiedReward 2.0, 1 to 5 on three axes: ``alignment``, ``coherence`` (for videos
    ``physics``) and ``style``. The form ``"final_score"`` is that of 1.x, one number from 1 to 5 for images and from 1
    to 10 for videos. Every axis is a term: its score divided by the highest of its scale, so 0.2 to 1, and 0.1 to 1
    for final scores of videos. The reward is their weighted mean. A sample whose reply lacks an axis or cannot be
    parsed is NaN in all terms and counted by kind.

    Args:
        judge: addresses of OpenAI-compatible servers, a checkpoint folder, a hub id, or a backend, which is not closed.
        form: ``"axes"`` or ``"final_score"``.
        weights: weights of the axes by name, as ``{"alignment": 1.4, "style": 0.7}`` in Pref-GRPO (arXiv 2508.20751);
            axes without one have weight 0. Equal by default.
        max_failure_share: maximum share of failed samples in a call; above it `score` raises. 1.0 never raises.
        **model: ``backend``, ``backend_settings``, ``prompt_template``, ``decoding`` and ``inputs``, see
            `rewards.vision.ModelSettings`.

    Raises:
        ConfigError: for a setting that cannot work.
        UnknownNameError: for an unknown setting; the message names the nearest one.
    """

    def __init__(
        self,
        judge: JudgeSource = "",
        *,
        form: Literal["axes", "final_score"] = "axes",
        weights: Mapping[str, float] | None = None,
        max_failure_share: Share = 0.5,
        **model: Unpack[ModelSettings],
    ) -> None:
        super().__init__(judge, model)
        self.weights = None if weights is None else dict(weights)
        self.max_failure_share = max_failure_share
        wording = self.wording
        self.judge = PointwiseJudge(
            self.backend,
            FORMS[form],
            template=wording.template,
            decoding=wording.decoding,
            inputs=wording.inputs,
        )

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Check the weights, and what every vision-language reward checks."""
        super().check_settings(settings)
        _check_weights(settings.get("weights"), FORMS[settings.get("form", "axes")])

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every sample of all groups with one call to the model.

        Raises:
            JudgeFailureShareError: if too many samples failed, see `flexgym.judge.failures.check_failure_share`.
            UnknownNameError: for a weight of an axis that samples of this modality do not have.
        """
        outcomes = self.judge.assess(groups)
        check_failure_share([outcome for part in outcomes for outcome in part], self.max_failure_share)
        return [self._scores(group.modality, part) for group, part in zip(groups, outcomes, strict=True)]

    def _scores(self, modality: Modality, outcomes: Sequence[Points | JudgeFailure]) -> GroupScores:
        axes = self.judge.form.sheet(modality).axes
        weights = self._shares(modality)
        terms = {
            axis.name: np.array(
                [np.nan if isinstance(it, JudgeFailure) else it[axis.name] / axis.highest for it in outcomes]
            )
            for axis in axes
        }
        rewards = np.sum([weights[name] * term for name, term in terms.items()], axis=0)
        return GroupScores(
            rewards=rewards.astype(np.float32),
            terms={name: term.astype(np.float32) for name, term in terms.items()},
            weights=weights,
            failures=count_failures(outcomes),
        )

    def _shares(self, modality: Modality) -> dict[str, float]:
        """Return the weight of each axis for samples of the modality; they sum to 1."""
        names = [axis.name for axis in self.judge.form.sheet(modality).axes]
        weights = self.weights or dict.fromkeys(names, 1.0)
        check_names(f"axis of {modality}s", weights, names)
        total = sum(weights.values())
        return {name: weights.get(name, 0.0) / total for name in names}


def _check_weights(weights: Mapping[str, float] | None, form: Form) -> None:
    if weights is None:
        return
    known = dict.fromkeys(axis.name for sheet in (form.image, form.video) for axis in sheet.axes)
    check_names("axis", weights, known)
    values = list(weights.values())
    if not all(value >= 0.0 for value in values) or not 0.0 < sum(values) < math.inf:
        raise ConfigError(f"weights of the axes must be numbers of at least 0, not all 0; got {dict(weights)}")
