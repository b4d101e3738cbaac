"""Our side of the comparison, in a process of its own: ``python -m research.flow_grpo.ours JOB``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import torch
import typer

from flexgym.agents.pref_grpo import DEFAULT_RECIPE
from flexgym.bench.clock import Clock
from flexgym.bench.hooks import UPDATE, watched_phases
from flexgym.bench.subject import agent_settings, build
from flexgym.config.recipe import Recipe, apply_overrides, load_recipe
from flexgym.rllib.process import quiet_libraries, shared_cores
from flexgym.rllib.sharded import METRICS
from research.flow_grpo.work import REST, REWARD, UPDATES, WARM_UP, Job, Measured, Work, counted_rows

THEIR_RECIPE = "flow_grpo_sd35_medium.yaml"
"""Our recipe with the values of their code."""
_KL = 4.4e-3
"""Their coefficient 0.04 times the mean step length, see `THEIR_RECIPE`."""


def recipe_of(job: Job) -> Recipe:
    """Return the recipe of a job: their algorithm for equal work, otherwise the default one with the same reward.

    Args:
        job: of one of our sides.
    """
    work = job.work
    same = [
        f"run.iterations={WARM_UP + work.iterations}",
        f"generator.source={work.checkpoint}",
        f"generator.mode={'lora' if work.lora else 'full'}",
        f"rollout.prompts={Path(work.prompts) / 'train.txt'}",
        f"rollout.group_size={work.group_size}",
        f"rollout.prompts_per_iteration={work.num_prompts}",
        *(f"reward.name={REWARD}", "reward.settings={}", "reward.monitors=[]"),
        "resources.num_gpus_per_learner=0",
    ]
    if job.side == "equal":
        return apply_overrides(load_recipe(THEIR_RECIPE), [*same, *_their_work(work)])
    recipe = apply_overrides(load_recipe(DEFAULT_RECIPE), [*same, "verification.reward=null"])
    lora = load_recipe(THEIR_RECIPE)["generator"]["lora"] if work.lora else None
    return apply_overrides(recipe, [f"generator.lora={lora}"] if lora else [])


def _their_work(work: Work) -> list[str]:
    """Return what differs from the recipe for the published model: the size of the world, and no precision to save."""
    changed = [
        "generator.dtype=float32",
        "generator.gradient_checkpointing=false",
        f"generator.sampling={work.sampling}",
        f"rollout.groups_per_forward={work.num_prompts // UPDATES}",
        f"training.num_updates={UPDATES}",
        "training.ema_decay=0",
    ]
    if work.lora:
        return [*changed, f"algorithm.penalties={{reference: {{coeff: {_KL}}}}}"]
    return [*changed, "generator.lora={}", "algorithm.penalties={}"]


def measure(job: Job) -> Measured:
    """Train a job's recipe in this process and measure every iteration."""
    measured, work = Measured(), job.work
    with shared_cores():  # as in training
        quiet_libraries()
        algorithm = build(agent_settings(recipe_of(job)), random_weights=False)
        for _ in range(WARM_UP + work.iterations):
            clock, counts = Clock(torch.device("cpu")), Counter[str]()
            with counted_rows(counts), watched_phases(clock.phase), clock.phase(REST):
                metrics = algorithm.train()[METRICS]
            waited = float(metrics["time/reward_wait_s"])  # in the update, for the scores of a part
            clock.seconds[UPDATE] -= waited
            clock.seconds[REST] += waited
            measured.add(clock.seconds, counts)
        algorithm.stop()
    return measured


def main(job: Annotated[Path, typer.Argument(help="file of the job")]) -> None:
    """Do a job of our side and write its result."""
    read = Job.read(job)
    measure(read).write(Path(read.result))


if __name__ == "__main__":
    typer.run(main)
