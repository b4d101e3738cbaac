"""Small runs of every trainer, and the moments in them at which something can happen."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from stable_baselines3 import PPO

import flexgym.rm.command
from flexgym.agents import pref_grpo, sb3_ppo
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.config import FlowConfig
from flexgym.rllib.trainable import RLlibTrainable
from flexgym.rm.algorithm import JudgeAlgorithm
from flexgym.rm.config import JudgeConfig
from flexgym.runs.checkpoints import checkpoint_name, verify_checkpoint
from flexgym.runs.metrics import read_metrics
from flexgym.sb3.held_out import HeldOut
from flexgym.sb3.trainable import SB3Trainable
from tests.judge.backends.tiny_qwen_vl import save_tiny_qwen_vl
from tests.rm.small import write_rows

ITERATIONS = 3
Place = tuple[Any, str, int]
"""A method, and the call of it at which something happens."""


@dataclass(frozen=True)
class Trainer:
    """A program with settings so small that an iteration takes less than a second.

    Attributes:
        main: the program.
        words: the words that start it.
        settings: recipe and overrides.
        phases: where each phase of the second iteration begins, by name.
    """

    main: Callable[[], None]
    words: list[str]
    settings: list[str]
    phases: dict[str, Place] = field(default_factory=dict)

    def run(self, folder: Path, *more: str) -> tuple[int, str]:
        """Run the program in this process; return its exit status and output."""
        own = [] if "--resume" in more else [f"run.root={folder.parent}", f"run.name={folder.name}"]
        output, arguments = io.StringIO(), sys.argv
        sys.argv = [*self.words, *(self.settings if "--resume" not in more else []), *own, *more]
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                self.main()
        except SystemExit as end:
            return int(end.code or 0), output.getvalue()
        finally:
            sys.argv = arguments
        return 0, output.getvalue()


def trainers(folder: Path, *, num_learners: int = 1) -> dict[str, Trainer]:
    """Return an agent and a judge training with learners in processes of their own, and Stable-Baselines3."""
    learners = f"resources.num_learners={num_learners}"
    judge, data = save_tiny_qwen_vl(folder / "tiny"), write_rows(folder / "rows")["sft"]
    held_out = write_rows(folder / "held_out", 4)["sft"]
    every = [f"run.iterations={ITERATIONS}", "run.keep=9", "verification.num_prompts=4", "verification.interval=1"]
    agent = ["rollout.prompts_per_iteration=4", "rollout.groups_per_forward=1", "rollout.group_size=3"]
    agent += ["generator.sampling={num_steps: 4}", "algorithm.window={size: 2, strategy: random, first: [0, 1]}"]
    agent += ["--config=pref_grpo_shapes_t2i.yaml", learners]
    tuned = ["judge.dtype=float32", "training.lr=1e-2", "training.batch_size=4", "training.micro_batch_size=2"]
    tuned += ["training.gradient_checkpointing=false", "training.steps_per_iteration=1", "judge.sharding=none"]
    tuned += ["judge.lora={r: 4, lora_alpha: 8, target_modules: [q_proj, v_proj]}", "resources.num_gpus_per_learner=0"]
    tuned += [f"judge.source={judge}", f"data.files=[{data}]", f"held_out.files=[{held_out}]", "held_out.interval=1"]
    control = ["environment.num_envs=2", "environment.settings={group_size: 1, num_steps: 2}"]
    control += ["training.steps_per_iteration=8"]
    control += ["PPO.n_steps=4", "PPO.batch_size=4", "PPO.n_epochs=1"]
    return {
        "agent": Trainer(
            pref_grpo.main,
            ["agents.pref_grpo"],
            [*agent, *every],
            {
                "building": (FlowConfig, "build_algo", 1),
                "rollout": (FlowAlgorithm, "_colocated", 2),
                "reward": (FlowAlgorithm, "_advantages", 2),
                "update": (FlowAlgorithm, "_update", 2),
                "verification": (FlowAlgorithm, "verify", 3),
                "saving": (RLlibTrainable, "save", 1),
            },
        ),
        "judge": Trainer(
            flexgym.rm.command.main,
            ["flexgym.rm", "train", "sft"],
            [*tuned, *every[:2], learners],
            {
                "building": (JudgeConfig, "build_algo", 1),
                "update": (JudgeAlgorithm, "training_step", 2),
                "verification": (JudgeAlgorithm, "evaluate_held_out", 3),
                "saving": (RLlibTrainable, "save", 1),
            },
        ),
        "sb3": Trainer(
            sb3_ppo.main,
            ["agents.sb3_ppo"],
            [*control, *every],
            {
                "building": (SB3Trainable, "build", 1),
                "rollout": (PPO, "collect_rollouts", 2),
                "update": (PPO, "train", 2),
                "verification": (HeldOut, "verify", 3),
                "saving": (SB3Trainable, "save", 1),
            },
        ),
    }


@contextlib.contextmanager
def at(place: Place, act: Callable[[Any], None]) -> Iterator[list[int]]:
    """Call ``act`` with the object of a method before one call of it; the list holds the calls so far."""
    owner, name, visit = place
    original, calls = getattr(owner, name), [0]

    @functools.wraps(original)
    def hooked(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == visit:
            act(self)
        return original(self, *args, **kwargs)

    setattr(owner, name, hooked)
    try:
        yield calls
    finally:
        setattr(owner, name, original)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics without what measures time."""
    return [
        {name: value for name, value in row.items() if "time/" not in name}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


def saved_weights(folder: Path, iteration: int) -> dict[str, torch.Tensor]:
    """Return the trained weights of a checkpoint, which must be complete."""
    checkpoint = folder / "checkpoints" / checkpoint_name(iteration)
    assert verify_checkpoint(checkpoint) == iteration
    parts = [path for part in ("generator", "judge", "model") for path in (checkpoint / part).rglob("*.safetensors")]
    assert parts, checkpoint
    return {f"{path.name}:{name}": value for path in parts for name, value in load_file(path).items()}


def same_weights(first: Path, second: Path, iteration: int) -> bool:
    """Return True if two runs have the same weights after an iteration, to the bit."""
    one, other = saved_weights(first, iteration), saved_weights(second, iteration)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def own_group() -> None:
    """Make this process the leader of its group, so that it may signal the group as a terminal does."""
    if os.getpgrp() != os.getpid():
        os.setpgrp()
