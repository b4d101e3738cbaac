"""Usage counters of a backend, and percentiles of its recent latencies."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import numpy as np

from flexgym.judge.backends.base import Reply
from flexgym.judge.protocol import JudgeFailure

_LATENCIES_KEPT = 4096
_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")


class Usage:
    """Counters over the lifetime of a backend and latencies of its last 4,096 replies, in constant memory.

    Args:
        names: additional counters, initialized to 0.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._totals: Counter[str] = Counter(dict.fromkeys(("requests", "failures", *_TOKENS, *names), 0))
        self._latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)

    def add(self, name: str, amount: int = 1) -> None:
        """Increase the counter ``name``, such as ``"retries"``, by ``amount``."""
        self._totals[name] += amount

    def count(self, outcomes: Sequence[Reply | JudgeFailure]) -> None:
        """Count the outcomes of requests: tokens and latency of replies, failures by kind."""
        for outcome in outcomes:
            self.add("requests")
            if isinstance(outcome, JudgeFailure):
                self.add("failures")
                self.add(f"failures/{outcome.kind}")
                continue
            for name in _TOKENS:
                self.add(name, getattr(outcome, name))
            self._latencies.append(outcome.seconds)

    def metrics(self) -> dict[str, float]:
        """Return all counters by name, and ``latency_p50`` and ``latency_p95`` in seconds (0 without replies)."""
        p50, p95 = np.percentile(list(self._latencies) or [0.0], [50, 95])
        return {**self._totals, "latency_p50": float(p50), "latency_p95": float(p95)}
