"""On-policy distillation of several adapters into one student (DiffusionOPD, arXiv 2605.15055).

``python -m agents.opd --config FILE`` trains a recipe with ``algorithm.name: opd``; rewards are logged alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.base import Algorithm, CopySchedule, Loss
from flexgym.algorithm.process import VisitedSteps
from flexgym.algorithm.replay import TASK, Guidance, Replayed, mean_under
from flexgym.algorithm.settings import AlgorithmSettings, WindowSettings
from flexgym.config.sections import Prompts
from flexgym.core.metrics import Mean
from flexgym.core.settings import Settings
from flexgym.flow import distillation_loss, noise_scale


class TeacherSettings(Settings):
    """An adapter that teaches one task."""

    adapter: str = Field(min_length=1, description="adapter: a folder or file of diffusers, peft or kohya, or a hub id")
    prompts: Prompts = Field(default=None, description="its prompts: a file or a list; null for the built-in ones")
    guidance: float | None = Field(default=None, ge=0, description="its guidance scale; the generator's by default")


class OPDSettings(AlgorithmSettings):
    """Settings of `OPD`: the teachers, and how the student samples."""

    teachers: dict[str, TeacherSettings] = Field(min_length=1, description="teachers by name, whose tasks take turns")
    noise: Literal["ode", "flow", "dance", "cps"] = Field(
        default="ode", description="noise of the student; ode is none"
    )
    eta: float | None = Field(default=None, ge=0, description="amount of noise; null takes the default of the noise")
    window: WindowSettings = WindowSettings(strategy="all")


class OPD(Algorithm[OPDSettings]):
    """Hold the steps that the student visits to those of the teacher of each prompt."""

    Settings = OPDSettings
    needs = frozenset({mean_under(TASK)})

    @property
    def process(self) -> VisitedSteps:
        """The steps that the student visits."""
        return VisitedSteps(noise_scale(self.settings.noise, eta=self.settings.eta))

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The prompts of each teacher."""
        return {name: teacher.prompts for name, teacher in self.settings.teachers.items()}

    @property
    def copies(self) -> Mapping[str, CopySchedule]:
        """The adapters of the teachers, which training never moves."""
        return {
            name: CopySchedule(every="never", adapter=each.adapter) for name, each in self.settings.teachers.items()
        }

    @property
    def guidance(self) -> Guidance:
        """Guidance scales of the student and of each teacher."""
        return replace(super().guidance, others={name: each.guidance for name, each in self.settings.teachers.items()})

    def loss(self, replayed: Replayed) -> Loss:
        """Compute `flexgym.flow.distillation_loss` of each step, ``[L, P, G]``."""
        form: Literal["ode", "sde"] = "ode" if self.settings.noise == "ode" else "sde"
        rows = distillation_loss(replayed.policy, replayed.under(TASK), form=form)
        return Loss(rows.view(replayed.std.shape), {"loss/policy": Mean(rows)})


main = Agent("opd", algorithm="opd", summary=__doc__ or "")
