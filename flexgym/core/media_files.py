"""Open media files and embedded media within a bound on their size, for the readers of images and videos."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, Literal

MAX_BYTES = 512 * 2**20
"""Default maximum size of a media file."""

MediaFault = Literal["missing", "too_large", "unreadable"]
"""Reason for which a media file is rejected; ``"too_large"`` covers bytes, pixels, frames and aspect ratio."""

Source = Path | str | bytes
"""Path of a media file, or its content."""

_URL = re.compile(r"\w{2,}:/")


@dataclass(frozen=True)
class MediaReader:
    """Base of the readers of images and videos.

    Each method takes a ``source``, the path of a file or its content, and a ``name`` for error messages (the path by
    default), and raises the exception that `error` builds.

    Attributes:
        error: builds the exception to raise from the kind of fault and a message without a period at its end.
        max_bytes: maximum size of a file.
    """

    error: Callable[[MediaFault, str], Exception]
    max_bytes: int = MAX_BYTES

    kind: ClassVar[str]

    def named(self, source: Source, name: str) -> str:
        """Return the name of a source for error messages."""
        return name or (f"{self.kind} of {len(source)} bytes" if isinstance(source, bytes) else str(source))

    @contextlib.contextmanager
    def stream(self, source: Source, name: str) -> Iterator[IO[bytes]]:
        """Open a source that is not too large, from its beginning."""
        stream = io.BytesIO(source) if isinstance(source, bytes) else self._file(Path(source), name)
        with stream:
            size = len(source) if isinstance(source, bytes) else os.fstat(stream.fileno()).st_size
            if size > self.max_bytes:
                raise self.error("too_large", f"{name}: expected at most {self.max_bytes} bytes, got {size}")
            yield stream

    @contextlib.contextmanager
    def damage_reported(self, name: str, kinds: tuple[type[Exception], ...], hint: str = "") -> Iterator[None]:
        """Turn the exceptions by which a library reports a damaged file into that of `error`."""
        try:
            yield
        except kinds as error:
            said = str(error) or type(error).__name__
            raise self.error("unreadable", f"{name}: cannot be read as {self.kind}: {said}{hint}") from None

    def _file(self, path: Path, name: str) -> IO[bytes]:
        with self.damage_reported(name, (OSError, ValueError)):
            if path.is_file():
                return path.open("rb")
        hint = f": download the {self.kind.split()[-1]} and give its path"
        raise self.error("missing", f"{name}: there is no such file{hint if _URL.match(str(path)) else ''}")
