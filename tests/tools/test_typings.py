"""The stubs of RLlib and TRL: misspelled names are errors, and everything that they declare exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TYPINGS = ROOT / "typings"
NAMED_HERE = {
    "CallResult": "ray.rllib.utils.actor_manager.CallResult",
    "ActorManager": "ray.rllib.utils.actor_manager.FaultTolerantActorManager",
    "MultiRLModule": "ray.rllib.core.rl_module.multi_rl_module.MultiRLModule",
    "Accelerator": "accelerate.Accelerator",
    "_Config": "trl.SFTConfig",
    "_Trainer": "trl.SFTTrainer",
}
"""Classes that the stubs declare elsewhere, or under a name of their own."""

SNIPPET = """
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from trl import DPOTrainer

class Config(AlgorithmConfig):
    kl_coeff = 0.1

class Learner(TorchLearner):
    config: Config

    def begin_update(self, *, samples: int) -> None: ...

def check(config: Config, learner: Learner, algorithm: Algorithm, trainer: DPOTrainer) -> None:
    config.kl_coeff + learner.config.kl_coeff
    config.klcoeff
    learner.config.klcoeff
    learner.begin_update(samples=1)
    learner.begin_updaet(samples=1)
    config.env_runners(num_env_runners=1).learners(num_learners=2)
    config.env_runners(num_env_runer=1)
    algorithm.learner_group.foreach_learner(print)
    algorithm.learner_group.foreach_lerner(print)
    trainer.compute_loss(None, {})
    trainer.compute_los(None, {})
"""
WRONG = ["klcoeff", "klcoeff", "begin_updaet", "num_env_runer", "foreach_lerner", "compute_los"]


@pytest.mark.slow
def test_a_misspelled_name_is_an_error_of_mypy(tmp_path):
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(tmp_path / "snippet.py")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    errors = [line for line in result.stdout.splitlines() if ": error: " in line]
    assert len(errors) == len(WRONG), result.stdout + result.stderr
    for name, error in zip(WRONG, errors, strict=True):
        assert f'"{name}"' in error


def stubs():
    for path in sorted(TYPINGS.rglob("*.pyi")):
        name = ".".join(path.relative_to(TYPINGS).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def runtime(module, name):
    """The class or function behind a name of a stub."""
    where, _, attribute = NAMED_HERE.get(name, f"{module}.{name}").rpartition(".")
    return getattr(importlib.import_module(where), attribute)


def exists(found, name):
    """A class has the member, or its own or a base's methods set it."""
    return hasattr(found, name) or any(
        f"self.{name}" in inspect.getsource(base) or f"\n    {name}:" in inspect.getsource(base)
        for base in found.__mro__
        if base.__module__ != "builtins"
    )


def unknown_parameters(node, function):
    """Keyword parameters of a stub that the function does not take; one that takes any has none."""
    known = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return []
    return [argument.arg for argument in node.args.kwonlyargs if argument.arg not in known]


@pytest.mark.slow
def test_everything_declared_exists():
    missing = []
    for module, tree in stubs():
        for node in tree.body:
            if isinstance(node, ast.AnnAssign):
                assert hasattr(importlib.import_module(module), node.target.id), (module, node.target.id)
            elif isinstance(node, ast.FunctionDef):
                missing += [(node.name, name) for name in unknown_parameters(node, runtime(module, node.name))]
            elif isinstance(node, ast.ClassDef):
                found = runtime(module, node.name)
                for member in node.body:
                    name = getattr(member, "name", None) or getattr(getattr(member, "target", None), "id", None)
                    if name and not exists(found, name):
                        missing.append((node.name, name))
                    elif isinstance(member, ast.FunctionDef) and inspect.isfunction(getattr(found, name)):
                        unknown = unknown_parameters(member, getattr(found, name))
                        missing += [(node.name, name, parameter) for parameter in unknown]
    assert not missing
