"""An exported pipeline samples as it was verified, whatever its scheduler is, to the bit."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from flexgym.algorithm.rollout import sample
from flexgym.core.errors import CheckpointError, GeneratorError
from flexgym.generators import load_generator
from flexgym.generators.sampling import call_arguments
from flexgym.runs.export import GENERATOR, export_generator
from tests.generators.tiny import CASES
from tests.runs import stock_diffusers
from tests.runs.test_export import published

PROMPT, SEED = "a red cube", 5
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
SCHEDULERS = {
    "wan": lambda own: UniPCMultistepScheduler(**FLOW),
    "flux": lambda own: UniPCMultistepScheduler(**FLOW),
    "sana": lambda own: DPMSolverMultistepScheduler(**FLOW),
    "ltx": lambda own: FlowMatchEulerDiscreteScheduler.from_config(own.config, stochastic_sampling=True),
}
VERIFIED = [
    ("wan", "lora", "pipeline"),
    ("wan", "full", "rollout"),
    ("sana", "full", "pipeline"),
    ("sana", "lora", "rollout"),
    ("ltx", "lora", "pipeline"),
    ("ltx", "full", "rollout"),
    ("flux", "lora", "rollout"),  # a pipeline that hands noise levels to its scheduler
]


def verified(family, mode, sampler, folder):
    """The sample of a verification, and what stock diffusers must do to make it again."""
    case = CASES[family]
    pipe = case.build()
    pipe.register_modules(scheduler=SCHEDULERS[family](pipe.scheduler))
    pipe.save_pretrained(folder / "base")
    generator = load_generator(folder / "base", device="cpu", **{**case.settings, case.guidance: 2.0})
    if mode == "lora":
        generator.weights.add_lora(rank=2)
    else:
        generator.weights.train_full()
    with torch.no_grad():
        for parameter in generator.weights.trained().values():
            parameter.add_(0.1)
    ours = sample(generator, [PROMPT], seeds=[SEED], sampler=sampler)
    run = published(generator, folder, sampler=sampler)
    np.save(folder / "latents.npy", generator.family.call_latents(generator.initial_latents(1, SEED)).numpy())
    offered = {
        **call_arguments(generator.settings, generator.family.call_names),
        "prompt": [PROMPT],
        "negative_prompt": "",
        **generator.family.call_options,
    }
    taken = inspect.signature(generator.pipe.__call__).parameters
    request = {
        "base": str(folder / "base") if mode == "lora" else "",
        "loading": export_generator(run, folder / "exported").loading,
        "latents": str(folder / "latents.npy"),
        "seed": SEED,
        "drawn": [1, *generator.latent_shape],
        "arguments": {name: value for name, value in offered.items() if name in taken},
    }
    return ours, request, generator


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {case: verified(*case, tmp_path_factory.mktemp("_".join(case))) for case in VERIFIED}


@pytest.mark.slow
@pytest.mark.parametrize("case", VERIFIED, ids="-".join)
def test_the_export_samples_as_verified(made, case):
    ours, request, _ = made[case]
    # within this process, which is faster; `test_export` shows that FlexGym is not needed
    theirs = stock_diffusers.sampled(stock_diffusers.loaded(request), request)
    np.testing.assert_array_equal(theirs, ours)
    assert ours.std() > 0


@pytest.mark.parametrize("case", VERIFIED, ids="-".join)
def test_the_export_holds_the_scheduler_of_the_verification(made, case):
    family, _, sampler = case
    _, request, generator = made[case]
    exported = json.loads((folder_of(request) / "scheduler" / "scheduler_config.json").read_text())
    own = type(generator.pipe.scheduler).__name__
    assert exported["_class_name"] == (own if sampler == "pipeline" else "FlowMatchEulerDiscreteScheduler")
    assert exported.get("stochastic_sampling", False) == (family == "ltx" and sampler == "pipeline")
    assert (folder_of(request) / "scheduler" / "grid.json").is_file() == (sampler == "rollout" and family != "ltx")


def test_an_export_is_a_source_with_the_same_noise_levels(made):
    _, request, generator = made["wan", "full", "rollout"]
    again = load_generator(folder_of(request), device="cpu", num_steps=5)
    assert isinstance(again.pipe.scheduler, UniPCMultistepScheduler)
    assert torch.equal(again.sigmas(), generator.with_settings(num_steps=5).sigmas())


def test_an_export_does_not_choose_code(made, tmp_path):
    _, request, _ = made["wan", "full", "rollout"]
    path = folder_of(request) / "scheduler" / "grid.json"
    kept = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(kept), "scheduler": {"_class_name": "DiffusionPipeline"}}))
        with pytest.raises(GeneratorError, match="got DiffusionPipeline"):
            load_generator(folder_of(request), device="cpu")
    finally:
        path.write_text(kept)
    adapter = made["sana", "lora", "rollout"][2]
    run = published(adapter, tmp_path, sampler="rollout")
    config = run / "checkpoints" / "iteration_000007" / GENERATOR / "scheduler" / "scheduler_config.json"
    named = config.read_text().replace("FlowMatchEulerDiscreteScheduler", "os; 1//0; FlowMatchEuler")
    exported = export_generator(run, tmp_path / "exported")
    (exported.folder / "scheduler" / "scheduler_config.json").write_text(named)
    with pytest.raises(CheckpointError, match="expected the name of a scheduler class"):
        _ = exported.loading


def folder_of(request):
    """The folder of the export, which holds an adapter or a pipeline, beside the latents."""
    return Path(request["latents"]).parent / "exported"
