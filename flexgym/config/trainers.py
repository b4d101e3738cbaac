"""The options of TRL's trainers that have an effect on judge training; all others follow from the other sections."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from flexgym.core.settings import AsTuple, Settings

DPOLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class TrainerSettings(Settings):
    """The options that both trainers have."""

    pad_to_multiple_of: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        default="auto", description="pad rows to a multiple of this length; auto only where the device wants it"
    )
    router_aux_loss_coef: float | None = Field(
        default=None, ge=0, description="weight of the load-balancing loss of a mixture of experts; the model's if null"
    )


class SFTTrainerSettings(TrainerSettings):
    """Options of TRL's `SFTConfig`."""

    loss_type: Literal["nll", "dft"] = Field(
        default="nll", description="negative log likelihood, or dynamic fine-tuning (arXiv 2508.05629)"
    )


class DPOTrainerSettings(TrainerSettings):
    """Options of TRL's `DPOConfig`."""

    beta: float = Field(default=0.1, ge=0, description="how strongly the model is held to the reference")
    loss_type: Annotated[
        tuple[DPOLoss, ...], BeforeValidator(_listed, json_schema_input_type=DPOLoss | list[DPOLoss]), AsTuple
    ] = Field(default=("sigmoid",), min_length=1, description="losses, which are added with their weights")
    loss_weights: Annotated[tuple[float, ...], AsTuple] | None = Field(
        default=None, description="weight of each loss; 1 by default"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="probability that a preference is flipped")
    f_divergence_type: Divergence = Field(
        default="reverse_kl", description="f-divergence of the policy and its reference (f-DPO)"
    )
    f_alpha_divergence_coef: float = Field(default=0.5, description="alpha of alpha_divergence")
    ld_alpha: float | None = Field(
        default=None, ge=0, le=1, description="weight of the tokens beyond the shorter reply (LD-DPO)"
    )
    use_weighting: bool = Field(default=False, description="weigh pairs by their likelihood (WPO)")
    discopop_tau: float = Field(default=0.05, gt=0, description="temperature of discopop")
    disable_dropout: bool = Field(default=True, description="switch dropout off in the model and the reference")

    @field_validator("loss_weights")
    @classmethod
    def _check_weights(cls, weights: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        losses = info.data.get("loss_type", ())
        if weights is not None and losses and len(weights) != len(losses):
            raise ValueError(f"expected a weight for each of the losses {list(losses)}")
        return weights
