from __future__ import annotations

import re
import resource
import subprocess
import sys

import pytest

from flexgym.agents.checks import load_checked
from flexgym.config import AgentSettings, DPOSettings, SB3Settings, SFTSettings
from flexgym.config.describe import describe
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.errors import ConfigError, UnknownNameError
from tests.config.wrong import ALL

KINDS = {"agent": AgentSettings, "sft": SFTSettings, "dpo": DPOSettings, "sb3": SB3Settings}
AGENT = {"algorithm": "algorithm: {name: grpo}\n", "reward": "reward: {name: ShapesOracle}\n"}
JUDGE = {"judge": "judge: {source: x}\n", "data": "data: {files: [rows.jsonl]}\n"}
VALID = {"agent": AGENT, "sft": JUDGE, "dpo": JUDGE, "sb3": {}}


def load(path, kind, *overrides):
    given = ["group_size", "prompts"] if kind == "agent" else []
    return load_checked(KINDS[kind], apply_overrides(load_recipe(path), overrides), given=given)


def write(path, wrong):
    changed = re.findall(r"^(\w+):", wrong.text, flags=re.M)
    text = "".join(section for name, section in VALID[wrong.kind].items() if name not in changed) + wrong.text
    path.write_text(text)
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# here")]
    return lines[0] if lines else None


@pytest.mark.parametrize("wrong", ALL, ids=[f"{number}-{wrong.name}" for number, wrong in enumerate(ALL)])
def test_a_wrong_setting_is_refused_where_it_is_written(tmp_path, wrong):
    path = tmp_path / "recipe.yaml"
    line = write(path, wrong)
    with pytest.raises(ConfigError) as refused:
        load(path, wrong.kind)
    message = str(refused.value)
    expected = f"{path}:{line}: " if line else str(path)
    assert message.startswith(expected), message
    assert wrong.name in message
    for words in wrong.says:
        assert words in message
    assert "pydantic" not in message


def test_there_are_more_than_sixty_of_them():
    assert len(ALL) >= 60
    assert len({wrong.text + wrong.kind for wrong in ALL}) == len(ALL)


@pytest.mark.parametrize("kind", VALID)
def test_the_recipe_around_them_is_valid(tmp_path, kind):
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(VALID[kind].values()))
    assert isinstance(load(path, kind), KINDS[kind])


def test_all_that_is_wrong_is_reported_at_once_and_in_its_place(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "algorithm: {name: grpo}\nreward:\n  name: JPEGCompressibility\n  settings: {x: 1}\ntraining:\n  lr: -1\n"
    )
    with pytest.raises(ConfigError) as refused:
        load(path, "agent", "rollout.group_size=0", "learners.num_learners=2", "generator.lora={rnak: 4}")
    message = str(refused.value)
    assert message.startswith("5 settings cannot work:\n")
    assert f"{path}:6: training.lr: expected number >= 0" in message
    assert f"{path}:4: reward.settings.x: " in message
    assert "override 'rollout.group_size=0': rollout.group_size: expected whole number >= 1, got 0" in message
    assert "override 'learners.num_learners=2': learners.num_learners: is now resources.num_learners" in message
    assert "override 'generator.lora={rnak: 4}': generator.lora.rnak: unknown setting. Did you mean 'rank'?" in message


@pytest.mark.parametrize(
    ("name", "says"), [("grpo", "expected none with GRPO, which trains steps of its own sampling"), ("sft", "")]
)
def test_a_data_set_takes_the_place_of_reward_and_rollout(tmp_path, name, says):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"algorithm: {{name: {name}}}\ndata: {{files: rows.jsonl}}\nrollout: {{group_size: 1}}\n")
    if says:
        with pytest.raises(ConfigError, match=f"data: {says}"):
            load(path, "agent")
        return
    settings = load(path, "agent")
    assert settings.data.files == ("rows.jsonl",)
    assert settings.reward is None
    with pytest.raises(ConfigError, match=r"rollout\.solver: expected euler with section data"):
        load(path, "agent", "rollout.solver=dpm++2m")
    again = load_checked(AgentSettings, describe(settings), given=["group_size", "prompts"])
    assert again == settings, "sections that are left out stay so in a saved recipe"


def test_neither_reward_nor_data_is_said(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(AGENT["algorithm"])
    with pytest.raises(ConfigError, match="reward: expected the name of a reward, or a section data"):
        load(path, "agent")


def test_an_override_hides_what_the_file_says(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(AGENT["algorithm"] + AGENT["reward"] + "training:\n  lr: high\n")
    assert load(path, "agent", "training.lr=1e-4").training.lr == 1e-4


def test_samples_of_every_group_divide_in_place_of_groups(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("".join(AGENT.values()))
    split = ["training.split=samples", "training.num_updates=4", "rollout.group_size=8"]
    assert load(path, "agent", *split, "rollout.prompts_per_iteration=3").training.num_updates == 4


@pytest.mark.parametrize("name", ["matching", "v_grpo", "online_dpo", "dgpo"])
def test_levels_are_valid_again_once_all_defaults_are_written_out(tmp_path, name):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"algorithm: {{name: {name}}}\n" + AGENT["reward"])
    settings = load(path, "agent")
    assert load_checked(AgentSettings, settings.model_dump(), given=["group_size", "prompts"]) == settings


def test_wrong_names_alone_are_unknown_names(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(AGENT["algorithm"] + AGENT["reward"] + "training:\n  lrr: 1\n")
    with pytest.raises(UnknownNameError, match=r"recipe\.yaml:4: training\.lrr: .*Did you mean 'lr'"):
        load(path, "agent")
    with pytest.raises(ConfigError) as refused:
        load(path, "agent", "rollout.group_size=0")
    assert not isinstance(refused.value, UnknownNameError)


def test_a_command_refuses_a_wrong_recipe_in_seconds_and_without_ray(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(AGENT["algorithm"] + AGENT["reward"] + "generator:\n  lora: {rnak: 4}\n")
    code = (
        "import sys\n"
        f"sys.argv = ['grpo', '--config', {str(path)!r}]\n"
        "import atexit\n"
        "names = ('ray', 'diffusers', 'transformers')\n"
        "atexit.register(lambda: print([name for name in names if name in sys.modules]))\n"
        "import runpy\n"
        "runpy.run_module('agents.grpo', run_name='__main__')\n"
    )
    # The processor's time, at best: on a machine with other work the clock on the wall says little.
    seconds = []
    while len(seconds) < 3 and min(seconds, default=3.0) >= 3.0:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 2
    assert f"{path}:4: generator.lora.rnak" in done.stderr.replace("\n", "")
    assert done.stdout.strip() == "[]"
    assert min(seconds) < 3.0
