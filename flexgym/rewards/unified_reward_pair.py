"""UnifiedReward 1.x and 2.0 (arXiv 2503.05236) as a judge of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Unpack

from flexgym.judge import Tournament
from flexgym.judge.dialect import PAIR_SCORE, RANK, Dialect
from flexgym.rewards.vision import JudgeSource, ModelSettings, PairwiseReward

_FORMS: Final[Mapping[str, Dialect]] = {"rank": RANK, "score": PAIR_SCORE}


class UnifiedRewardPair(PairwiseReward):
    """Win rates in a tournament judged by UnifiedReward, or by any model that answers in its form.

    The form ``"rank"`` is a sentence, ``Image 1 is better.``, of 1.x and 2.0. The form ``"score"`` of 2.0 shares one
    point between both on the axes alignment, coherence and style; the higher total wins, and with the aggregation
    ``"margin"`` the scores count. A tie counts half a win for each. There are no categories, so the terms ``dim`` and
    ``overall`` are equal.

    Args:
        judge: addresses of OpenAI-compatible servers, a checkpoint folder, a hub id, or a backend, which is not closed.
        form: ``"rank"`` or ``"score"``.
        tournament: fields of `flexgym.judge.Tournament` by name; all pairs with balanced sides by default.
        **model: ``backend``, ``backend_settings``, ``prompt_template``, ``decoding`` and ``inputs``, see
            `rewards.vision.ModelSettings`.
    """

    def __init__(
        self,
        judge: JudgeSource | None = None,
        *,
        form: Literal["rank", "score"] = "rank",
        tournament: Tournament | Mapping[str, Any] | None = None,
        **model: Unpack[ModelSettings],
    ) -> None:
        self.dialect = _FORMS[form]  # type: ignore[misc] # of the instance, not of the class
        super().__init__(judge, tournament=tournament, **model)
