"""Every limit of the checks, in one place.

Limits only ever go down. Two are still above their goal: members of a class (40), and findings in tests (0).
"""

from __future__ import annotations

from collections.abc import Mapping

BUDGET: Mapping[str, int] = {
    "lines of a file, p90": 400,
    "lines of a file, max": 600,
    "lines of a function, p90": 40,
    "lines of a function, max": 100,
    "nesting, max": 4,
    "members of a class over its bases, max": 66,  # adapters of pipelines: 17 facts, and the hooks with a default
    "duplicated lines, %": 2,
    "modules documented, %": 95,  # a lower bound
    "empty docstrings": 0,
    "environment read at import": 0,
}
"""Largest allowed value of each figure of `tools.budget`; figures without a limit are only reported."""

IMPORTS: Mapping[str, int] = {
    "modules in import cycles": 0,
    "import levels": 9,
}
"""Largest allowed value of each figure of `tools.imports`. The layers are contracts in ``pyproject.toml``."""

LANGUAGE: Mapping[str, int] = {}
"""Findings of `tools.language` that a package may still have; 0 for a package that is not listed."""
