"""The benchmark of generators, with small modules on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from flexgym.planning.phases import do_once, prepare
from flexgym.planning.skeleton import build_skeleton
from tests.benchmarks.gpu_generators import (
    CASES,
    PHASES,
    Clock,
    Training,
    on_device,
    operations,
    planned_of,
    write_folder,
)

SCRIPT = Path(__file__).with_name("gpu_generators.py")
WITHOUT_RAY = f"""
import runpy, sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NoRay())
sys.argv[0] = {str(SCRIPT)!r}
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_it_measures_every_phase_of_every_generator_without_ray(tmp_path: Path):
    arguments = ["--small", "--device", "cpu", "--out", str(tmp_path / "figures.json"), "--profile-below", "2"]
    command = [sys.executable, "-c", WITHOUT_RAY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "replay is not the rollout" not in done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [(row["generator"], row["phase"]) for row in figures["rows"]] == [
        (name, phase) for name in CASES for phase in PHASES
    ]
    for row in figures["rows"]:
        assert row["samples"] == 3
        assert row["samples_per_second"] == pytest.approx(3 / row["seconds"])
        assert row["share"] == pytest.approx(row["tflop"] * 1e12 / row["seconds"] / figures["matrix_flops"])
        assert 0 < row["share"] < 1
        assert f"| {row['generator']} | {row['phase']} | 3 |" in done.stdout
        profile = (tmp_path / f"profile_{row['generator']}_{row['phase']}.txt").read_text()
        assert "aten::" in profile


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_operations_counted_without_data_are_those_that_run(name, tmp_path: Path):
    planned = planned_of(CASES[name], small=True)
    write_folder(CASES[name], tmp_path, small=True)
    counted = build_skeleton(tmp_path, planned.dtype, planned.sampling)
    prepare(counted, planned)
    expected = operations(do_once(counted, planned), planned, counted.settings.num_steps)
    clock = Clock(torch.device("cpu"))
    generator = on_device(build_skeleton(tmp_path, planned.dtype, planned.sampling), clock)
    prepare(generator, planned)
    training = Training(generator, planned, clock)

    def attention(query, key, value, *args, **kwargs):
        return sdpa_flop_count(query, key, value)

    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        rollout = training.roll_out()
    assert counter.get_total_flops() == expected["sampling"] + expected["decoding"]
    assert set(clock.seconds) == {"sampling", "decoding"}
    assert rollout.samples.shape == (1, 3, *generator.sample_shape)
    before = generator.weights.state()
    assert training.update(rollout) == 0.0, "replay is the rollout"
    after = generator.weights.state()
    assert any(not torch.equal(before[name], after[name]) for name in before)
