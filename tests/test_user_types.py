"""The README's code and typical user code under ``mypy --strict`` and pyright, as a user of the installed package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tools.snippets import ROOT, blocks

pytestmark = pytest.mark.slow

USER = """
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import flexgym
from flexgym import rewards
from flexgym import rewards


class Contrast(rewards.PointwiseReward):
    def __init__(self, sharpness: float = 1.0) -> None:
        self.sharpness = sharpness

    def score_samples(self, prompt: flexgym.Prompt, samples: NDArray[np.uint8]) -> list[float]:
        return [self.sharpness] * len(samples)


env = gym.make("FlexT2I-v0", group_size=4)
env = rewards.UnifiedRewardFlex(env, judge="http://localhost:8080/v1", deadline_s=30)
env = rewards.wrap(env, Contrast(2.0))
env = rewards.wrap(env, "mymodule:Contrast", sharpness=2.0)
envs = rewards.vector.wrap(gym.make_vec("FlexT2I-v0", num_envs=2), Contrast)
envs = rewards.vector.CLIPScore(envs, dtype="bfloat16")
rewards.check("ShapesOracle", {"alpha": 0.5})
reward: rewards.Reward = rewards.make("ShapesOracle", alpha=0.5)
generator = flexgym.load_generator(None, modality="image")
scores: list[flexgym.GroupScores] = reward.guarded([])
"""

WRONG = """
import gymnasium as gym

import flexgym
from flexgym import rewards

env = gym.make("FlexT2I-v0")
rewards.UnifiedRewardFlex(env, juge="shapes-judge")
rewards.JPEGCompressibility(env, quality="high")
rewards.ShapesOrcle(env)
rewards.wrap(env, 3)
flexgym.FlowPolice
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment in which this checkout is installed."""
    folder = tmp_path_factory.mktemp("user") / "venv"
    venv.create(folder, symlinks=True)
    [packages] = (folder / "lib").glob("python*/site-packages")
    (packages / "installed.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return folder / "bin" / "python"


@pytest.fixture
def check(python, tmp_path):
    """Runs a type checker on code in a new folder; returns its exit status and output."""

    def run(checker, code):
        (tmp_path / "code.py").write_text(code)
        if checker == "mypy":
            cache = Path(python).parents[1] / "mypy_cache"
            command = ["mypy", "--strict", f"--python-executable={python}", f"--cache-dir={cache}", "code.py"]
        else:
            settings = {"typeCheckingMode": "standard", "include": ["code.py"]}
            (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
            command = ["pyright", f"--pythonpath={python}"]
        return subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_code_of_the_readme_and_of_users_passes(checker, check):
    readme = "".join(block.code for block in blocks(ROOT / "README.md") if block.language == "python")
    for code in (readme, USER):
        result = check(checker, code)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_mistakes_are_found(checker, check):
    result = check(checker, WRONG)
    lines = {int(line) for line in re.findall(r"code\.py:(\d+):\S* (?:- )?error", result.stdout)}
    wrong = [number for number, line in enumerate(WRONG.splitlines(), 1) if number > 7 and line]
    assert lines == set(wrong), result.stdout + result.stderr
