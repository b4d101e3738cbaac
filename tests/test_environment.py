"""The modality of environments, FlexGym's own and a user's."""

from __future__ import annotations

import sys

import gymnasium as gym
import pytest

import flexgym
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.environment import ENVIRONMENTS, environment_modality
from tests.agents.small import small_config

OWN = """
import gymnasium as gym
from flexgym.envs.t2v import FlexT2V, FlexT2VVector

class Loop(FlexT2V):
    name = "Loop-v0"

class LoopVector(FlexT2VVector):
    name = "Loop-v0"

class Mute(gym.Env):
    pass

gym.register("Loop-v0", f"{__name__}:Loop", vector_entry_point=f"{__name__}:LoopVector")
gym.register("VectorLoop-v0", vector_entry_point=LoopVector)
gym.register("Mute-v0", Mute)
gym.register("Lost-v0", "no_such_module:Lost")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_environments.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_environments", None)
    for name in ("Loop-v0", "VectorLoop-v0", "Mute-v0", "Lost-v0"):
        gym.registry.pop(name, None)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_modality_is_that_of_the_class(name):
    assert environment_modality(name) == ("video" if "T2V" in name else "image")


def test_an_environment_of_ones_own_trains_with_its_modality(own):
    assert small_config(environment={"env": "own_environments:Loop-v0"}).modality == "video"
    assert environment_modality("Loop-v0") == "video"
    assert environment_modality("VectorLoop-v0") == "video"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("FlexT2-v0", UnknownNameError, "Did you mean 'FlexT2V-v0'.*Known: FlexT2I-v0, FlexT2IControl-v0, FlexT2V-v0"),
        ("own_environments:Lop-v0", UnknownNameError, "Did you mean 'Loop-v0'"),
        ("no_such_module:Loop-v0", ConfigError, "'no_such_module' cannot be imported"),
        ("own_environments:Lost-v0", ConfigError, "'no_such_module' cannot be imported"),
        ("own_environments:Mute-v0", ConfigError, "class attribute modality = 'image' or modality = 'video' on .*Mute"),
        ("CartPole-v1", ConfigError, "got None. Set it, or derive the class from flexgym.envs.t2i.FlexT2I"),
    ],
)
def test_what_has_no_modality_is_explained(own, name, error, message):
    with pytest.raises(error, match=message):
        environment_modality(name)


def test_only_public_names_are_listed():
    assert dir(flexgym) == sorted(flexgym.__all__)
    assert {"FlowPolicy", "GroupScores", "Prompt", "SampleGroup", "load_generator"} <= set(dir(flexgym))
    assert all(getattr(flexgym, name).__name__ == name for name in dir(flexgym))
    with pytest.raises(AttributeError, match="Did you mean 'FlowPolicy'"):
        _ = flexgym.FlowPolicie
