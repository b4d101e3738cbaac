"""Check installed versions against the metadata of FlexGym, and the folder of launchers against its other owners."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flexgym.core.launchers import ENTRY, hidden_by
from flexgym.doctor.findings import Finding, ok, problem, warning

_CHECK, _OWNERS = "versions", "packages"


def check_versions() -> list[Finding]:
    """Compare Python and every required package with the versions that FlexGym is made for."""
    try:
        own = importlib.metadata.metadata("flexgym")
    except importlib.metadata.PackageNotFoundError:
        return [warning(_CHECK, "FlexGym is imported from a folder and not installed", "pip install -e FOLDER")]
    found = _check_python(own["Requires-Python"] or "")
    requirements = [Requirement(text) for text in importlib.metadata.requires("flexgym") or ()]
    needed = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    found += [finding for each in needed if (finding := _check_package(each))]
    found += _check_launchers()
    return found or [ok(_CHECK, f"FlexGym {own['Version']}: Python and {len(needed)} packages fit")]


def _check_python(expected: str) -> list[Finding]:
    version = platform.python_version()
    if SpecifierSet(expected).contains(version, prereleases=True):
        return []
    advice = f"make an environment with a Python {expected} and install FlexGym there"
    return [problem(_CHECK, f"Python {version} is running, and FlexGym needs {expected}", advice)]


def _check_package(requirement: Requirement) -> Finding | None:
    wanted = f"{requirement.name}{requirement.specifier}"
    advice = f"pip install '{wanted}'"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return problem(_CHECK, f"{requirement.name} is not installed", advice)
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return problem(_CHECK, f"{requirement.name} {version} is installed, and FlexGym needs {wanted}", advice)


def _check_launchers() -> list[Finding]:
    """Look whether ``python -m agents.NAME`` finds the launchers, and whether other owners of the name are whole."""
    other = hidden_by()
    found = []
    if other is not None:
        what = f"python -m agents.NAME finds {other} and not the launchers of FlexGym"
        found = [warning(_OWNERS, what, f"use `{ENTRY}`, which no other package can hide")]
    for owner in importlib.metadata.packages_distributions().get("agents", ()):
        files = importlib.metadata.files(owner) or () if owner != "flexgym" else ()
        lost = [file for file in files if str(file) == "agents/__init__.py" and not Path(str(file.locate())).is_file()]
        if lost:
            advice = f"pip install --force-reinstall --no-deps {owner}"
            found.append(problem(_OWNERS, f"{owner} has lost its {lost[0]}, such as to an older FlexGym", advice))
    return found
