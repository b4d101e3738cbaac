"""The recipes of the algorithms: one each for the small world, and those with published values for large generators."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from flexgym.agents.base import AgentComponents, load_agent_settings
from flexgym.algorithm.base import ANCHOR, EMA, algorithm_names, weight_copies
from flexgym.algorithm.replay import OLD
from flexgym.config.recipe import SHIPPED, Recipe, apply_overrides, load_recipe, shipped_recipes
from flexgym.planning.architectures import write_configs
from flexgym.planning.planned import Planned
from flexgym.rllib.command import make_agent_run
from flexgym.runs.metrics import read_metrics
from tests.data.builders import write_images, write_lines
from tests.generators.test_adapters import disturb
from tests.generators.tiny import CASES, PROMPTS, fresh
from tests.planning.planners import planner_for
from tests.rewards.test_conformance import clip_folder

PUBLISHED = {
    "awm_sd35_medium": "sd35",
    "best_of_n_sd35_medium": "sd35",
    "dance_grpo_flux1_dev": "flux",
    "dgpo_sd35_medium": "sd35",
    "diffusion_dpo_sd35_medium": "sd35",
    "diffusion_nft_qwen_image": "qwen_image",
    "diffusion_nft_sd35_medium": "sd35",
    "draft_lv_sd35_medium": "sd35",
    "drtune_sd35_medium": "sd35",
    "flow_bp_sd35_medium": "sd35",
    "flow_cps_sd35_medium": "sd35",
    "flow_dppo_sd35_medium": "sd35",
    "flow_grpo_fast_sd35_medium": "sd35",
    "flow_grpo_sd35_medium": "sd35",
    "gardo_sd35_medium": "sd35",
    "grpo_guard_sd35_medium": "sd35",
    "mix_grpo_flux1_dev": "flux",
    "online_dpo_sd35_medium": "sd35",
    "opd_sd35_medium": "sd35",
    "refl_sd35_medium": "sd35",
    "reward_weighted_sd35_medium": "sd35",
    "sft_sd35_medium": "sd35",
    "tempflow_grpo_sd35_medium": "sd35",
    "v_grpo_flux1_dev": "flux",
    "v_grpo_sd35_medium": "sd35",
}
"""Recipes of published generators, with the kind of their pipeline."""
COPIES = {
    "awm_sd35_medium": {"trailing"},
    "diffusion_nft_qwen_image": {OLD},
    "diffusion_nft_sd35_medium": {OLD},
    "dance_grpo_flux1_dev": {OLD},
    "mix_grpo_flux1_dev": {OLD},
    "opd_sd35_medium": {"geneval", "ocr", "pickscore"},
    "opd_shapes_t2i": {"colors", "places"},
    "v_grpo_flux1_dev": {OLD},
    "v_grpo_sd35_medium": {OLD},
    "covariance_guidance_shapes_t2i": {OLD},
    "gardo_sd35_medium": {ANCHOR},
    "gardo_shapes_t2i": {ANCHOR},
    "matching_shapes_t2i": {"trailing"},
    "v_grpo_shapes_t2i": {OLD},
}
"""Weight copies beside the EMA."""
ALONE = [f"{name}_shapes_t2i" for name in algorithm_names()]
SMALL_WORLD = [*ALONE, "gardo_shapes_t2i"]
ON_GRADIENTS = {f"{name}_sd35_medium" for name in ("draft_lv", "drtune", "flow_bp", "refl")}
COMMAND = re.compile(r"^#     python -m agents\.(\w+) --config (\w+)\.yaml(.*)$", re.MULTILINE)


def text_of(name: str) -> str:
    return (SHIPPED / f"{name}.yaml").read_text()


def as_commanded(name: str) -> Recipe:
    """A recipe with the overrides of the command in its first lines."""
    found = COMMAND.search(text_of(name))
    overrides = found[3].split() if found else []
    recipe = load_recipe(name)
    return apply_overrides(recipe, [*overrides, *prompts_of(recipe)])


def prompts_of(recipe: Recipe) -> list[str]:
    """Prompts in place of the files of a recipe; none with a data set, whose rows have captions."""
    if "data" in recipe:
        return []
    teachers = recipe["algorithm"].get("teachers", {})
    return [f"algorithm.teachers.{name}.prompts={PROMPTS}" for name in teachers] or [f"rollout.prompts={PROMPTS}"]


def scored_by(name: str) -> list[str]:
    """A small reward in place of that of a recipe, with gradients where it needs them, and small monitors."""
    recipe = load_recipe(name)
    # positive, as PickScore is: the reward itself may be the weight of a sample
    chosen = ("JPEGCompressibility", {"incompressible": recipe["algorithm"].get("form") == "linear"})
    if name in ON_GRADIENTS:
        chosen = ("CLIPScore", {"model": str(clip_folder())})
    gated = "gate" in recipe["training"]
    return [
        f"reward.name={chosen[0]}",
        f"reward.settings={chosen[1]}",
        f"reward.monitors={'[Diversity, MP4Compressibility]' if gated else '[]'}",
        *(["training.gate.monitors=[MP4Compressibility]"] if gated else []),
    ]


def test_every_recipe_of_an_algorithm_is_tested_here():
    others = ("pref_grpo_", "rm_", "sb3_")
    assert {*PUBLISHED, *SMALL_WORLD} == {name for name in shipped_recipes() if not name.startswith(others)}


@pytest.mark.parametrize("name", [*PUBLISHED, *SMALL_WORLD])
def test_a_recipe_is_valid_as_it_stands(name):
    settings = load_agent_settings(load_recipe(name) if name in SMALL_WORLD else as_commanded(name))
    assert settings.run.name == name
    assert settings.algorithm.penalties.keys() <= {"reference", "trailing", OLD, ANCHOR}
    if name in ALONE:
        assert settings.algorithm.name == name.removesuffix("_shapes_t2i")
    elif name in PUBLISHED:
        assert COMMAND.search(text_of(name)).groups()[:2] == (settings.algorithm.name, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_value_has_a_source(name):
    lines = text_of(name).splitlines()
    sections = {"algorithm", "training", "rollout", "sampling"}
    section, bare = "", []
    for before, line in zip(lines, lines[1:], strict=False):
        if found := re.match(r"\s*(\w+):$", line):
            section = found[1]
        elif section in sections and not line.strip().startswith(("#", "name:", "width:")):
            bare += [] if "#" in line or before.strip().startswith("#") else [line]
    assert bare == []


@pytest.fixture(scope="module")
def shallow(tmp_path_factory) -> Callable[[str], Path]:
    """Returns the configs of a published source with two layers of each kind, since tracing all takes seconds."""

    @cache
    def configs_of(source: str) -> Path:
        folder = write_configs(source, tmp_path_factory.mktemp("shallow"))
        file = folder / "transformer" / "config.json"
        config = json.loads(file.read_text())
        layers = {"num_layers", *(["num_single_layers"] if "Flux" in config["_class_name"] else [])}
        file.write_text(json.dumps({**config, **dict.fromkeys(layers, 2)}))
        return folder

    return configs_of


@pytest.mark.parametrize("name", [*PUBLISHED, *SMALL_WORLD])
def test_it_is_planned_with_its_weight_copies(name, shallow):
    recipe = load_recipe(name) if name in SMALL_WORLD else as_commanded(name)
    if name in PUBLISHED:
        recipe = apply_overrides(recipe, [f"generator.source={shallow(recipe['generator']['source'])}"])
    planned = Planned.read(recipe)
    plan = planner_for().plan(planned)
    copies = weight_copies(planned.algorithm, planned.settings.training).keys() - {EMA}
    assert copies == COPIES.get(name, set())
    parts = next(phase for phase in plan.phases if phase.name == "update").parts
    trained = parts["gradients"] / (2 if planned.learners > 1 else 1)  # buckets hold them once more
    assert parts["weight copies"] == len(copies) * trained > 0 or not copies
    assert all(
        phase.flops > 0 for phase in plan.phases if phase.name in ("sampling", "decoding", "encoding samples", "update")
    )


def write_rows(folder: Path, group_size: int) -> None:
    """Write a small data set in place of that of a recipe: images with captions, or pairs of them."""
    rows = []
    for number, text in enumerate(PROMPTS):
        names = [f"{number}_{sample}.png" for sample in range(group_size)]
        write_images(folder, *names)
        keys = ("image",) if group_size == 1 else ("chosen", "rejected")
        rows.append({"prompt": text, **dict(zip(keys, names, strict=True))})
    write_lines(folder / "rows.jsonl", rows)


def small_overrides(name: str, folder: Path) -> list[str]:
    """What is smaller than in the recipe; all else, such as penalties and guidance, is the recipe's."""
    recipe = load_recipe(name)
    levels = recipe["algorithm"].get("levels", {})
    window, advantage = recipe["algorithm"].get("window", {"size": 2}), recipe["training"].get("advantage", {})
    teachers = recipe["algorithm"].get("teachers", {})
    rows = [f"data.files={folder / 'rows.jsonl'}", f"data.latent_cache={folder / 'latents'}"]
    sizes = ["rollout.group_size=4", "rollout.prompts_per_iteration=2", "rollout.groups_per_forward=1"]
    return [
        f"generator.source={folder / 'pipe'}",
        *(f"generator.sampling.{key}={value}" for key, value in CASES[PUBLISHED[name]].settings.items()),
        # a solver of second order needs two neighboring steps outside of the window
        f"generator.sampling.num_steps={6 if 'solver' in recipe.get('rollout', {}) else 4}",
        *(rows if "data" in recipe else [*prompts_of(recipe), *sizes, *scored_by(name)]),
        *(f"algorithm.teachers.{teacher}.adapter={folder / 'teacher'}" for teacher in teachers),
        *(["algorithm.window.size=2", "algorithm.window.first=[0, 1]"] if "size" in window else []),
        *([f"algorithm.levels.count={min(levels['count'], 8)}"] if "count" in levels else []),
        *(["training.advantage.best=1", "training.advantage.worst=1"] if "best" in advantage else []),
        "resources.num_gpus_per_learner=0",
        f"run.root={folder}",
        "run.iterations=2",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_trains_for_two_iterations(cluster, name, tmp_path: Path):
    CASES[PUBLISHED[name]].build().save_pretrained(tmp_path / "pipe")
    recipe = load_recipe(name)
    if "data" in recipe:
        write_rows(tmp_path, recipe["rollout"]["group_size"])
    if "teachers" in recipe["algorithm"]:
        teacher = fresh(PUBLISHED[name])
        teacher.weights.add_lora(rank=2, targets=["attn.to_q"])
        disturb(teacher)
        teacher.save(tmp_path / "teacher")
    settings = load_agent_settings(apply_overrides(recipe, small_overrides(name, tmp_path)))
    run = make_agent_run(settings, AgentComponents()).train()
    rows = read_metrics(run / "metrics.jsonl")[1:]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert all(row["policy/gradient_norm"] > 0.0 and row.get("reward/failures", 0) == 0 for row in rows)
    if settings.training.num_updates == 1 and "policy/max_abs_log_ratio" in rows[0]:
        assert rows[0]["policy/max_abs_log_ratio"] == 0.0
