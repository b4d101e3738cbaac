"""Sections ``rollout`` and ``training`` of an agent's recipe."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from flexgym.config.generator import Precision
from flexgym.config.sections import Prompts
from flexgym.core.annotations import Spelled
from flexgym.core.errors import nearest_name
from flexgym.core.problems import Problem, raise_problems
from flexgym.core.settings import AsTuple, Names, Settings

if TYPE_CHECKING:
    from flexgym.flow import GateSchedule


def _check_schedule(rate: Any) -> Any:
    if not isinstance(rate, tuple):
        return rate
    counts = [count for count, _ in rate]
    if len(rate) < 2 or counts[0] != 0 or any(later <= earlier for earlier, later in pairwise(counts)):
        raise ValueError("expected two or more points with rising counts, [[0, rate], [count, rate], ...]")
    return rate


Rate = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Point = Annotated[tuple[Annotated[int | float, Field(ge=0)], Rate], AsTuple]
LearningRate = Annotated[
    Rate | Annotated[tuple[Point, ...], AsTuple],
    AfterValidator(_check_schedule),
    Spelled("number >= 0 or [[0, rate], [count, rate], ...]"),
]


class RolloutSettings(Settings):
    """The samples of an iteration: of rollouts, or of a data set (section data)."""

    group_size: int = Field(
        default=16,
        ge=1,
        description="samples G of each prompt, which advantages compare; of each row with section data",
    )
    prompts: Prompts = Field(default=None, description="training prompts: a file or a list; null for the built-in ones")
    prompts_per_iteration: int = Field(default=16, ge=1, description="groups P of an iteration, over all learners")
    groups_per_forward: int = Field(
        default=1, ge=1, description="groups in one forward pass, in rollout and replay alike"
    )
    reference_interval: int = Field(
        default=0,
        ge=0,
        description="iterations between two rollouts of the reference policy for the judge; 0 for never",
    )
    solver: Literal["euler", "dpm++2m"] = Field(
        default="euler",
        description="steps that are not trained: Euler steps, or those of second order of DPM-Solver++ (MixGRPO)",
    )
    compute_dtype: Literal["bfloat16"] | None = Field(
        default=None,
        description="precision of the forwards of steps that are not trained; null for that of the weights",
    )
    latents_dtype: Precision = Field(default="float32", description="precision in which latents are kept for replay")


class AdvantageSettings(Settings):
    """How the rewards of a group become advantages, see `flexgym.flow.blended_advantages`."""

    center: Literal["group", "global", "none"] = Field(
        default="group", description="subtract the mean of the group, that of all rewards, or none"
    )
    std: Literal["group", "global", "none"] = Field(
        default="group", description="divide by the standard deviation of the group, of all rewards, or by none"
    )
    ddof: Literal[0, 1] = Field(default=0, description="0 for population standard deviations, 1 for those of a sample")
    eps: float = Field(default=1e-4, ge=0, description="added to the standard deviation")
    clip: float | None = Field(default=5.0, gt=0, description="largest absolute advantage; null for no limit")
    batch_norm: bool = Field(default=False, description="normalize once more over all samples of the iteration")
    best: int | None = Field(
        default=None, ge=1, description="samples of each group with the highest advantages to keep"
    )
    worst: int | None = Field(default=None, ge=0, description="samples with the lowest ones to keep; others have none")

    diversity: str | None = Field(
        default=None,
        description="monitor by whose scores good samples count more, such as Diversity (GARDO); null for none",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.worst is not None and self.best is None:
            raise ValueError(f"expected best with it, which begins the selection, got worst={self.worst} alone")
        return self

    @property
    def stay_in_group(self) -> bool:
        """Return whether a group's advantages follow from its own scores, so that replay need not wait for others."""
        return "global" not in (self.std, self.center) and not self.batch_norm and self.diversity is None


ADVANTAGES = {"paper": AdvantageSettings(), "authors_code": AdvantageSettings(ddof=1, eps=1e-8, batch_norm=True)}
"""Advantages by name: the defaults, and those of the code of Pref-GRPO's authors."""


def _named_advantage(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in ADVANTAGES:
        raise_problems([Problem((), f"unknown advantage {value!r}. {nearest_name(value, ADVANTAGES)}", unknown=True)])
    return ADVANTAGES[value]


Advantage = Annotated[
    AdvantageSettings,
    BeforeValidator(_named_advantage, json_schema_input_type=Literal["paper", "authors_code"] | AdvantageSettings),
    Spelled("paper, authors_code or a mapping of settings"),
]
Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Beta, Beta], AsTuple]


class GateSettings(Settings):
    """Which samples gated penalties hold: those that the reward ranks higher than other rewards do (GARDO)."""

    monitors: Names = Field(min_length=1, description="names of reward.monitors whose ranks are compared with")
    share: float = Field(default=0.1, gt=0, le=1, description="share of the overrated samples at first")
    limits: Annotated[tuple[Share, Share], AsTuple] = Field(
        default=(0.02, 0.2), description="smallest and largest share"
    )
    length: int = Field(
        default=20, ge=1, description="iterations whose means decide whether the share grows or shrinks"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.limits
        if not low <= self.share <= high:
            raise ValueError(f"expected low <= share <= high, got limits={list(self.limits)} and share={self.share}")
        return self

    @property
    def schedule(self) -> GateSchedule:
        """Return the schedule before the first iteration."""
        from flexgym.flow import GateSchedule  # loads torch, for which a help text does not wait

        return GateSchedule(self.share, limits=self.limits, length=self.length)


class AnchorSettings(Settings):
    """When the weight copy ``anchor``, a reference that is reset (GARDO), takes the current weights."""

    interval: int | None = Field(default=None, ge=1, description="after so many iterations since the last time")
    distance: float | None = Field(default=None, gt=0, description="when the penalty toward it exceeds this number")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.interval is None and self.distance is None:
            raise ValueError("expected interval or distance, got none: the anchor would remain the reference")
        return self

    def is_due(self, iterations: int, distance: float) -> bool:
        """Return whether it is time for a reset.

        Args:
            iterations: since the last reset.
            distance: the penalty toward the anchor in the last of them.
        """
        late = self.interval is not None and iterations >= self.interval
        return late or self.distance is not None and distance > self.distance


class TrainingSettings(Settings):
    """The update of the weights."""

    lr: LearningRate = Field(default=3e-4, description="learning rate, or points of a schedule by samples seen")
    grad_clip: float | None = Field(default=1.0, gt=0, description="largest norm of the gradient; null for no limit")
    num_updates: int = Field(default=1, ge=1, description="optimizer steps of an iteration, each on its own groups")
    passes: int = Field(
        default=1, ge=1, description="times that an iteration trains on its rollout, each with num_updates steps"
    )
    split: Literal["groups", "samples"] = Field(
        default="groups",
        description="what the optimizer steps of a pass divide: the groups, or the samples of every group",
    )
    ema_decay: float = Field(
        default=0.0, ge=0, lt=1, description="decay of the EMA that is verified and saved; 0 keeps none"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of AdamW")
    betas: Betas = Field(default=(0.9, 0.999), description="betas of AdamW")
    advantage: Advantage = Field(
        default=AdvantageSettings(),
        description="how rewards become advantages: paper, authors_code, or options by name",
    )
    gate: GateSettings | None = Field(default=None, description="the samples that gated penalties hold; null for none")
    anchor: AnchorSettings | None = Field(
        default=None, description="keep weights 'anchor', a reference that is reset at times; null for none"
    )

    @property
    def stay_in_group(self) -> bool:
        """Return whether the update of a group needs no scores of others, so that replay need not wait for them."""
        return self.advantage.stay_in_group and self.gate is None
