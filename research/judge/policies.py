"""Short trainings of the image generator with a judge as the reward, by the command that anyone can run."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexgym.core.files import write_atomic
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.splits import draw_prompts

logger = logging.getLogger(__name__)

RECIPE = "pref_grpo_shapes_judge.yaml"
_AGENT = "agents.pref_grpo"
_PROMPTS = 2000


@dataclass(frozen=True)
class PolicyRun:
    """One training.

    Attributes:
        generator: pipeline folder that it starts from.
        judge: folder of the judge.
        iterations: length.
        seed: of the run.
        overrides: further settings, such as ``"reward.settings.tournament.alpha=0.5"``.
    """

    generator: Path
    judge: Path
    iterations: int
    seed: int
    overrides: Sequence[str] = ()


def train_policy(policy: Path, run: PolicyRun) -> Path:
    """Train and export a policy; one that is there is kept, and a run that was stopped is resumed.

    Args:
        policy: the pipeline folder to write; the run is beside it.
        run: which.

    Returns:
        ``policy``.
    """
    if policy.exists():
        return policy
    folder = policy.with_name(f"{policy.name}_run")
    if any(folder.glob("checkpoints/iteration_*")):
        _run(_AGENT, f"--resume={folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        _run(_AGENT, f"--config={RECIPE}", *_settings(folder, run), *run.overrides)
    _run("flexgym.cli", "export", folder, policy)
    return policy


def _settings(folder: Path, run: PolicyRun) -> list[str]:
    prompts = folder.parent / "prompts.jsonl"
    if not prompts.exists():
        texts = draw_prompts("image", "training", _PROMPTS, seed=0)
        rows = [json.dumps({"prompt": text, "category": parse_caption(text).category}) for text in texts]
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(prompts, ("\n".join(rows) + "\n").encode())
    return [
        f"run.root={folder.parent}",
        f"run.name={folder.name}",
        f"run.seed={run.seed}",
        f"run.iterations={run.iterations}",
        "run.minutes=null",
        "run.checkpoint_interval=5",
        f"generator.source={run.generator}",
        f"rollout.prompts={prompts}",
        f"reward.settings.judge={run.judge}",
        "reward.monitors=[]",
        "verification.reward=null",
    ]


def _run(module: str, *words: object) -> None:
    """Run a command of FlexGym."""
    command = [sys.executable, "-m", module, *map(str, words)]
    logger.info("%s", " ".join(command[2:]))
    subprocess.run(command, check=True)
