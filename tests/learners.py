"""Pairs of learners that serve one config after the other: to start processes takes longer than small trainings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.learner_group import LearnerGroup


class LearnerPairs:
    """Gives groups of two learners to algorithms, and takes them back when these stop.

    Args:
        build: what builds a group for a config.
    """

    def __init__(self, build: Callable[..., LearnerGroup]) -> None:
        self._build = build
        self._free: dict[type, list[LearnerGroup]] = defaultdict(list)
        self._shutdowns: list[Callable[[], None]] = []

    def group(self, config: AlgorithmConfig, **options: Any) -> LearnerGroup:
        """Return a group for a config: of two learners an existing one, if one is free."""
        if config.num_learners != 2:
            return self._build(config, **options)
        free = self._free[config.learner_class]
        if free:
            group = free.pop()
            _renew(group, config, options["rl_module_spec"])
            return group
        group = self._build(config, **options)
        self._shutdowns.append(group.shutdown)
        group.shutdown = partial(self._take_back, group, free)
        return group

    @staticmethod
    def _take_back(group: LearnerGroup, free: list[LearnerGroup]) -> None:
        if group not in free:
            free.append(group)

    def shutdown(self) -> None:
        """Stop the processes of all groups."""
        for each in self._shutdowns:
            each()


def _renew(group: LearnerGroup, config: AlgorithmConfig, spec: Any) -> None:
    """Make learners as new, in the processes that they have."""

    def renew(learner: Any) -> None:
        index = learner._learner_index
        if getattr(learner, "_runner", None) is not None:
            learner._runner.stop()
        learner.__init__(config=config, module_spec=spec)
        learner._set_learner_index_and_placement_group(learner_index=index, placement_group=None)
        learner.build()

    group.config = config
    ray.get([worker.apply.remote(renew) for worker in group._workers])
