from __future__ import annotations

import jsonschema
import pytest
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from flexgym.agents.grpo import GRPO, GRPOSettings
from flexgym.algorithm.settings import PenaltySettings
from flexgym.cli import app
from flexgym.config import AgentSettings, DPOSettings, RewardSettings, SB3Settings, SFTSettings
from flexgym.config.command import settings_kind
from flexgym.config.describe import describe, dump_settings, help_command, help_sections, settings_help, settings_schema
from flexgym.config.load import load_settings
from flexgym.config.recipe import apply_overrides, load_recipe, shipped_recipes
from flexgym.core.problems import names_below
from flexgym.core.yaml_files import parse_yaml

GRPO_RECIPES = AgentSettings.with_algorithm(GRPO.Settings)


def kind_of(name):
    return {"sb3": SB3Settings, "rm_sft": SFTSettings, "rm_dpo": DPOSettings}.get(
        next((start for start in ("sb3", "rm_sft", "rm_dpo") if name.startswith(start)), ""), AgentSettings
    )


def shipped(name):
    needed = ["data.files=[rows.jsonl]"] if name.startswith("rm_") else []
    needed += ["resources.num_learners=8"] if name == "rm_sft_qwen3vl_8b" else []
    return apply_overrides(load_recipe(name), needed)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_valid_and_survives_a_dump(name):
    settings = load_settings(kind_of(name), shipped(name))
    assert load_settings(type(settings), parse_yaml(dump_settings(settings), source="dump")) == settings
    assert dump_settings(load_settings(type(settings), describe(settings))) == dump_settings(settings)


def schema_of(name):
    if kind_of(name) is not AgentSettings:
        return settings_schema(kind_of(name))
    return settings_schema(settings_kind(load_recipe(name)["algorithm"]["name"]))


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_fits_its_schema(name):
    jsonschema.validate(dict(shipped(name)), schema_of(name))


@pytest.mark.parametrize(
    "wrong",
    [{"training": {"lrr": 1}}, {"generator": {"mode": "lorra"}}, {"rollout": {"group_size": 0}}, {"learners": {}}],
)
def test_a_schema_refuses_what_settings_refuse(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**shipped("pref_grpo_shapes_t2i"), **wrong}, settings_schema(GRPO_RECIPES))


def test_settings_made_in_python_are_described_as_a_recipe():
    settings = AgentSettings(
        algorithm=GRPOSettings(name="grpo", penalties={"reference": PenaltySettings(coeff=0.1)}),
        reward=RewardSettings(name="mine:Reward"),
    )
    described = describe(settings)
    penalty = {"coeff": 0.1, "form": "gaussian", "gated": False}
    assert described["algorithm"]["penalties"] == {"reference": penalty}
    assert load_settings(AgentSettings, described) == settings


@pytest.mark.parametrize("kind", [GRPO_RECIPES, SFTSettings, DPOSettings, SB3Settings])
def test_help_names_every_setting_with_its_meaning(kind):
    console = Console(width=200, record=True)
    with console.capture() as captured:
        console.print(settings_help(help_sections(kind)))
    text = captured.get()
    for name in names_below(kind):
        assert name.partition(".")[2] in text
    for model in kind.model_json_schema()["$defs"].values():
        for name, setting in model["properties"].items():
            assert setting.get("description") or "$ref" in setting or "$ref" in str(setting), name


def test_help_of_a_command_ends_with_the_settings():
    command = Typer()
    command.command(cls=help_command(lambda: help_sections(GRPO_RECIPES), usage="The settings of a recipe:"))(
        lambda: None
    )
    shown = CliRunner().invoke(command, ["--help"], env={"COLUMNS": "160", "TERM": "dumb"}).output
    assert "Usage:" in shown
    assert shown.index("The settings of a recipe:") < shown.index("lora.rank")
    assert "learning rate, or points of a schedule by samples seen" in shown


def test_the_command_prints_a_schema():
    done = CliRunner().invoke(app, ["config", "schema", "--agent", "rm_dpo"])
    assert parse_yaml(done.output, source="schema") == settings_schema(DPOSettings)
    missing = CliRunner().invoke(app, ["config", "schema", "--agent", "grop"])
    assert missing.exit_code == 2
    assert "Did you mean 'grpo'" in " ".join(missing.output.split())
