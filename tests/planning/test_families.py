"""Plans of pipelines that read values of their texts, compared with the same work on real modules."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch

from flexgym.config import AgentSettings
from flexgym.generators import FlowGenerator, wrap_pipeline
from flexgym.planning.devices import choose_device
from flexgym.planning.phases import Work, do_once, prepare
from flexgym.planning.plan import make_plan
from flexgym.planning.planned import Planned
from flexgym.planning.skeleton import build_skeleton
from tests.generators.tiny import CASES, families, shorten

FAMILIES = families(
    "lumina2",
    "hunyuan_video15",
    "hunyuan_video15_frame",
    "hunyuan_video_frame",
    "hunyuan_video_concat_frame",
)


def planned_of(family: str, folder: Path, **generator: object) -> Planned:
    case = CASES[family]
    sampling = {**case.settings, case.guidance: 4.0}
    settings = {
        "generator": {"source": str(folder), "sampling": sampling, **generator},
        "rollout": {"group_size": 4, "prompts_per_iteration": 2},
        "algorithm": {"name": "grpo", "noise": "cps", "window": {"size": 1, "first": [0, 0]}},
        "reward": {"name": "ShapesOracle"},
    }
    return Planned.of(AgentSettings.parse(settings))


def work_of(generator: FlowGenerator, planned: Planned) -> Work:
    shorten(generator.pipe)
    prepare(generator, planned)
    return do_once(generator, planned, foreach=True)


def fill_texts(generator: FlowGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a real generator treat all tokens of a text as tokens of the prompt, as a plan does."""
    encode = generator.family.encode_text

    def filled(text: str, **options: Any) -> dict[str, torch.Tensor]:
        found = encode(text, **options)
        return {name: torch.ones_like(value) if "mask" in name else value for name, value in found.items()}

    monkeypatch.setattr(generator.family, "encode_text", filled)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "way",
    [
        pytest.param({"mode": "lora"}, id="adapter", marks=pytest.mark.slow),
        pytest.param({"mode": "full", "gradient_checkpointing": True}, id="full"),
    ],
)
def test_counts_without_data_match_real_runs(
    family: str, way: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pipe = CASES[family].build()
    pipe.save_pretrained(tmp_path)
    planned = planned_of(family, tmp_path, **way)
    expected = work_of(build_skeleton(tmp_path, planned.dtype, planned.sampling), planned)
    real = wrap_pipeline(pipe, **planned.sampling)
    fill_texts(real, monkeypatch)
    seen = work_of(real, planned)
    assert (expected.text, expected.optimizer_state) == (seen.text, seen.optimizer_state)
    for part in ("step", "decoding", "replay"):
        counted, run = getattr(expected, part), getattr(seen, part)
        assert counted.flops == run.flops, part
        assert astuple(counted) == pytest.approx(astuple(run), rel=0.02), part


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_planned_from_a_folder(family: str, tmp_path: Path):
    CASES[family].build().save_pretrained(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    plan = make_plan(planned_of(family, tmp_path), choose_device("h100"))
    assert [phase.name for phase in plan.phases] == ["sampling", "decoding", "update"]
    assert all(phase.parts["activations"] > 0 and phase.flops > 0 for phase in plan.phases)


def test_hunyuan_video_15_takes_texts_as_long_as_its_pipeline_says(tmp_path: Path):
    """Ignore the tokenizer in its folder: that of Qwen takes far longer texts."""
    CASES["hunyuan_video15"].build().save_pretrained(tmp_path)
    planned = planned_of("hunyuan_video15", tmp_path)
    generator = build_skeleton(tmp_path, planned.dtype, planned.sampling)
    generator.condition(["a prompt"])
    lengths = {tensor.shape[1] for tensor in generator.text.cached() if tensor.ndim > 1}
    assert lengths == {1000, 256}
