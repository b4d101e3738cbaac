"""Modules that a recipe names, and those that lie in somebody's run folder."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import pytest

from flexgym import rewards
from flexgym.agents.base import AgentComponents
from flexgym.algorithm.base import algorithm_class
from flexgym.config.sections import WrapperSettings
from flexgym.core.errors import ConfigError
from flexgym.core.modules import import_named
from flexgym.environment import environment_modality


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in a run folder below the working folder."""
    folder = tmp_path / "theirs_runs" / "first"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("")
    (folder / "payload.py").write_text("raise SystemExit('it was run')")
    (folder / "inner").mkdir()
    (folder / "inner" / "__init__.py").write_text("raise SystemExit('it was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "theirs_runs.first"


@pytest.mark.parametrize("name", ["payload", "inner.payload", "checkpoints.payload"])
def test_code_in_a_run_folder_is_never_run(theirs: str, name: str):
    path = f"{theirs}.{name}"
    for load in (
        import_named,
        lambda path: rewards.make(f"{path}:Reward"),
        lambda path: algorithm_class(f"{path}:Algorithm"),
        lambda path: environment_modality(f"{path}:Env-v0"),
        lambda path: AgentComponents().wrap(None, [WrapperSettings(wrapper=f"{path}:Wrapper")]),
    ):
        with pytest.raises(ConfigError, match="lies in the run folder .*first, and code in run folders is never run"):
            load(path)


def test_modules_elsewhere_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_module_of_mine.py").write_text("VALUE = 3")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_named("own_module_of_mine").VALUE == 3
    assert import_named("os.path") is sys.modules["os.path"]
    for missing in ("no_such_module", "os.no_such", "no.such"):
        with pytest.raises(ImportError):
            import_named(missing)


@pytest.mark.parametrize("path", ["subprocess:Popen", "os:system", "builtins:exec", "os:lost", "gymnasium:Wrapper"])
def test_only_wrappers_of_vector_environments_are_wrappers(path: str):
    with pytest.raises(ConfigError, match=r"expected a class derived from gymnasium\.vector\.VectorWrapper"):
        AgentComponents().wrap(None, [WrapperSettings(wrapper=path)])
    envs = gym.make_vec("FlexT2I-v0", num_envs=1, group_size=2, vectorization_mode="vector_entry_point")
    wrapped = AgentComponents().wrap(envs, [WrapperSettings(wrapper="gymnasium.vector:VectorWrapper")])
    assert wrapped.unwrapped is envs.unwrapped
