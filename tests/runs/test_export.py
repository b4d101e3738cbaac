from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from flexgym.cli import app
from flexgym.core.errors import CheckpointError
from flexgym.generators import load_generator
from flexgym.generators.conformance import own_run
from flexgym.generators.sampling import call_arguments
from flexgym.runs.checkpoints import CheckpointStore
from flexgym.runs.export import ADAPTER, GENERATOR, Exported, export_generator
from tests.generators.tiny import CASES
from tests.runs import stock_diffusers

PROMPT = "a red cube"
RANK, ALPHA = 3, 5  # an alpha that no reader would assume
TRAINED = [
    ("sd35", "lora"),
    ("sd3", "full"),  # without its third text encoder
    ("flux", "lora"),
    ("flux", "full"),
    ("wan", "lora"),
    ("wan", "full"),
    ("wan22", "lora"),  # an adapter for each of two transformers
]


@dataclass
class Picture:
    """What FlexGym samples from trained weights, and what stock diffusers makes of their export."""

    ours: np.ndarray
    request: dict
    adapters: list = field(default_factory=list)

    @property
    def theirs(self):
        return np.load(self.request["samples"])


def trained(family, mode, folder):
    """A generator over a checkpoint folder, some way from where it started."""
    case = CASES[family]
    case.build().save_pretrained(folder / "base")
    generator = load_generator(folder / "base", device="cpu", **{**case.settings, case.guidance: 2.0})
    if mode == "lora":
        generator.weights.add_lora(rank=RANK, alpha=ALPHA)
    else:
        generator.weights.train_full()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in list(generator.weights.trained().values()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return generator


def published(generator, folder, **options):
    """A run folder with one checkpoint, as a training run leaves it."""
    store = CheckpointStore(folder / "run" / "checkpoints")
    store.publish(7, lambda path: generator.save(path / GENERATOR, **options))
    return folder / "run"


def adapter_alone(checkpoint):
    (checkpoint / GENERATOR).mkdir()
    save_file({"weight": torch.zeros(1)}, checkpoint / GENERATOR / ADAPTER)


def picture(family, mode, folder):
    generator = trained(family, mode, folder)
    exported = export_generator(published(generator, folder), folder / "exported")
    noise = generator.initial_latents(2, 0)
    np.save(folder / "latents.npy", generator.family.call_latents(noise).numpy())
    offered = {
        **call_arguments(generator.settings, generator.family.call_names),
        "prompt": [PROMPT],
        "negative_prompt": "",
        "num_images_per_prompt": len(noise),
        "num_videos_per_prompt": len(noise),
    }
    taken = inspect.signature(generator.pipe.__call__).parameters
    request = {
        "base": str(folder / "base") if mode == "lora" else "",
        "loading": exported.loading,
        "latents": str(folder / "latents.npy"),
        "samples": str(folder / "samples.npy"),
        "arguments": {name: value for name, value in offered.items() if name in taken},
    }
    return Picture(own_run(generator, noise, PROMPT).samples, request)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    made = {case: picture(*case, tmp_path_factory.mktemp("_".join(case))) for case in TRAINED}
    command = [sys.executable, stock_diffusers.__file__]
    requests = json.dumps([one.request for one in made.values()])
    done = subprocess.run(command, input=requests, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for one, adapters in zip(made.values(), json.loads(done.stdout), strict=True):
        one.adapters = adapters
    return made


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAINED, ids="-".join)
def test_stock_diffusers_gives_the_same_picture(pictures, case):
    picture = pictures[case]
    np.testing.assert_array_equal(picture.theirs, picture.ours)
    assert picture.ours.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAINED, ids="-".join)
def test_rank_and_alpha_survive(pictures, case):
    family, mode = case
    count = {"full": 0, "lora": 2 if family == "wan22" else 1}[mode]
    assert pictures[case].adapters == [{"rank": RANK, "alpha": ALPHA}] * count


def test_export_of_a_run_and_of_one_checkpoint(tmp_path: Path):
    run = published(trained("wan22", "lora", tmp_path), tmp_path)
    exported = export_generator(run, tmp_path / "deep" / "out")
    assert exported.iteration == 7
    assert [path.name for path in exported.adapters] == ["out", "transformer_2"]
    with safe_open(exported.adapters[1] / ADAPTER, "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (metadata["transformer.r"], metadata["transformer.lora_alpha"]) == (RANK, ALPHA)
    again = export_generator(run / "checkpoints" / "iteration_000007", tmp_path / "again")
    assert (again.folder / ADAPTER).read_bytes() == (exported.folder / ADAPTER).read_bytes()
    with pytest.raises(CheckpointError, match="out exists already"):
        export_generator(run, tmp_path / "deep" / "out")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_the_command_says_how_to_load_it(tmp_path: Path):
    run = published(trained("sd3", "full", tmp_path), tmp_path)
    result = CliRunner().invoke(app, ["export", str(run), str(tmp_path / "out")])
    assert result.exit_code == 0
    assert f"Generator of iteration 7: {tmp_path / 'out'}" in result.output
    assert f'pipe = DiffusionPipeline.from_pretrained("{tmp_path / "out"}", ' in result.output
    assert "text_encoder_3=None, tokenizer_3=None)" in result.output


def test_the_run_of_a_judge_is_refused(tmp_path: Path):
    CheckpointStore(tmp_path / "checkpoints").publish(1, lambda path: (path / "state").write_text("x"))
    with pytest.raises(CheckpointError, match=r"model_index\.json in .*flexgym\.rm export"):
        export_generator(tmp_path, tmp_path / "out")
    result = CliRunner().invoke(app, ["export", str(tmp_path / "nowhere"), str(tmp_path / "out")])
    assert result.exit_code == 2


def test_the_command_loads_neither_torch_nor_diffusers(tmp_path: Path):
    CheckpointStore(tmp_path / "run" / "checkpoints").publish(1, adapter_alone)
    heavy = "{'torch', 'diffusers', 'transformers', 'peft', 'ray'} & set(sys.modules)"
    command = f"app(['export', {str(tmp_path / 'run')!r}, {str(tmp_path / 'out')!r}], standalone_mode=False)"
    code = f"import sys; from flexgym.cli import app; {command}; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (tmp_path / "out" / ADAPTER).is_file()


def test_the_lines_to_copy_hold_no_code_of_a_checkpoint(tmp_path):
    name = 'x=__import__("os").system("id"), y'
    (tmp_path / "model_index.json").write_text(json.dumps({name: [None, None], "text_encoder_3": [None, None]}))
    [line] = Exported(tmp_path, 1, ()).loading
    assert line == f"pipe = DiffusionPipeline.from_pretrained({json.dumps(str(tmp_path))}, text_encoder_3=None)"
    odd = tmp_path / 'a"); import os; ("'
    [line] = Exported(odd, 1, (odd, tmp_path / name)).loading
    assert line == f"pipe.load_lora_weights({json.dumps(str(odd))})"
