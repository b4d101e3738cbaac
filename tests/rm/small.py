"""Small data and a tiny checkpoint for the trainers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from flexgym.config import DPOSettings, JudgeTrainingSettings, SFTSettings
from flexgym.config.describe import describe
from flexgym.config.load import load_settings
from flexgym.core.metrics import Metric, plain
from flexgym.rm.algorithm import JudgeAlgorithm
from flexgym.rm.build import judge_config
from flexgym.rm.config import JudgeConfig
from flexgym.rm.dpo import DPO
from flexgym.rm.sft import SFT

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def write_rows(folder: Path, count: int = 12) -> dict[str, Path]:
    """SFT and DPO rows of different lengths, two images each."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict]] = {"sft": [], "dpo": []}
    for number in range(count):
        images = []
        for side in "ab":
            name = f"{number}{side}.png"
            Image.fromarray(rng.integers(0, 256, (32, 32 + 32 * (number % 2), 3), dtype=np.uint8)).save(folder / name)
            images.append(name)
        asked = [{"role": "user", "content": f"Which one? {'so ' * (number % 5)}"}]
        good, bad = f"Image {number % 2 + 1} " + "well " * (number % 4), "neither"
        rows["sft"].append({"images": images, "messages": [*asked, {"role": "assistant", "content": good}]})
        rows["dpo"].append({"images": images, "prompt": asked, "chosen": good, "rejected": bad})
    files = {}
    for kind, lines in rows.items():
        files[kind] = folder / f"{kind}.jsonl"
        files[kind].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return files


STAGES = {"sft": (SFTSettings, SFT), "dpo": (DPOSettings, DPO)}


def small_settings(kind: str, checkpoint: Path, file: Path, **sections: Any) -> JudgeTrainingSettings:
    """Settings of a few rows; further sections as in a recipe."""
    recipe = {
        "judge": {"source": str(checkpoint), "dtype": "float32", "lora": LORA},
        "data": {"files": [str(file)]},
        "training": {
            "lr": 1e-2,
            "batch_size": 4,
            "micro_batch_size": 1,
            "steps_per_iteration": 1,
            "gradient_checkpointing": False,
        },
    }
    return load_settings(STAGES[kind][0], _merged(recipe, sections))


def small_config(kind: str, checkpoint: Path, file: Path, *, mode: str = "lora", **sections: Any) -> JudgeConfig:
    settings = small_settings(kind, checkpoint, file, **_merged({"judge": {"mode": mode}}, sections))
    return judge_config(settings, STAGES[kind][1]())


def changed(config: JudgeConfig, **sections: Any) -> JudgeConfig:
    """The same config with other settings in some sections."""
    settings = load_settings(type(config.settings), _merged(describe(config.settings), sections))
    return judge_config(settings, config.stage)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {**base.get(name, {}), **changes.get(name, {})} for name in {**base, **changes}}


def numbers(row: Mapping[str, Metric | float]) -> dict[str, float]:
    """A row without what its metrics say of themselves."""
    return {name: plain(value) for name, value in row.items()}


def measured(algorithm: JudgeAlgorithm) -> dict[str, float]:
    """The metrics of one iteration, without those that were not due in it."""
    algorithm.train()
    return numbers(algorithm.row)


def steps(config: JudgeConfig, count: int) -> tuple[JudgeAlgorithm, list[dict[str, float]]]:
    """An algorithm, and the metrics of its first iterations."""
    algorithm = config.build_algo()
    return algorithm, [measured(algorithm) for _ in range(count)]


def weights(algorithm: JudgeAlgorithm) -> dict[str, Tensor]:
    """Return the trainable parameters of the first learner."""
    with algorithm._gathered():
        return algorithm.on_learners(lambda learner: learner.judge_module.weights.state())[0]
