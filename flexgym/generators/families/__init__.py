"""One small module for each family of pipelines, holding only what differs from `flexgym.generators.family.Family`.

A module here is found by itself: it defines a subclass of `Family` whose ``pipelines`` names the diffusers
classes that it serves.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from flexgym.generators.family import Family


@cache
def families() -> dict[str, type[Family]]:
    """Return the family of each supported diffusers pipeline class, by the name of that class."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found: dict[str, type[Family]] = {}
    pending = list(Family.__subclasses__())
    while pending:
        family = pending.pop()
        pending.extend(family.__subclasses__())
        if family.__module__.startswith(f"{__name__}."):
            found.update(dict.fromkeys(family.pipelines, family))
    return found
