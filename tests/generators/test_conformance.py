"""All families of generators keep the rules of the kit."""

from __future__ import annotations

from flexgym.testing import GeneratorConformance
from tests.generators.tiny import CASES, fresh


class Family(GeneratorConformance):
    """A family by its name."""

    family = ""

    def make(self, dtype):
        return fresh(self.family, dtype=dtype)


for _name, _case in CASES.items():
    _kit = f"Test{_name.title().replace('_', '')}"
    globals()[_kit] = type(_kit, (Family,), {"family": _name, "guidance": _case.guidance, "__module__": __name__})
