"""The work that both sides of the comparison do, and what is measured of it."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from diffusers import SD3Transformer2DModel
from torch import is_grad_enabled

from flexgym.bench.hooks import DECODING, ENCODING, SAMPLING, UPDATE
from flexgym.core.files import write_atomic
from flexgym.core.json_text import read_json_file
from flexgym.core.typed import fitted

REST = "reward and rest"
"""Waiting for rewards, advantages, and whatever is in no other phase."""
PHASES = (ENCODING, SAMPLING, DECODING, REST, UPDATE)
"""Phases of an iteration, which add up to its time."""
FORWARD, GRADIENT = "rows without gradient", "rows with gradient"
"""Counts of an iteration: samples that pass through the transformer, several times each."""
WARM_UP = 1
"""Iterations of each run that are not measured."""
REWARD = "ShapesVerifier"
UPDATES = 2
"""Optimizer steps of an iteration, and forwards that a rollout's samples are divided into."""


@dataclass(frozen=True)
class Work:
    """Training that both sides have to do.

    Attributes:
        checkpoint: folder of the pipeline, of the form of Stable Diffusion 3.
        prompts: folder with ``train.txt`` and ``test.txt``, a prompt on each line.
        sampling: settings of the sampler, ``generation_config.json`` of the checkpoint.
        iterations: iterations that are measured, after those of the warm-up.
        group_size: samples of each prompt.
        num_prompts: prompts of an iteration.
        lora: train a LoRA with the KL to the reference, rather than all weights without.
    """

    checkpoint: str
    prompts: str
    sampling: dict[str, int | float]
    iterations: int = 4
    group_size: int = 12
    num_prompts: int = 16
    lora: bool = False

    @property
    def samples(self) -> int:
        """Number of samples of an iteration."""
        return self.group_size * self.num_prompts


@dataclass(frozen=True)
class Job:
    """A run of one side.

    Attributes:
        side: ``"theirs"``, ``"equal"`` or ``"shipped"``.
        work: what it trains.
        script: their training script; empty for our sides.
        result: file that it writes.
    """

    side: str
    work: Work
    script: str
    result: str

    def write(self, path: Path) -> None:
        """Write the job for the process that does it."""
        write_atomic(path, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job that was written."""
        job: Job = fitted(str(path), cls, read_json_file(path))
        return job


@dataclass
class Measured:
    """Seconds by phase and counts of each iteration of a run.

    Attributes:
        seconds: seconds by phase, for each iteration.
        counts: `FORWARD` and `GRADIENT`, for each iteration.
    """

    seconds: list[dict[str, float]] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)

    def add(self, seconds: dict[str, float], counts: dict[str, int]) -> None:
        """Add the times and counts of one iteration."""
        self.seconds.append({phase: seconds.get(phase, 0.0) for phase in PHASES})
        self.counts.append({name: counts.get(name, 0) for name in (FORWARD, GRADIENT)})

    def write(self, path: Path) -> None:
        """Write what was measured, without the warm-up."""
        kept = {"seconds": self.seconds[WARM_UP:], "counts": self.counts[WARM_UP:]}
        write_atomic(path, json.dumps(kept, indent=1).encode())


@contextlib.contextmanager
def counted_rows(counts: Counter[str]) -> Iterator[None]:
    """Count the rows of every forward of the transformer inside.

    Args:
        counts: gets them, apart by whether a gradient is kept.
    """
    forward = SD3Transformer2DModel.forward

    def counting(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        counts[GRADIENT if is_grad_enabled() else FORWARD] += len(hidden_states)
        return forward(self, hidden_states, *args, **kwargs)

    with patch.object(SD3Transformer2DModel, "forward", counting):
        yield
