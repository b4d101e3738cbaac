"""The contract of an algorithm: settings, the weights that sample, what a rollout keeps, and a loss. Free of Ray.

An algorithm is one class in one file. The same object drives a loop of your own (``examples/grpo.py``) and the
distributed training of `flexgym.rllib`, which only executes it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from flexgym.algorithm.process import Process
from flexgym.algorithm.replay import OLD, OLD_LOG_PROB, REWARD_GRADIENT, TASK, Guidance, Replayed, mean_under
from flexgym.algorithm.settings import AlgorithmSettings
from flexgym.core.errors import ConfigError, UnknownNameError, check_names, nearest_name
from flexgym.core.metrics import Mean, Metric
from flexgym.core.modules import import_named
from flexgym.flow import StepSchedule, linear_sigmas

S = TypeVar("S", bound=AlgorithmSettings)
_AGENTS = "flexgym.agents"  # by name: the package imports this one
_NAMES_SETTINGS = re.compile(r"^    Settings = ", re.MULTILINE)
CURRENT = "current"
"""Name of the weights that train; all other names are those of copies."""
REFERENCE = "reference"
"""Name of the copy from before training."""
EMA = "ema"
"""Name of the copy that is verified and saved, where one is kept."""
ANCHOR = "anchor"
"""Name of the copy that begins as the reference and takes the current weights at times, where one is kept."""


@dataclass(frozen=True, eq=False)
class Loss:
    """Loss of replayed noise levels, returned by `Algorithm.loss`.

    Attributes:
        per_sample: to be minimized, ``[L, P, G]``; the learner takes the mean.
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
        every: whether the copy moves after each optimizer step (``"update"``), at the end of each iteration, or never
            by itself.
        on_host: whether the copy is kept in host memory.
        adapter: adapter of the frozen model whose effect the copy has, see
            `flexgym.generators.base.FlowGenerator.keep_adapter`; None for a copy of the weights that train.
    """

    start: float = 0.0
    slope: float = 0.0
    delay: int = 0
    highest: float = 1.0
    every: Literal["update", "iteration", "never"] = "iteration"
    on_host: bool = False
    adapter: str | None = None

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
    couples: ClassVar[bool] = False
    """`loss` compares the samples of a group, so an optimizer step must see all of them."""
    data_only: ClassVar[bool] = False
    """The algorithm trains on the samples of a data set and not on its own."""
    skips_dead: ClassVar[bool] = False
    """`loss` has no gradient where all advantages of a group are 0, so such groups need no replay."""

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
        """Return what `loss` reads of `Replayed` besides the policy; nothing else is computed or stored.

        ``"old_log_prob"``, ``"reward_gradient"`` with the process `flexgym.algorithm.reward_steps.RewardSteps`, and
        ``"<name>_mean"`` for the mean under other weights: ``"old_mean"`` for those that
        sampled, ``"reference_mean"``, and so on for each of `copies`.
        """
        return frozenset()

    @property
    def off_policy(self) -> tuple[str, ...]:
        """Names of own settings that have no effect while the weights are those that sampled. None by default.

        A clip range is one: in the first optimizer step of an iteration every likelihood ratio is 1.
        """
        return ()

    @property
    def skips(self) -> bool:
        """Return whether groups without advantages need no replay: they have no loss, and no penalty holds them."""
        return self.skips_dead and not any(each.coeff for each in self.settings.penalties.values())

    @property
    def requires(self) -> frozenset[str]:
        """Return what a replay must provide: `needs`, and the means under the weights that penalties name."""
        return self.needs | {mean_under(name) for name, each in self.settings.penalties.items() if each.coeff}

    @property
    def stacked(self) -> bool:
        """Return whether all trained levels of a sample share a forward, so that `loss` sees them together."""
        return self.settings.stacked

    @property
    def copies(self) -> Mapping[str, CopySchedule]:
        """Weight copies that the algorithm keeps, by name. None by default."""
        return {}

    @property
    def tasks(self) -> Mapping[str, Any]:
        """Prompts that take turns in place of ``rollout.prompts``, by the names of tasks. None by default.

        With tasks, a need ``"task_mean"`` is the mean under the weight copy that is named like the task of the prompt.
        """
        return {}

    @abstractmethod
    def loss(self, replayed: Replayed) -> Loss:
        """Compute the loss of replayed levels, without penalties.

        Args:
            replayed: L levels of P groups of G samples; L is 1 unless `stacked`. A loss may couple the samples of a
                group, and the levels of a sample.

        Returns:
            Loss of each sample and level ``[L, P, G]``, and metrics.
        """

    def objective(self, replayed: Replayed) -> Loss:
        """Compute the loss of replayed levels and add the penalties of the settings.

        Args:
            replayed: as for `loss`.
        """
        loss = self.loss(replayed)
        total, metrics = loss.per_sample, dict(loss.metrics)
        for name, chosen in self.settings.penalties.items():
            if chosen.coeff:
                distance = replayed.distance(name, chosen.form)
                if chosen.gated and replayed.penalized is not None:
                    distance = distance * replayed.penalized
                metrics[f"penalty/{name}"] = Mean(distance)
                total = total + chosen.coeff * distance
        return Loss(total, metrics)

    def windows(self, num_steps: int) -> StepSchedule:
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


class Updates(Protocol):
    """Settings of the updates of an iteration, see `flexgym.config.training.TrainingSettings`."""

    @property
    def num_updates(self) -> int:
        """Optimizer steps of a pass over the rollout."""
        ...

    @property
    def passes(self) -> int:
        """Passes over the rollout."""
        ...

    @property
    def split(self) -> str:
        """Return whether optimizer steps divide the ``"groups"``, or the ``"samples"`` of every group."""
        ...

    @property
    def ema_decay(self) -> float:
        """Decay of the EMA; 0 keeps none."""
        ...

    @property
    def anchor(self) -> object | None:
        """Settings of the reference that is reset; None for none."""
        ...

    @property
    def gate(self) -> object | None:
        """Settings of the gate of penalties; None for none."""
        ...


def weight_copies(algorithm: Algorithm[Any], updates: Updates) -> dict[str, CopySchedule]:
    """Return the schedules of the weight copies that training updates: the algorithm's, the anchor and the EMA.

    The weights that sampled are kept where a later optimizer step compares with them and sampling did not record how
    it found the samples, or recorded it for other rows of a forward.

    Args:
        algorithm: that trains.
        updates: of an iteration.
    """
    on_host = mean_under(EMA) not in algorithm.requires
    ema = {EMA: CopySchedule(start=updates.ema_decay, every="update", on_host=on_host)} if updates.ema_decay else {}
    compares = not algorithm.requires.isdisjoint((OLD_LOG_PROB, mean_under(OLD)))
    moved = updates.num_updates * updates.passes > 1
    recorded = algorithm.process.keeps_old and updates.split == "groups"
    old = {OLD: CopySchedule()} if compares and moved and not recorded else {}
    anchor = {ANCHOR: CopySchedule(every="never")} if updates.anchor else {}
    return {**old, **algorithm.copies, **anchor, **ema}


def check_needs(algorithm: Algorithm[Any], copies: Collection[str]) -> None:
    """Check that everything that an algorithm requires exists.

    Args:
        algorithm: that trains.
        copies: names of the weight copies that training keeps.

    Raises:
        UnknownNameError: a need or a weight copy that does not exist; the message names the nearest one.
    """
    known = [REFERENCE, OLD, *copies]
    needed = [*known, TASK] if algorithm.tasks else known
    gradients = {REWARD_GRADIENT}.intersection(algorithm.process.keeps)
    check_names("penalty toward weights", list(algorithm.settings.penalties), known)
    check_names(
        f"need of {type(algorithm).__name__}", algorithm.needs, [OLD_LOG_PROB, *gradients, *map(mean_under, needed)]
    )
    check_names("weights of a task", list(algorithm.tasks), copies)
    check_names("weights that act", [algorithm.acts], [CURRENT, *copies])


def algorithm_class(name: str) -> type[Algorithm[Any]]:
    """Return the class of an algorithm.

    Args:
        name: a module of the package ``flexgym.agents``, such as ``"grpo"``, or the path ``"package.module:Class"`` of
            a class of your own.

    Raises:
        UnknownNameError: no such module or class; the message names the nearest one.
        ConfigError: the module cannot be imported, or holds no algorithm or several.
    """
    module_name, _, class_name = name.partition(":")
    try:
        module = import_named(module_name if class_name or "." in module_name else f"{_AGENTS}.{module_name}")
    except ModuleNotFoundError as error:
        raise UnknownNameError(
            f"unknown algorithm {name!r}: expected a module of the package flexgym.agents, such as 'grpo', or"
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
    folder = Path(importlib.import_module(_AGENTS).__path__[0])
    return sorted(path.stem for path in folder.glob("*.py") if _NAMES_SETTINGS.search(path.read_text(encoding="utf-8")))
