"""All families of generators keep the rules of the kit."""

from __future__ import annotations

from flexgym.testing import GeneratorConformance
from flexgym.testing.generators import PROMPTS
from tests.generators.tiny import CASES, fresh, marks_of, prompts_for


class Family(GeneratorConformance):
    """A family by its name."""

    family = ""

    def make(self, dtype):
        return fresh(self.family, dtype=dtype)


for _name, _case in CASES.items():
    _kit = f"Test{_name.title().replace('_', '')}"
    _own = {
        "pytestmark": marks_of(_name),
        "family": _name,
        "guidance": _case.guidance,
        "prompts": tuple(prompts_for(_name, PROMPTS)),
    }
    globals()[_kit] = type(_kit, (Family,), {**_own, "__module__": __name__})
