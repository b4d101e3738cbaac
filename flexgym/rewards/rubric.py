"""A rubric: several rewards as weighted, named terms of one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError
from flexgym.core.options import built_settings
from flexgym.reward import FailedSamples, KnownPair, Reward
from flexgym.rewards.known import known_pairs
from flexgym.rewards.named import NamedReward
from flexgym.types import GroupScores, SampleGroup

Combination = Literal["sum", "gdpo"]


@dataclass(frozen=True)
class Term(NamedReward):
    """One reward of a rubric; fields as for `NamedReward`.

    Attributes:
        weight: weight of its scores; 0 for a reward that is only monitored.

    Raises:
        ConfigError: if the weight is no finite number.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float) or not math.isfinite(self.weight):
            raise ConfigError(f"weight of term {self.title!r}: expected a finite number, got {self.weight!r}")


class Rubric(Reward):
    """Several rewards as weighted, named terms of one.

    ``sum`` adds the raw scores, ``r = sum_k w_k r_k``, so scales matter. ``gdpo`` keeps the terms apart: the advantage
    is ``sum_k w_k z(r_k)`` with each term normalized within its group (GDPO, arXiv 2601.05242), so no scale dominates;
    the setting ``training.advantage={batch_norm: true}`` adds the paper's second normalization. The reward of a sample
    is then the weighted mean of the raw scores and serves display only.

    A sample that one weighted term could not score has no reward; with ``gdpo`` its advantage follows from the other
    terms. Every term is in ``reward_terms`` of info and in the metrics, its own parts as ``term/part``. All terms run
    concurrently, so judges and servers overlap with models in this process.

    Args:
        terms: fields of `Term` by name for each term, as in a recipe, or `Term` objects.
        combine: ``"sum"`` or ``"gdpo"``.

    Raises:
        ConfigError: if there are no terms, two of the same name, or weights whose sum is not above 0.
        UnknownNameError: for an unknown reward or setting; the message names the nearest one.
    """

    def __init__(self, terms: Sequence[Mapping[str, Any] | Term] = (), *, combine: Combination = "sum") -> None:
        chosen = _checked_terms(terms)
        self.combine = combine
        self.weights = {term.title: float(term.weight) for term in chosen}
        self.rewards = {term.title: term.make() for term in chosen}
        for reward in self.rewards.values():
            if reward.failed.folder is None:
                reward.keep_failed(self.failed)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Check the terms and the settings of their rewards."""
        _checked_terms(settings.get("terms", ()))

    @classmethod
    def processes(cls, settings: Mapping[str, Any]) -> int:
        """Return the number of processes of the rubric and its terms."""
        return super().processes(settings) + sum(term.processes for term in _checked_terms(settings.get("terms", ())))

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group by every term."""
        submitted: dict[str, Future[list[GroupScores]]] = {
            name: reward.submit(groups) for name, reward in self.rewards.items()
        }
        # Wait for all before raising, so that no term is still running in a closed rubric.
        errors = [error for future in submitted.values() if (error := future.exception())]
        if errors:
            raise errors[0]
        found = {name: future.result() for name, future in submitted.items()}
        return [self._combined({name: scores[index] for name, scores in found.items()}) for index in range(len(groups))]

    def start(self) -> None:
        """Start what all terms score in."""
        super().start()
        for reward in self.rewards.values():
            reward.start()

    def keep_failed(self, failed: FailedSamples) -> None:
        """Keep the failed samples of all terms in one place."""
        super().keep_failed(failed)
        for reward in self.rewards.values():
            reward.keep_failed(failed)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the terms as ``term/metric``."""
        return {f"{name}/{key}": value for name, it in self.rewards.items() for key, value in it.metrics().items()}

    def known_pairs(self) -> list[KnownPair]:
        """Return the known pairs of all weighted terms."""
        return [pair for name, it in self.rewards.items() if self.weights[name] > 0 for pair in known_pairs(it)]

    def close(self) -> None:
        """Wait for submitted work and close all terms."""
        super().close()
        for reward in self.rewards.values():
            reward.close()

    def _combined(self, found: Mapping[str, GroupScores]) -> GroupScores:
        total = sum(self.weights.values())
        shares = {name: weight / total for name, weight in self.weights.items() if weight}
        factors = shares if self.combine == "gdpo" else {name: self.weights[name] for name in shares}
        rewards = np.sum([factor * found[name].rewards.astype(np.float64) for name, factor in factors.items()], axis=0)
        judged = [scores for scores in found.values() if scores.pairs is not None]
        against = [it.win_rate_vs_reference for it in found.values() if it.win_rate_vs_reference is not None]
        return GroupScores(
            rewards=rewards.astype(np.float32),
            terms={key: value for name, scores in found.items() for key, value in _parts(name, scores).items()},
            weights=shares if self.combine == "gdpo" else {},
            failures=_failures(found),
            assessments=tuple(outcome for scores in judged for outcome in scores.assessments),
            pairs=np.concatenate([scores.pairs for scores in judged if scores.pairs is not None]) if judged else None,
            win_rate_vs_reference=against[0] if len(against) == 1 else None,
        )


def _checked_terms(terms: Any) -> list[Term]:
    if isinstance(terms, str | Mapping) or not isinstance(terms, Sequence) or not terms:
        raise ConfigError(
            "rubric: expected a list of terms such as [{reward: CLIPScore, weight: 1.0}, {reward: Aesthetic, weight:"
            f" 0.2}}], got {terms!r}"
        )
    chosen = [term if isinstance(term, Term) else built_settings("rubric term", Term, term) for term in terms]
    twice = [name for name, count in Counter(term.title for term in chosen).items() if count > 1]
    if twice:
        raise ConfigError(f"rubric: two terms are named {twice[0]!r}; rename one of them")
    if any("/" in term.title for term in chosen):
        raise ConfigError("rubric: the name of a term must not contain '/', which separates it from its parts")
    weights = {term.title: term.weight for term in chosen}
    if not sum(weights.values()) > 0:
        raise ConfigError(f"rubric: the sum of the weights must be positive, got {weights}")
    return chosen


def _parts(name: str, scores: GroupScores) -> dict[str, NDArray[np.float32]]:
    """Return the term, and its parts where they differ from it."""
    parts = {part: values for part, values in scores.terms.items() if values is not scores.rewards}
    different = {f"{name}/{part}": values for part, values in parts.items() if not _equal(values, scores.rewards)}
    return {name: scores.rewards, **different}


def _equal(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    return bool(np.array_equal(first, second, equal_nan=True))


def _failures(found: Mapping[str, GroupScores]) -> dict[str, int]:
    """Return failure counts by term, and by kind where the term counts by kind."""
    return {
        name if kind == name else f"{name}/{kind}": count
        for name, scores in found.items()
        for kind, count in scores.failures.items()
    }
