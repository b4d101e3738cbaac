"""Problems of rows: kinds of errors, counts, the rejects file, and the limit on the share of bad rows."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pydantic import ValidationError

from flexgym.core.errors import ConfigError, FlexGymError
from flexgym.core.files import held_file

KINDS = {
    "not_json": "the line is not a JSON object in UTF-8",
    "too_long": "the row, or a text or list in it, exceeds its maximum length",
    "wrong_type": "a value has the wrong type for its key",
    "missing_key": "a required key is missing",
    "one_side": "a pair has only one candidate",
    "invalid": "the values break a rule of the schema",
    "outside_root": "a media file is outside of the root folder",
    "missing_file": "an image or video file does not exist",
    "unreadable_media": "an image or video is damaged, truncated, or has an unsupported format",
    "too_large": "an image or video, or all of a row, exceed their maximum size",
    "special_token": "a text has a special token of the judge's tokenizer, such as <|im_end|>",
}
"""Kinds of problems and their meaning. Code that reads rows may define additional kinds."""

_RAW_CHARACTERS = 2000
_EXAMPLES = 3
_REASON_CHARACTERS = 400
_INPUT_CHARACTERS = 80


class DataError(FlexGymError, ValueError):
    """Raised if data files cannot be used: one is missing or unreadable, or too many rows are bad."""


class RowError(FlexGymError, ValueError):
    """Raised if a row cannot be used. Readers count it and continue with the next row.

    Args:
        kind: one of `KINDS`, or a kind defined by the caller.
        reason: what was expected and what was found.

    Attributes:
        kind: kind of the problem.
    """

    def __init__(self, kind: str, reason: str) -> None:
        # Half a surrogate pair, which JSON can hold, cannot be printed.
        printable = reason.encode("utf-8", "replace").decode()
        super().__init__(" ".join(printable.split())[:_REASON_CHARACTERS])
        self.kind = kind

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str]]:
        return type(self), (self.kind, str(self))


@dataclass(frozen=True)
class Place:
    """Location of a row in a file.

    Attributes:
        file: the data file.
        number: line of a JSON Lines file or row of another file, counted from 1.
        word: ``"line"`` or ``"row"``.
    """

    file: Path
    number: int
    word: str = "line"

    def __str__(self) -> str:
        return f"{self.file}, {self.word} {self.number}"


@dataclass(frozen=True)
class DataReport:
    """Counts of good and bad rows in data files.

    Attributes:
        good: number of valid rows.
        bad: number of bad rows by kind.
        skipped: number of rows that a format omits on purpose, by reason, such as ``unlabelled``.
        examples: location and reason of the first few bad rows.
        rejects: file that the bad rows were written to.
    """

    good: int = 0
    bad: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    rejects: Path | None = None

    @property
    def num_bad(self) -> int:
        """Return the total number of bad rows."""
        return sum(self.bad.values())

    @property
    def bad_share(self) -> float:
        """Return the share of bad rows among all that should be valid, 0 to 1; 0 if there are none."""
        return self.num_bad / max(self.good + self.num_bad, 1)

    def describe(self) -> str:
        """Return a one-line summary, such as ``rows: 1,200 good, 3 bad (2 missing_file, 1 not_json)``."""
        text = f"rows: {self.good:,} good, {self.num_bad:,} bad"
        if self.num_bad:
            text += f" ({_counted(self.bad)})"
        if self.skipped:
            text += f"; skipped: {_counted(self.skipped)}"
        return text


@dataclass(frozen=True)
class BadRows:
    """Handling of bad rows in data files.

    Attributes:
        max_share: share of bad rows above which reading stops, 0 to 1.
        min_rows: number of rows after which the share is first checked.
        rejects: JSON Lines file for bad rows with their location and the reason; None only counts them. Every pass over
            the data rewrites it and saves it when the pass ends, for whatever reason.

    Raises:
        ConfigError: if the share is not in ``[0, 1]``, or the number of rows is below 1.
    """

    max_share: float = 0.05
    min_rows: int = 100
    rejects: Path | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_share <= 1.0:
            raise ConfigError(f"max_share of bad rows: expected 0 to 1, got {self.max_share}")
        if self.min_rows < 1:
            raise ConfigError(f"min_rows: expected at least 1, got {self.min_rows}")


class Tally:
    """Count the rows of one pass, write bad rows to the rejects file, and raise an error if there are too many.

    Args:
        rule: how bad rows are handled.
        what: name of the data, used in messages.
    """

    def __init__(self, rule: BadRows, what: str) -> None:
        self._rule = rule
        self._what = what
        self._good = 0
        self._bad: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._examples: list[str] = []
        self._file: IO[str] | None = None
        self._held = contextlib.ExitStack()
        self._temporary = Path()

    def __enter__(self) -> Self:
        if self._rule.rejects is not None:
            rejects = Path(self._rule.rejects)
            rejects.parent.mkdir(parents=True, exist_ok=True)
            # Write to a temporary file, since several processes may read the same data at once.
            self._temporary = self._held.enter_context(held_file(rejects))
            self._file = self._temporary.open("w", encoding="utf-8", errors="replace")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and self._rule.rejects is not None:
            with self._held:
                self._file.close()
                self._file = None
                os.replace(self._temporary, self._rule.rejects)

    @property
    def report(self) -> DataReport:
        """Return the counts so far."""
        rejects = None if self._rule.rejects is None else Path(self._rule.rejects)
        return DataReport(self._good, dict(self._bad), dict(self._skipped), tuple(self._examples), rejects)

    def add_good(self) -> None:
        """Count a valid row."""
        self._good += 1

    def skip(self, reason: str) -> None:
        """Count a row that the format omits on purpose."""
        self._skipped[reason] += 1

    def set_aside(self, place: Place, problem: RowError, raw: Any) -> None:
        """Count a bad row and write it to the rejects file.

        Args:
            place: location of the row.
            problem: what is wrong with it.
            raw: content of the row, as the bytes of a line or as a value; only the first 2,000 characters are written.

        Raises:
            DataError: if there are too many bad rows.
        """
        self._bad[problem.kind] += 1
        if len(self._examples) < _EXAMPLES:
            self._examples.append(f"{place}: {problem}")
        if self._file is not None:
            line = {"file": str(place.file), place.word: place.number, "kind": problem.kind, "reason": str(problem)}
            self._file.write(json.dumps(line | {"raw": raw_text(raw)}, ensure_ascii=False) + "\n")
        self._check_share()

    def finish(self) -> DataReport:
        """Return the counts of the complete pass.

        Raises:
            DataError: if no row is valid, or too many are bad.
        """
        self._check_share()
        report = self.report
        if not report.good:
            found = report.describe() if report.num_bad or report.skipped else "no rows at all"
            raise DataError(f"{self._what}: expected valid rows, got {found}. {self._shown(report)}")
        return report

    def _check_share(self) -> None:
        report = self.report
        seen = report.good + report.num_bad
        if seen >= self._rule.min_rows and report.bad_share > self._rule.max_share:
            raise DataError(
                f"{self._what}: {report.num_bad} of the first {seen} rows are bad ({_counted(report.bad)}), more than"
                f" the {self._rule.max_share:.0%} allowed. {self._shown(report)}"
            )

    def _shown(self, report: DataReport) -> str:
        shown = f"First bad row: {report.examples[0]}." if report.examples else ""
        return shown + (f" All bad rows are in {report.rejects}." if report.rejects and report.num_bad else "")


def raw_text(raw: Any) -> str:
    """Return the beginning of a raw row as human-readable text.

    Args:
        raw: bytes of a line, or a value, in which embedded files are replaced by their size.
    """
    if isinstance(raw, bytes):
        return raw[: 4 * _RAW_CHARACTERS].decode("utf-8", "replace").rstrip("\r\n")[:_RAW_CHARACTERS]
    return json.dumps(raw, ensure_ascii=False, default=_unprintable)[:_RAW_CHARACTERS]


def row_error(error: ValidationError) -> RowError:
    """Convert a validation error to a `RowError` about the most severe of the broken rules.

    Args:
        error: error of validating a row against its schema.
    """
    found = [(_kind(item["type"]), item) for item in error.errors(include_url=False, include_context=False)]
    order = ("one_side", "missing_key", "wrong_type", "too_long")
    kind, item = min(found, key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
    # Omit the names of union members and tags, which pydantic adds and which mean nothing to the author of a row.
    place = ".".join(str(part) for part in item["loc"] if isinstance(part, int) or part.islower())
    if kind == "missing_key":
        return RowError(kind, f"the key {place!r} is missing")
    if not place:
        return RowError(kind, item["msg"])
    return RowError(kind, f"{place}: {item['msg']}, got {raw_text(item['input'])[:_INPUT_CHARACTERS]}")


def _kind(error_type: str) -> str:
    if error_type in KINDS:
        return error_type
    if error_type == "missing":
        return "missing_key"
    if error_type.endswith(("_type", "_parsing", "_from_float")):
        return "wrong_type"
    return "too_long" if error_type.endswith("too_long") else "invalid"


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(numbers.items(), key=lambda it: (-it[1], it[0])))


def _unprintable(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes | bytearray) else repr(value)
