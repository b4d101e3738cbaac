"""UnifiedReward-Think (arXiv 2505.03318): a vision-language judge that reasons before it names a winner."""

from __future__ import annotations

from flexgym.judge.dialect import THINK
from flexgym.rewards.vision import PairwiseReward


class UnifiedRewardThink(PairwiseReward):
    """Win rates in a tournament judged by UnifiedReward-Think, or by any model that answers in its form.

    Only the answers count, as in Pref-GRPO (arXiv 2508.20751); the scores by dimension explain them. There are no
    categories, so the terms ``dim`` and ``overall`` are equal and the tournament's ``alpha`` makes no difference. With
    the aggregation ``"margin"`` the scores count instead of the answers.

    Args:
        judge: addresses of OpenAI-compatible servers, a checkpoint folder, a hub id, or a backend, which is not closed.
        tournament: fields of `flexgym.judge.Tournament` by name; all pairs with balanced sides by default.
        **model: ``backend``, ``backend_settings``, ``prompt_template``, ``decoding`` and ``inputs``, see
            `rewards.vision.ModelSettings`.
    """

    dialect = THINK
