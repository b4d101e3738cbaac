"""Write what is known of the code without running it: ``python -m tools.stubs``; with ``--check`` it only compares.

The wrapper classes in `flexgym.rewards` and `flexgym.rewards.vector` are made at runtime. The stubs give type checkers
and editors the names and the settings of each. ``flexgym/agents/shown.json`` holds what ``--help`` of the agents shows.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from inspect import Parameter, cleandoc
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from flexgym.agents.base import Agent
from flexgym.algorithm.base import algorithm_class, algorithm_names
from flexgym.commands.train import command_names
from flexgym.config import AgentSettings
from flexgym.config.describe import help_sections
from flexgym.core.arguments import setting_parameters
from flexgym.reward.building import SHARED_SETTINGS
from flexgym.rewards.registry import SHIPPED, reward_class

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Stub:
    """One stub file.

    Attributes:
        path: the file, from the root of the repository.
        base: base class of the wrapper classes in it.
        env: type of the environment that they wrap.
        head: docstring and imports.
        public: public names beside the wrapper classes.
    """

    path: str
    base: str
    env: str
    head: str
    public: str


STUBS = (
    Stub(
        path="flexgym/rewards/__init__.pyi",
        base="NamedWrapper",
        env="gymnasium.Env[Any, Any]",
        head='''"""Rewards of image and video groups as wrappers of environments."""
import gymnasium
from flexgym.reward import JudgeReward, PointwiseReward, Reward, RewardWrapper, VectorRewardWrapper, register
from flexgym.rewards import vector
from flexgym.rewards.registry import check, make, names
from flexgym.rewards.wrappers import NamedWrapper, wrap
''',
        public="JudgeReward PointwiseReward Reward RewardWrapper VectorRewardWrapper"
        " check make names register vector wrap",
    ),
    Stub(
        path="flexgym/rewards/vector.pyi",
        base="NamedVectorWrapper",
        env="gymnasium.vector.VectorEnv[Any, Any, Any]",
        head='''"""Rewards of image and video groups as wrappers of vector environments."""
import gymnasium.vector
from flexgym.reward import VectorRewardWrapper
from flexgym.rewards.wrappers import NamedVectorWrapper
from flexgym.rewards.wrappers import wrap_vector as wrap
''',
        public="VectorRewardWrapper wrap",
    ),
)


@dataclass
class Names:
    """Writes types as source text and collects the imports that the text needs.

    Attributes:
        imported: names to import, by module.
    """

    imported: dict[str, set[str]] = field(default_factory=dict)

    def text(self, annotation: Any) -> str:
        """Return an annotation as source text."""
        if annotation in (Parameter.empty, Any):
            return self._named("typing", "Any")
        if annotation is NoneType:
            return "None"
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin in (Union, UnionType):
            return " | ".join(self.text(argument) for argument in arguments)
        if origin is Literal:
            return f"{self._named('typing', 'Literal')}[{', '.join(map(repr, arguments))}]"
        if origin is not None:
            return f"{self.text(origin)}[{', '.join(self.text(argument) for argument in arguments)}]"
        return self._named(annotation.__module__, annotation.__qualname__)

    def _named(self, module: str, name: str) -> str:
        if module != "builtins":
            self.imported.setdefault(module, set()).add(name)
        return name

    def imports(self) -> str:
        """Return the import statements."""
        return "".join(f"from {module} import {', '.join(sorted(names))}\n" for module, names in self.imported.items())


def stub_text(stub: Stub) -> str:
    """Return the text of a stub, from the constructors of the rewards."""
    names = Names()
    names.text(Any)
    classes = [_class_text(stub, name, names) for name in SHIPPED]
    public = [f"{name!r}," for name in sorted({*stub.public.split(), *SHIPPED})]
    head = f"# Written by `python -m tools.stubs`.\n{stub.head}{names.imports()}"
    return _formatted("\n".join([head, "__all__ = [", *public, "]", *classes]))


def _class_text(stub: Stub, name: str, names: Names) -> str:
    cls = reward_class(name)
    parameters = _parameters_text([*setting_parameters(cls, bounds=False), *SHARED_SETTINGS], names)
    summary = cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    constructor = f"def __init__(self, env: {stub.env}, *, {parameters}) -> None: ..."
    return f'class {name}({stub.base}):\n    """{summary}"""\n\n    {constructor}'


def _parameters_text(parameters: Iterable[Parameter], names: Names) -> str:
    texts, last = [], []
    for parameter in parameters:
        if parameter.kind is Parameter.VAR_KEYWORD:
            last.append(f"**{parameter.name}: {names.text(parameter.annotation)}")
        else:
            texts.append(f"{parameter.name}: {names.text(parameter.annotation)}{_default_text(parameter.default)}")
    return ", ".join([*texts, *last])


def _default_text(default: Any) -> str:
    if default is Parameter.empty:
        return ""
    return f" = {default!r}" if isinstance(default, str | int | float | None) else " = ..."


def _formatted(text: str) -> str:
    """Sort the imports and format the text with ruff."""
    for command in (("check", "--select", "I", "--fix-only", "--quiet"), ("format", "--quiet")):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", "flexgym/rewards/stub.pyi", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


def shown_text() -> str:
    """Return the text of `flexgym.agents.launch.SHOWN`: the commands of agents, and the settings of each algorithm."""
    agents = {}
    for name in command_names():
        main = importlib.import_module(f"flexgym.agents.{name}").main
        if isinstance(main, Agent):
            agents[name] = asdict(main)
    algorithms = {}
    for name in algorithm_names():
        sections = help_sections(AgentSettings.with_algorithm(algorithm_class(name).Settings))
        algorithms[name] = next(asdict(section) for section in sections if section.name == "algorithm")
    return json.dumps({"agents": agents, "algorithms": algorithms}, indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the stubs, or compare them.

    Args:
        arguments: command line.

    Returns:
        0, or 1 if a stub is not up to date and ``--check`` is given.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.stubs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a stub is not up to date")
    check = parser.parse_args(arguments).check
    old = 0
    texts = {stub.path: stub_text(stub) for stub in STUBS}
    texts["flexgym/agents/shown.json"] = shown_text()
    for name, text in texts.items():
        path = ROOT / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        old += 1
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{name}: {'not up to date; run python -m tools.stubs' if check else 'written'}")
    return int(check and old > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
