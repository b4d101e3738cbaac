"""Read files of a run folder that anybody may have written: bounded, through no link, and never fatal."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexgym.core.errors import CheckpointError
from flexgym.core.files import cause_of, open_inside
from flexgym.core.json_text import parse_json

MAX_FILE = 128 * 2**20
"""Largest file that is read, in bytes."""
MAX_MEDIA = 2 * 2**20
"""Largest image or video that is shown, in bytes."""
LARGEST = 1e100
"""Largest number that is drawn."""
_MAX_PROBLEMS = 50
_KINDS: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
    ("image/webp", lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP"),
    ("image/png", lambda data: data[:8] == b"\x89PNG\r\n\x1a\n"),
    ("image/gif", lambda data: data[:6] in (b"GIF87a", b"GIF89a")),
    ("video/mp4", lambda data: data[4:8] == b"ftyp"),
)


@dataclass(frozen=True)
class Folder:
    """A folder to read, and what could not be read in it.

    Attributes:
        path: the folder.
        problems: one sentence each, in the order in which they were found.
    """

    path: Path
    problems: list[str] = field(default_factory=list)

    def report(self, problem: str) -> None:
        """Add a problem, of the first 50."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)

    def content(self, name: str, *, max_bytes: int = MAX_FILE) -> bytes | None:
        """Return the content of a file; None for one that is missing, too large or a link, which is a problem then."""
        try:
            with open_inside(self.path, name) as file:
                data = file.read(max_bytes + 1)
        except FileNotFoundError:
            return None
        except CheckpointError as error:
            self.report(str(error))
            return None
        except OSError as error:
            self.report(f"{name} cannot be read: {cause_of(error)}")
            return None
        if len(data) > max_bytes:
            self.report(f"{name} is larger than {max_bytes // 2**20} MiB and was passed over")
            return None
        return data

    def document(self, name: str) -> dict[str, Any]:
        """Return a JSON object; empty where there is none."""
        data = self.content(name)
        if data is None:
            return {}
        try:
            value = parse_json(data)
        except ValueError as error:
            self.report(f"{name} cannot be read: {error}")
            return {}
        if not isinstance(value, dict):
            self.report(f"{name}: expected a JSON object")
            return {}
        return value

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects of a file of JSON Lines; lines that are none are counted as one problem."""
        broken = 0
        for line in (self.content(name) or b"").split(b"\n"):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield row
            else:
                broken += 1
        if broken:
            self.report(f"{name}: {broken} line{'s' if broken > 1 else ''} could not be read")


def number(value: Any) -> float | None:
    """Return a number that can be drawn, of up to `LARGEST`; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        return None
    return float(value)


def text(value: Any, limit: int = 2000) -> str:
    """Return a string of up to ``limit`` characters; empty for anything that is no string."""
    return value[:limit] if isinstance(value, str) else ""


def data_uri(encoded: Any) -> str | None:
    """Return a data URI for an image or video in base64; None for anything else, or for more than `MAX_MEDIA`."""
    if not isinstance(encoded, str) or len(encoded) > MAX_MEDIA * 4 // 3 + 4:
        return None
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return media_uri(data)


def media_uri(data: bytes) -> str | None:
    """Return a data URI for the bytes of a WebP, PNG, GIF or MP4 file of up to `MAX_MEDIA`; None for anything else."""
    kind = next((name for name, fits in _KINDS if fits(data)), None)
    if kind is None or len(data) > MAX_MEDIA:
        return None
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return up to ``count`` items, evenly spaced, among them the first and the last one."""
    if len(items) <= count:
        return list(items)
    if count < 1:
        return []
    if count == 1:
        return [items[-1]]
    return [items[index * (len(items) - 1) // (count - 1)] for index in range(count)]
