"""The unit of every reader: one row as it is in its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flexgym.data.problems import Place, RowError


@dataclass(frozen=True)
class RawRow:
    """A row that has not been validated.

    Attributes:
        place: location of the row.
        offset: byte offset of its line in JSON Lines or of its first file in a tar shard, or its index counted from 0
            in other files.
        values: content of the row; None if it cannot be read.
        problem: why it cannot be read.
        line: beginning of its bytes, if it cannot be read.
    """

    place: Place
    offset: int
    values: dict[str, Any] | None = None
    problem: RowError | None = None
    line: bytes = b""
