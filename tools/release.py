"""Checks of a release: ``python -m tools.release``, from the root of a checkout.

Version, changelog and citation agree, nothing is uncommitted, and the packages hold what they should. The packages stay
in ``dist/``, and the next step is printed. ``python -m tools.release --build FOLDER`` only builds and checks them.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.metadata import Metadata
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LARGEST_MB = 25
"""Largest wheel: the code and the small checkpoints, and nothing that a training needs."""
_CONFLICTS = ("agents/__init__.py",)
"""Files of the launchers' folder that belong to other packages."""
_KEPT = (".py", ".pyi", ".txt", ".json", ".jinja", ".safetensors", "py.typed")


@dataclass(frozen=True)
class Packages:
    """The files of a release."""

    sdist: Path
    wheel: Path


def build(folder: Path) -> Packages:
    """Build the source distribution, and from it the wheel, so that it is known to be whole.

    Args:
        folder: receives both; made when missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        sdist = _hatch("sdist", ROOT, Path(place))
        with tarfile.open(sdist) as archive:
            archive.extractall(place, filter="data")
        wheel = _hatch("wheel", Path(place) / sdist.name.removesuffix(".tar.gz"), Path(place))
        return Packages(*(Path(shutil.copy(path, folder)) for path in (sdist, wheel)))


def _hatch(kind: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


def release_problems(version: str, *, tagged: bool) -> list[str]:
    """Return what keeps the working tree from being a release.

    Args:
        version: of ``pyproject.toml``.
        tagged: whether the tag of the version is already there, as in CI.
    """
    found = []
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d\d-\d\d))?$", changelog, re.M)
    newest = next(((name, date) for name, date in headings if name != "Unreleased"), ("", ""))
    if newest[0] != version or not newest[1]:
        found.append(f"CHANGELOG.md: expected the heading '## [{version}] - YYYY-MM-DD' below [Unreleased]")
    if f"\nversion: {version}\n" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8"):
        found.append(f"CITATION.cff: expected the line 'version: {version}'")
    if changed := _git("status", "--porcelain"):
        found.append(f"uncommitted: {', '.join(line[3:] for line in changed.splitlines())}; commit or stash it")
    tags = _git("tag", "--points-at", "HEAD").splitlines()
    if tagged and f"v{version}" not in tags:
        found.append(f"the commit has the tags {tags}, expected v{version}")
    if not tagged and _git("tag", "--list", f"v{version}"):
        found.append(f"the tag v{version} exists: raise the version in pyproject.toml")
    return found


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.rstrip()


def wheel_problems(wheel: Path) -> list[str]:
    """Return what is wrong with a wheel: files that lack, files of other packages, metadata, or its size."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (place,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(place)
    found = [f"lacks {name}" for name in sorted(expected_files() - names)]
    own = ("flexgym/", "agents/", place.removesuffix("METADATA"))
    found += [f"{name}: expected files of flexgym, and launchers" for name in sorted(names) if not name.startswith(own)]
    found += [f"{name} belongs to other packages" for name in _CONFLICTS if name in names]
    size = wheel.stat().st_size / 1e6
    found += [f"{size:.1f} MB, expected at most {LARGEST_MB} MB"] if size > LARGEST_MB else []
    return [f"{wheel.name}: {problem}" for problem in [*found, *_metadata_problems(text)]]


def expected_files() -> set[str]:
    """Return the names in a wheel of the files that a user needs: code, recipes, checkpoints and templates."""
    files = [path for folder in ("flexgym", "agents") for path in (ROOT / folder).rglob("*") if _is_kept(path)]
    names = {path.relative_to(ROOT).as_posix() for path in files} - set(_CONFLICTS)
    return names | {f"flexgym/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}


def _is_kept(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.name.endswith(_KEPT)


def _metadata_problems(text: bytes) -> list[str]:
    """Return what is wrong with metadata: `packaging` validates the fields, and every extra must exist."""
    metadata = Metadata.from_email(text, validate=True)
    extras = {canonicalize_name(extra) for extra in metadata.provides_extra or ()}
    own = [each for each in metadata.requires_dist or () if canonicalize_name(each.name) == metadata.name]
    lacking = {extra for each in own for extra in each.extras if canonicalize_name(extra) not in extras}
    found = [f"no such extra: {extra}" for extra in sorted(lacking)]
    found += [f"no {field}" for field in ("summary", "description", "requires_python") if not getattr(metadata, field)]
    return found


def main(arguments: Sequence[str]) -> int:
    """Check and build a release.

    Args:
        arguments: command line.

    Returns:
        0, or 1 if something keeps it from being released.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument("--build", type=Path, metavar="FOLDER", help="only build the packages and check the wheel")
    parser.add_argument("--tagged", action="store_true", help="the tag of the version is there, as in CI")
    chosen = parser.parse_args(arguments)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    problems = [] if chosen.build else release_problems(version, tagged=chosen.tagged)
    packages = build(chosen.build or ROOT / "dist")
    problems += wheel_problems(packages.wheel)
    for path in (packages.sdist, packages.wheel):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if not (problems or chosen.build or chosen.tagged):
        print(f"Next: git tag v{version} && git push origin v{version}; the workflow `release` publishes it on PyPI.")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
