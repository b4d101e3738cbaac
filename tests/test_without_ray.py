"""Everything but the distributed parts works where Ray is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import importlib.util, pkgutil, sys

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoRay())
import flexgym, envs, rewards

trackers = [name for name in ("wandb", "mlflow", "swanlab", "trackio") if importlib.util.find_spec(name) is None]
optional = {f"flexgym.runs.trackers.{name}" for name in trackers}
rm = {f"flexgym.rm.{name}" for name in ("algorithm", "build", "config", "learner", "module", "trainable")}
bench = {f"flexgym.bench.{name}" for name in ("hooks", "measure", "profiling", "random_weights", "run", "subject")}
left_out = {*rm, *bench, *optional, "flexgym.rm.__main__"}
for package in (flexgym, envs, rewards):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.startswith("flexgym.rllib") and module.name not in left_out:
            importlib.import_module(module.name)

import gymnasium as gym
env = rewards.ShapesOracle(gym.make("FlexT2I-v0", group_size=2, num_steps=2))
policy = flexgym.FlowPolicy.from_env(env)
observation, info = env.reset(seed=0)
terminated = False
while not terminated:
    observation, reward, terminated, truncated, info = env.step(policy(observation))
assert info["group_rewards"].shape == (2,)

from typer.testing import CliRunner
from flexgym.cli import app
for algorithm in ("matching", "grpo"):
    result = CliRunner().invoke(app, ["plan", "--config", "pref_grpo_shapes_t2i", f"algorithm.name={algorithm}"])
    assert result.exit_code == 0, result.output
    assert "update" in result.stdout
walked = "flexgym.rllib.evaluation"  # walk_packages imports packages
assert not any(name.startswith("flexgym.rllib.") and name != walked for name in sys.modules)
assert not any(name.split(".")[0] == "ray" for name in sys.modules)
"""


@pytest.mark.slow
def test_the_library_works_without_ray():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=120)
