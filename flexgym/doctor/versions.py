"""Check installed versions against the metadata of FlexGym, and the top-level packages against other owners."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flexgym.doctor.findings import Finding, ok, problem, warning

_PACKAGES = ("agents", "envs", "rewards")
_CHECK = "versions"


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
    owners = importlib.metadata.packages_distributions()
    found += [finding for name in _PACKAGES if (finding := _check_owner(name, owners.get(name, [])))]
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


def _check_owner(name: str, owners: Sequence[str]) -> Finding | None:
    """Look whether another of the distributions that own a package would be imported in place of FlexGym."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return problem(
            "packages", f"the package {name!r} of FlexGym is missing", "pip install --force-reinstall flexgym"
        )
    home = Path(__file__).resolve().parents[2]
    place = Path(spec.origin).resolve()
    if place.is_relative_to(home) and _belongs(place, owners):
        return None
    advice = "uninstall that package or install FlexGym into an environment of its own"
    return problem("packages", f"import {name} finds {place}, which is not FlexGym's", advice)


def _belongs(place: Path, owners: Sequence[str]) -> bool:
    """Return whether no other distribution claims the file."""
    others = [owner for owner in owners if owner != "flexgym"]
    files = [file for owner in others for file in importlib.metadata.files(owner) or ()]
    return not any(Path(str(file.locate())).resolve() == place for file in files)
