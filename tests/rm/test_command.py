"""The command, from a dry run to a judge that answers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from flexgym.config import DPOSettings, SFTSettings
from flexgym.config.describe import describe
from flexgym.config.load import load_settings
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.judge.backends.base import ChatRequest, Decoding
from flexgym.judge.backends.transformers_model import TransformersBackend
from flexgym.rm.command import app
from flexgym.rm.processor import load_model
from flexgym.rm.saving import JUDGE, export_judge, save_judge
from flexgym.runs.folder import RunFolder
from flexgym.runs.metrics import read_metrics
from tests.judge.backends.tiny_qwen_vl import picture

SMALL = ["judge.dtype=float32", "training.lr=1e-2", "training.batch_size=4", "training.micro_batch_size=2"]
SMALL += ["training.gradient_checkpointing=false", "training.steps_per_iteration=1", "resources.num_gpus_per_learner=0"]
SMALL += ["judge.sharding=none"]
LORA = "judge.lora={r: 4, lora_alpha: 8, target_modules: [q_proj, v_proj]}"


def arguments(kind: str, checkpoint: Path, files: dict[str, Path], *more: str) -> list[str]:
    data = [f"judge.source={checkpoint}", f"data.files=[{files[kind]}]"]
    return ["train", kind, *SMALL, LORA, *data, *more]


@pytest.mark.parametrize(("stage", "kind"), [("sft", SFTSettings), ("dpo", DPOSettings)])
def test_shipped_recipes_fit_their_stage(stage, kind):
    recipe = load_recipe(f"rm_{stage}_qwen3vl_8b.yaml")
    with pytest.raises(ConfigError, match=r"data\.files"):
        load_settings(kind, recipe)
    settings = load_settings(kind, apply_overrides(recipe, ["data.files=[rows.jsonl]", "resources.num_learners=8"]))
    assert settings.training.batch_size == 128
    assert settings.judge.trained_dtype == "float32"
    assert load_settings(kind, describe(settings)) == settings


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_help_lists_the_settings_of_the_stage(stage):
    result = CliRunner().invoke(app, ["train", stage, "--help"])
    assert result.exit_code == 0, result.output
    assert "steps_per_iteration" in result.output
    assert ("trainer.beta" in result.output) == (stage == "dpo")


def test_the_resolved_settings_are_printed_as_a_recipe(checkpoint, files, tmp_path: Path):
    result = CliRunner().invoke(app, [*arguments("dpo", checkpoint, files), "--print-config"])
    assert result.exit_code == 0, result.output
    printed = tmp_path / "printed.yaml"
    printed.write_text(result.output)
    settings = load_settings(DPOSettings, load_recipe(printed))
    assert settings.training.batch_size == 4
    assert settings.judge.lora.r == 4


def test_a_dry_run_tells_the_size_of_it(checkpoint, files):
    result = CliRunner().invoke(app, [*arguments("sft", checkpoint, files, "judge.mode=full"), "--dry-run"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "rows: 12 good, 0 bad; 46 to 72 tokens per row, median 58"
    assert lines[1] == "an epoch: 3 optimizer steps"
    parameters = sum(parameter.numel() for parameter in load_model(checkpoint, "float32").parameters())
    assert lines[2] == f"model: {parameters:,} parameters, {parameters:,} of them trainable"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["judge.sorce=x"], "source"),
        (["judge.dtype=float8"], "bfloat16"),
        (["data.files=[missing.jsonl]"], "missing.jsonl"),
        (["run.iteration=3"], "iterations"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(more, message, checkpoint, files):
    result = CliRunner().invoke(app, [*arguments("sft", checkpoint, files), *more, "--dry-run"])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_training_without_a_gpu_has_to_be_asked_for(checkpoint, files, tmp_path: Path):
    where = [f"run.root={tmp_path}", "resources.num_gpus_per_learner=1"]
    result = CliRunner().invoke(app, [*arguments("sft", checkpoint, files), *where])
    assert result.exit_code == 2
    assert "set it to 0" in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_an_export_answers_like_what_was_trained(checkpoint, tmp_path: Path):
    """Weights moved by hand, saved as trained, exported, and asked through the judge's own backend."""
    model = load_model(checkpoint, "float32")
    with torch.no_grad():
        model.lm_head.weight[:94].roll(7, dims=0)
        model.lm_head.weight.copy_(model.lm_head.weight.roll(3, dims=0))
    trained = save_judge(model, checkpoint, tmp_path / "trained")
    out = export_judge(trained, checkpoint, tmp_path / "judge", dtype="float32")
    question = ChatRequest((picture(1), picture(2)), "Which?")
    replies = [
        TransformersBackend(folder, device="cpu", dtype="float32").complete([question], Decoding(max_tokens=12))[0]
        for folder in (checkpoint, trained, out)
    ]
    assert replies[1].text == replies[2].text != replies[0].text


def saved_run(folder: Path, recipe: dict[str, object], model: Any, checkpoint: Path) -> Path:
    """A run folder whose newest checkpoint holds a judge."""
    with RunFolder.create(folder, "run") as run:
        run.write_config(recipe)
        run.checkpoints.publish(1, lambda path: save_judge(model, checkpoint, path / JUDGE) and None)
    return run.path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_has_the_precision_of_the_training(dtype, checkpoint, tmp_path: Path):
    model = load_model(checkpoint, dtype)
    run = saved_run(tmp_path, {"judge": {"source": str(checkpoint), "dtype": dtype}}, model, checkpoint)
    for words, expected in (((), dtype), (("--dtype", "bfloat16"), "bfloat16")):
        out = tmp_path / f"out{len(words)}"
        result = CliRunner().invoke(app, ["export", str(run), str(out), *words])
        assert result.exit_code == 0, result.output
        assert f"({expected})" in result.output
        assert load_file(out / "model.safetensors")["lm_head.weight"].dtype == getattr(torch, expected)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_large_model_is_loaded_only_when_it_is_named(stage, files):
    result = CliRunner().invoke(app, ["train", stage, f"data.files=[{files[stage]}]", "--dry-run"])
    assert result.exit_code == 2
    message = " ".join(result.output.split())
    assert f"--config rm_{stage}_shapes.yaml trains the embedded judge" in message
    assert f"--config rm_{stage}_qwen3vl_8b.yaml loads" in message


def test_an_incomplete_judge_is_refused_by_name(checkpoint, tmp_path: Path):
    """By training, by the backend that judges, and by the export of an adapter."""
    half = shutil.copytree(checkpoint, tmp_path / "half")
    tensors = load_file(half / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("q_proj.weight"))
    save_file({name: tensors[name] for name in tensors if name != lost}, half / "model.safetensors", {"format": "pt"})
    for load in (load_model, TransformersBackend):
        with pytest.raises(CheckpointError, match="lacks 1 weights of a vision-language checkpoint, such as .*q_proj"):
            load(half)
    adapter = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    trained = save_judge(get_peft_model(load_model(checkpoint, "float32"), adapter), checkpoint, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="holds an adapter"):
        load_model(trained)
    file = trained / "adapter_model.safetensors"
    tensors = load_file(file)
    lost = sorted(tensors)[0]
    save_file({name: tensors[name] for name in tensors if name != lost}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lacks 1 weights of .*, such as {re.escape(lost)}"):
        export_judge(trained, checkpoint, tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mode"), [("sft", "full"), ("dpo", "lora")])
def test_train_resume_and_export(kind, mode, checkpoint, files, tmp_path: Path):
    run = [f"run.root={tmp_path}", "run.name=judge", "run.checkpoint_interval=1", f"judge.mode={mode}"]
    command = [sys.executable, "-m", "flexgym.rm", *arguments(kind, checkpoint, files, *run)]
    subprocess.run([*command, "run.iterations=2"], check=True, timeout=300, capture_output=True)
    folder = tmp_path / "judge"
    more = [sys.executable, "-m", "flexgym.rm", "train", kind, "run.iterations=4", "--resume", str(folder)]
    subprocess.run(more, check=True, timeout=300, capture_output=True)
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert [row["rows"] for row in rows] == [4, 8, 12, 16]
    out = tmp_path / "exported"
    result = CliRunner().invoke(app, ["export", str(folder), str(out), "--dtype", "float32"])
    assert result.exit_code == 0, result.output
    before, after = load_model(checkpoint, "float32").state_dict(), load_model(out, "float32").state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    again = CliRunner().invoke(app, ["export", str(folder), str(out)])
    assert again.exit_code == 2
    assert "already exists" in again.output
