"""Files between the process that runs the loop and its learners, which may run where they do not see its folders.

A learner that sees a folder itself, on the same mount of the same machine, works in it. For any other one the files
travel through Ray in chunks of `CHUNK` bytes, from or to a temporary folder on the machine of the learner. What is seen
is tried out with a file of random content: two machines, or two containers of one machine, may well have folders of
one name, even at one IP address.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray

from flexgym.core.errors import CheckpointError
from flexgym.core.files import held_folder, regular_files

CHUNK = 16 * 2**20
"""Bytes that travel at a time."""

OnLearners = Callable[[Callable[[Any], Any]], list[Any]]
"""Calls a function with each learner and returns the results, ordered by learner."""


class Ranked(Protocol):
    """A learner as far as it is known here."""

    @property
    def rank(self) -> int:
        """Rank among the learners, from 0."""
        ...


@dataclass(frozen=True)
class Probe:
    """A file by which a learner recognizes a folder.

    Attributes:
        path: the file.
        token: its content.
        inode: device and inode number.
    """

    path: str
    token: str
    inode: tuple[int, int]

    def seen(self) -> bool:
        """Return True if this process sees the folder on the same mount."""
        try:
            with open(self.path, encoding="utf-8") as file:
                found = os.fstat(file.fileno())
                return file.read() == self.token and (found.st_dev, found.st_ino) == self.inode
        except OSError:
            return False


def collect(on_learners: OnLearners, write: Callable[[Any, Path], None], target: Path) -> None:
    """Let the learners write into a folder.

    Args:
        on_learners: calls the learners.
        write: called with every learner and a folder; only what the first learner writes counts.
        target: the folder here, which is made if it is missing.

    Raises:
        CheckpointError: not all bytes arrived.
    """
    target.mkdir(parents=True, exist_ok=True)
    with _probe(target) as probe:
        place = on_learners(lambda learner: None if learner.rank else _opened(probe))[0]
    try:
        on_learners(lambda learner: write(learner, Path(place)))
        if place != str(target):
            _fetch(on_learners, place, target)
    finally:
        if place != str(target):
            on_learners(lambda learner: None if learner.rank else _close(place))


@contextlib.contextmanager
def deliver(on_learners: OnLearners, source: Path) -> Iterator[list[str]]:
    """Give every learner the files of a folder.

    Args:
        on_learners: calls the learners.
        source: the folder here.

    Yields:
        The folder of each learner by rank, on its own machine; read-only.
    """
    with _probe(source) as probe:
        places = on_learners(lambda learner: _opened(probe))
    away = [place != str(source) for place in places]
    try:
        for name, size in regular_files(source).items() if any(away) else ():
            for start in range(0, max(size, 1), CHUNK):
                part = ray.put(_chunk(str(source), name, start))
                on_learners(partial(_receive, places=places, away=away, name=name, part=part))
        yield places
    finally:
        on_learners(lambda learner: _close(places[learner.rank]))


@contextlib.contextmanager
def _probe(folder: Path) -> Iterator[Probe]:
    path, token = folder / f".seen-{uuid.uuid4().hex}", uuid.uuid4().hex
    try:
        path.write_text(token, encoding="utf-8")
    except OSError:  # a checkpoint on a read-only disk: nobody is known to see it
        yield Probe(str(path), token, (0, 0))
        return
    try:
        found = path.stat()
        yield Probe(str(path), token, (found.st_dev, found.st_ino))
    finally:
        path.unlink(missing_ok=True)


_held: dict[str, contextlib.ExitStack] = {}
"""Temporary folders of this process, which the owner of each closes."""


def _opened(probe: Probe) -> str:
    """Return the folder of the probe if this process sees it, else a new temporary one."""
    if probe.seen():
        return str(Path(probe.path).parent)
    stack = contextlib.ExitStack()
    place = str(stack.enter_context(held_folder(Path(tempfile.gettempdir()) / "flexgym-transfer")))
    _held[place] = stack
    return place


def _close(place: str) -> None:
    """Remove a temporary folder of this process; any other folder stays."""
    if place in _held:
        _held.pop(place).close()


def _fetch(on_learners: OnLearners, place: str, target: Path) -> None:
    """Copy all files from the folder of the first learner."""
    sizes: dict[str, int] = on_learners(lambda learner: None if learner.rank else regular_files(Path(place)))[0]
    for name, size in sizes.items():
        for start in range(0, max(size, 1), CHUNK):
            part = on_learners(partial(_send, place=place, name=name, start=start))[0]
            _append(str(target), name, part)
    if regular_files(target) | sizes != regular_files(target):
        raise CheckpointError(f"{target}: not all files of the learner arrived: is its temporary folder full?")


def _receive(learner: Ranked, *, places: Sequence[str], away: Sequence[bool], name: str, part: Any) -> None:
    """Append a chunk to the file of a learner that does not see the folder itself."""
    if away[learner.rank]:
        _append(places[learner.rank], name, ray.get(part))


def _send(learner: Ranked, *, place: str, name: str, start: int) -> bytes | None:
    """Return a chunk of a file of the first learner."""
    return None if learner.rank else _chunk(place, name, start)


def _chunk(folder: str, name: str, start: int) -> bytes:
    with open(Path(folder, name), "rb") as file:
        file.seek(start)
        return file.read(CHUNK)


def _append(folder: str, name: str, data: bytes) -> None:
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(data)
