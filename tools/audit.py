"""Audit of dependencies without a network: ``python -m tools.audit ADVISORIES``, in the environment to check.

``ADVISORIES`` is a folder of advisories in the OSV format (https://ossf.github.io/osv-schema), YAML or JSON, such as a
checkout of https://github.com/pypa/advisory-database. With a network, ``pip-audit`` asks its services instead; see
``SECURITY.md``. Checked is what ``pip install flexgym`` with all extras that are installed here resolves to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from ruamel.yaml import YAML

from tools.tables import table

Installed = dict[str, Version]


@dataclass(frozen=True)
class Finding:
    """A package with a known vulnerability.

    Attributes:
        name: the package.
        version: version that is installed.
        advisory: id of the advisory.
        fixed: versions that fix it; empty if none does.
    """

    name: str
    version: Version
    advisory: str
    fixed: tuple[str, ...]


def resolved(root: str) -> Installed:
    """Return the installed packages that a package needs, with all extras whose packages are installed, by name."""
    found: Installed = {}
    left = [root]
    while left:
        name = canonicalize_name(left.pop())
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = Version(package.version)
        needed = [Requirement(text) for text in package.requires or ()]
        extras = package.metadata.get_all("Provides-Extra") or [] if name == canonicalize_name(root) else []
        left += [one.name for one in needed if _applies(one, ["", *extras])]
    return found


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def advisories(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the advisories in a folder."""
    reader = YAML(typ="safe", pure=False)
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".yaml", ".yml", ".json") and path.is_file():
            text = path.read_text(encoding="utf-8")
            read = json.loads(text) if path.suffix == ".json" else reader.load(text)
            if isinstance(read, Mapping) and "affected" in read:
                yield read


def findings(installed: Installed, known: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return the advisories, not withdrawn, that an installed version is affected by."""
    return [
        Finding(name, installed[name], advisory["id"], tuple(_fixes(affected)))
        for advisory in known
        if not advisory.get("withdrawn")
        for affected in advisory["affected"]
        if (name := canonicalize_name(affected.get("package", {}).get("name", ""))) in installed
        and affected["package"].get("ecosystem") == "PyPI"
        and is_affected(installed[name], affected)
    ]


def is_affected(version: Version, affected: Mapping[str, Any]) -> bool:
    """Return True if a version is listed, or lies within a range of versions."""
    if any(_version(listed) == version for listed in affected.get("versions", ())):
        return True
    return any(
        _within(version, part.get("events", ()))
        for part in affected.get("ranges", ())
        if part.get("type") == "ECOSYSTEM"
    )


def _within(version: Version, events: Iterable[Mapping[str, str]]) -> bool:
    inside = False
    for event in sorted(events, key=lambda event: _version(next(iter(event.values())))):
        [(kind, text)] = event.items()
        bound = _version(text)
        if kind == "introduced" and version >= bound:
            inside = True
        if (kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound):
            inside = False
    return inside


def _version(text: str) -> Version:
    try:
        return Version(str(text))
    except InvalidVersion:
        return Version("0")


def _fixes(affected: Mapping[str, Any]) -> Iterator[str]:
    for part in affected.get("ranges", ()):
        if part.get("type") == "ECOSYSTEM":
            yield from (event["fixed"] for event in part.get("events", ()) if "fixed" in event)


def main(arguments: list[str]) -> int:
    """Print what was checked and found; return the exit status, 1 for findings."""
    [folder] = arguments
    installed, known = resolved("flexgym"), list(advisories(Path(folder)))
    found = findings(installed, known)
    newest = max((str(advisory.get("published", "")) for advisory in known), default="none")[:10]
    print(f"{len(installed)} packages against {len(known)} advisories, the newest of {newest}")
    if found:
        rows = [(one.name, str(one.version), one.advisory, ", ".join(one.fixed) or "none") for one in found]
        print(table(("package", "installed", "advisory", "fixed in"), rows))
    return 1 if found or not known else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
