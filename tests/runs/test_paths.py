from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flexgym.config.sections import RunSettings
from flexgym.runs.loop import TrainingRun
from flexgym.runs.paths import with_absolute_paths, with_moved_paths
from flexgym.runs.recipe import saved_recipe
from tests.runs.test_loop import Counter


def test_only_what_exists_becomes_absolute(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("prompts.txt", "frame.png", "word"):
        (tmp_path / name).write_text("a red circle\n")
    (tmp_path / "judges" / "own").mkdir(parents=True)
    values = {
        "rollout": {"prompts": "prompts.txt", "noise": "word"},
        "verification": {"prompts": ["prompts.txt", {"prompt": "word", "first_frame": "frame.png"}]},
        "generator": {"source": "word", "text_cache": "texts", "mode": "lora", "adapter": "some/hub-id"},
        "reward": {
            "name": "Flex",
            "settings": {"judge": "judges/own", "url": "http://word", "terms": [{"model": "word"}]},
        },
        "data": {
            "files": ("prompts.txt", "missing.jsonl", "*.txt"),
            "count": 3,
            "none": None,
            "latent_cache": "latents",
        },
    }
    at = str(tmp_path)
    assert with_absolute_paths(values) == {
        "rollout": {"prompts": f"{at}/prompts.txt", "noise": "word"},
        "verification": {"prompts": ["prompts.txt", {"prompt": "word", "first_frame": f"{at}/frame.png"}]},
        "generator": {"source": f"{at}/word", "text_cache": f"{at}/texts", "mode": "lora", "adapter": "some/hub-id"},
        "reward": {
            "name": "Flex",
            "settings": {"judge": f"{at}/judges/own", "url": "http://word", "terms": [{"model": f"{at}/word"}]},
        },
        "data": {
            "files": [f"{at}/prompts.txt", "missing.jsonl", f"{at}/*.txt"],
            "count": 3,
            "none": None,
            "latent_cache": f"{at}/latents",
        },
    }


class Prompted(Counter):
    def describe(self):
        return {"rollout": {"prompts": "data/prompts.txt"}}


@pytest.mark.parametrize("moved", ["run alone", "run and data", "nothing"])
def test_a_moved_run_finds_its_prompts(tmp_path: Path, monkeypatch, moved):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "data").mkdir(parents=True)
    (here / "data" / "prompts.txt").write_text("a red circle\n")
    monkeypatch.chdir(here)
    run = TrainingRun(Prompted(), RunSettings(iterations=1)).train()
    monkeypatch.chdir(tmp_path)
    if moved == "run and data":
        shutil.move(here, there)
        run, data = there / "runs" / run.name, there / "data"
    else:
        data = here / "data"
    if moved == "run alone":
        run = Path(shutil.move(run, tmp_path / "elsewhere"))
    assert saved_recipe(run)["rollout"]["prompts"] == str(data / "prompts.txt")


def test_what_is_nowhere_stays_as_it_was(tmp_path: Path):
    values = {"rollout": {"prompts": "/old/data/prompts.txt"}, "generator": {"source": "org/model"}}
    assert with_moved_paths(values, before=Path("/old/runs"), now=tmp_path / "runs") == values
