"""Every family with every scheduler that fits it: the generator's steps against those of the pipeline's own call.

Run by hand, about four minutes on one core::

    python -m tests.demonstrations.solvers

Prints one line for each combination that differs or is rejected, and the counts. A combination is rejected where the
pipeline itself cannot use the scheduler.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, UniPCMultistepScheduler

from flexgym.core.errors import GeneratorError
from flexgym.generators import wrap_pipeline
from flexgym.generators.conformance import own_run, pipeline_run
from tests.generators.tiny import CASES, prompts_for

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


def changed(**settings):
    """The pipeline's own scheduler with other settings."""
    return lambda own: type(own).from_config(own.config, **settings)


SCHEDULERS = {
    "unipc": lambda own: UniPCMultistepScheduler(**FLOW),
    "unipc, dynamic": lambda own: UniPCMultistepScheduler(**FLOW, use_dynamic_shifting=True),
    "unipc, karras": lambda own: UniPCMultistepScheduler(**FLOW, use_karras_sigmas=True),
    "unipc, order 1": lambda own: UniPCMultistepScheduler(**FLOW, solver_order=1),
    "dpm++": lambda own: DPMSolverMultistepScheduler(**FLOW),
    "dpm++, dynamic": lambda own: DPMSolverMultistepScheduler(**FLOW, use_dynamic_shifting=True),
    "sde-dpm++": lambda own: DPMSolverMultistepScheduler(**FLOW, algorithm_type="sde-dpmsolver++"),
    "dpm++ singlestep": lambda own: DPMSolverSinglestepScheduler(**FLOW),
    "stochastic": changed(stochastic_sampling=True),
    "500 steps of training": changed(num_train_timesteps=500),
    "karras": changed(use_karras_sigmas=True),
    "exponential": changed(use_exponential_sigmas=True),
    "beta": changed(use_beta_sigmas=True),
    "linear shift": changed(time_shift_type="linear"),
    "terminal": changed(shift_terminal=0.1),
}


def difference(family, scheduler, dtype=torch.float32, *, guidance=4.0):
    """Largest difference of latents and of pixels after four steps, from noise that is not rounded."""
    case = CASES[family]
    pipe = case.build().to(dtype)
    pipe.scheduler = SCHEDULERS[scheduler](pipe.scheduler)
    generator = wrap_pipeline(pipe, **{**case.settings, case.guidance: guidance, "num_steps": 4})
    noise, prompt = generator.initial_latents(2, 7), prompts_for(family)[0]
    generator.condition([prompt])
    runs = []
    for run in (own_run, pipeline_run):
        torch.manual_seed(3)  # of the noise of stochastic solvers
        runs.append(run(generator, noise, prompt))
    ours, theirs = runs
    pixels = np.abs(ours.samples.astype(int) - theirs.samples.astype(int)).max()
    return float((ours.latents - theirs.latents).abs().max()), int(pixels)


def main():
    counts = Counter()
    for family in CASES:
        for scheduler in SCHEDULERS:
            for dtype in (torch.float32, torch.bfloat16):
                case = f"{family}, {scheduler}, {dtype}"
                try:
                    found = difference(family, scheduler, dtype)
                except GeneratorError as error:
                    counts["rejected"] += 1
                    sys.stdout.write(f"{case}: {error}\n")
                    continue
                counts["equal" if found == (0, 0) else "different"] += 1
                if found != (0, 0):
                    sys.stdout.write(f"{case}: latents differ by {found[0]}, pixels by {found[1]}\n")
    sys.stdout.write(f"{dict(counts)}\n")


if __name__ == "__main__":
    main()
