"""The contract of an algorithm: settings, the weights that sample, what a rollout keeps, and a loss. Free of Ray.

An algorithm is one class in one file. The same object drives a loop of your own (``examples/grpo.py``) and the
distributed training of `flexgym.rllib`, which only executes it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from flexgym.algorithm.process import Process
from flexgym.algorithm.replay import Guidance, Replayed
from flexgym.algorithm.settings import AlgorithmSettings
from flexgym.core.errors import ConfigError, UnknownNameError, nearest_name
from flexgym.core.metrics import Metric
from flexgym.core.modules import import_named
from flexgym.flow import WindowSchedule, linear_sigmas

S = TypeVar("S", bound=AlgorithmSettings)
NEEDS = ("old_log_prob", "old_mean", "reference_mean")
"""Optional fields of `flexgym.algorithm.replay.Replayed`."""
_NAMES_SETTINGS = re.compile(r"^    Settings = ", re.MULTILINE)
CURRENT = "current"
"""Name of the weights that train; all other names are those of copies."""
REFERENCE = "reference"
"""Name of the copy from before training."""
EMA = "ema"
"""Name of the copy that is verified and saved, where one is kept."""


@dataclass(frozen=True, eq=False)
class Loss:
    """Loss of one replayed noise level, returned by `Algorithm.loss`.

    Attributes:
        per_sample: to be minimized, ``[P, G]``; the learner takes the mean.
        metrics: to log, by name; values without gradient.
    """

    per_sample: Tensor
    metrics: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True)
class CopySchedule:
    """How a weight copy follows the weights that train: ``copy <- decay * copy + (1 - decay) * current``.

    The decay after ``step`` optimizer steps is ``start + slope * max(0, step - delay)``, at most ``highest``.

    Attributes:
        start: decay at the beginning; 0 copies the current weights.
        slope: increase per optimizer step.
        delay: optimizer steps before the increase begins.
        highest: largest decay.
        every: whether the copy moves after each optimizer step (``"update"``) or at the end of each iteration.
        on_host: whether the copy is kept in host memory.
    """

    start: float = 0.0
    slope: float = 0.0
    delay: int = 0
    highest: float = 1.0
    every: Literal["update", "iteration"] = "iteration"
    on_host: bool = False

    def decay(self, step: int) -> float:
        """Return the decay after a number of optimizer steps."""
        return min(self.start + self.slope * max(0, step - self.delay), self.highest)


class Algorithm(ABC, Generic[S]):
    """Base of the algorithms that train a generator on groups of samples.

    A subclass names its settings, says by `process` how samples become training examples, and computes a `loss`.

    Args:
        settings: validated settings of this algorithm.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = AlgorithmSettings
    """Pydantic model of the settings under ``algorithm`` in a recipe."""

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @classmethod
    def from_settings(cls, **settings: Any) -> Algorithm[Any]:
        """Make the algorithm from plain settings by name.

        Raises:
            ConfigError: a value that cannot work.
            UnknownNameError: no such setting; the message names the nearest one.
        """
        return cls(cls.Settings.parse(settings, "algorithm"))  # type: ignore[arg-type]

    @property
    @abstractmethod
    def process(self) -> Process:
        """How samples are made for training, and which distribution is trained."""

    @property
    def acts(self) -> str:
        """Name of the weights that sample: ``"current"``, or one of `copies`."""
        return CURRENT

    @property
    def needs(self) -> frozenset[str]:
        """Optional fields of `Replayed` that `loss` reads; nothing else is computed or stored."""
        return frozenset()

    @property
    def copies(self) -> Mapping[str, CopySchedule]:
        """Weight copies that the algorithm keeps, by name. None by default."""
        return {}

    @abstractmethod
    def loss(self, replayed: Replayed) -> Loss:
        """Compute the loss of one replayed level.

        Args:
            replayed: P groups of G samples. A loss may couple the samples of a group.

        Returns:
            Loss of each sample ``[P, G]``, and metrics.
        """

    def windows(self, num_steps: int) -> WindowSchedule:
        """Return the schedule of trained steps.

        Raises:
            ConfigError: a window that does not lie within the steps.
        """
        return self.settings.window.schedule(num_steps)

    def check(self, num_steps: int | None) -> None:
        """Reject settings that cannot work together, before anything is loaded.

        Args:
            num_steps: denoising steps T; None where only the generator knows them, and its own grid is checked later.

        Raises:
            ConfigError: noise that cannot be, or windows of steps that cannot be trained.
        """
        process = self.process
        if num_steps is not None:
            sigmas = torch.tensor([*linear_sigmas(num_steps), 0.0])
            process.check(self.windows(num_steps).windows, sigmas)

    @property
    def guidance(self) -> Guidance:
        """Guidance scales while replaying."""
        chosen = self.settings.guidance
        return Guidance(training=chosen.training, reference=chosen.reference)


def weight_copies(algorithm: Algorithm[Any], ema_decay: float) -> dict[str, CopySchedule]:
    """Return the schedules of the weight copies that training updates: those of the algorithm, and the EMA.

    Args:
        algorithm: that trains.
        ema_decay: decay of the EMA; 0 keeps none.
    """
    ema = {EMA: CopySchedule(start=ema_decay, every="update", on_host=True)} if ema_decay else {}
    return {**algorithm.copies, **ema}


def algorithm_class(name: str) -> type[Algorithm[Any]]:
    """Return the class of an algorithm.

    Args:
        name: a module of the package ``agents``, such as ``"grpo"``, or the path ``"package.module:Class"`` of a
            class of your own.

    Raises:
        UnknownNameError: no such module or class; the message names the nearest one.
        ConfigError: the module cannot be imported, or holds no algorithm or several.
    """
    module_name, _, class_name = name.partition(":")
    try:
        module = import_named(module_name if class_name or "." in module_name else f"agents.{module_name}")
    except ModuleNotFoundError as error:
        raise UnknownNameError(
            f"unknown algorithm {name!r}: expected a module of the package agents, such as 'grpo', or"
            f" 'package.module:Class' ({error}). {nearest_name(name, algorithm_names())}"
        ) from error
    own = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Algorithm)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    }
    if class_name and class_name not in own:
        raise UnknownNameError(
            f"algorithm {name!r}: {module.__name__} has no such algorithm. {nearest_name(class_name, own)}"
        )
    if not class_name and len(own) != 1:
        raise ConfigError(
            f"algorithm {name!r}: expected one subclass of flexgym.algorithm.base.Algorithm in {module.__name__}, got"
            f" {sorted(own) or 'none'}; name it as '{module.__name__}:Class'"
        )
    return own[class_name] if class_name else next(iter(own.values()))


def algorithm_names() -> list[str]:
    """Return the names of the algorithms in the package ``agents``, sorted; modules that hold none are left out."""
    folder = Path(importlib.import_module("agents").__path__[0])
    return sorted(path.stem for path in folder.glob("*.py") if _NAMES_SETTINGS.search(path.read_text(encoding="utf-8")))
