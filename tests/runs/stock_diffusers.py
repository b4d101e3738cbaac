"""Samples with diffusers alone, in a process of its own: what FlexGym exported must not need FlexGym.

Cases come as JSON on the standard input; what the adapters of each look like goes out as JSON.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from diffusers import DiffusionPipeline


def loaded(case):
    """The pipeline, by the lines that the export gave."""
    scope = {"DiffusionPipeline": DiffusionPipeline}
    if case["base"]:
        scope["pipe"] = DiffusionPipeline.from_pretrained(case["base"])
    for line in case["loading"]:
        exec(line, scope)
    pipe = scope["pipe"]
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        # torch rounds a linear layer in another way while its weights require gradients
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    return pipe


def pixels(sample):
    return np.stack([np.asarray(frame) for frame in sample]) if isinstance(sample, list) else np.asarray(sample)


def sampled(pipe, case):
    """Samples of a pipeline."""
    latents = torch.from_numpy(np.load(case["latents"]))
    if "seed" in case:
        torch.manual_seed(case["seed"])
        torch.randn(case["drawn"])  # the first latents, before the noise of the solver
    samples = pipe(latents=latents, output_type="pil", return_dict=False, **case["arguments"])[0]
    return np.stack([pixels(sample) for sample in samples])


def main():
    torch.set_num_threads(1)
    found = []
    for case in json.load(sys.stdin):
        pipe = loaded(case)
        np.save(case["samples"], sampled(pipe, case))
        adapters = [
            {"rank": config.r, "alpha": config.lora_alpha}
            for part in ("transformer", "transformer_2")
            for config in getattr(getattr(pipe, part, None), "peft_config", {}).values()
        ]
        found.append(adapters)
    assert "flexgym" not in sys.modules
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
