"""UnifiedReward-Flex (arXiv 2602.02380): a vision-language judge that writes its own criteria for each prompt."""

from __future__ import annotations

from flexgym.judge.dialect import FLEX
from flexgym.judge.sources import EMBEDDED_JUDGE
from flexgym.rewards.vision import PairwiseReward


class UnifiedRewardFlex(PairwiseReward):
    """Win rates in a tournament judged by UnifiedReward-Flex, or by any model that answers in its form.

    Args:
        judge: addresses of OpenAI-compatible servers, a checkpoint folder, a hub id, or a backend, which is not
            closed. By default the embedded judge, which only knows the small world.
        tournament: fields of `flexgym.judge.Tournament` by name; all pairs with balanced sides by default.
        **model: ``backend``, ``backend_settings``, ``prompt_template``, ``decoding`` and ``inputs``, see
            `rewards.vision.ModelSettings`.
    """

    dialect = FLEX
    default_judge = EMBEDDED_JUDGE
