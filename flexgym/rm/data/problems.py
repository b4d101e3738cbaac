"""What can be wrong with a row, how it is counted and set aside, and when there is too much of it."""

from __future__ import annotations

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
from flexgym.core.files import temporary_sibling

KINDS = {
    "not_json": "the line is no JSON object in UTF-8",
    "too_long": "the row, or a text or list in it, is longer than any honest one",
    "wrong_type": "a value has another type than its key asks for",
    "missing_key": "a key is not there",
    "one_side": "a pair has one candidate only",
    "invalid": "the values break a rule of the schema",
    "outside_root": "a file is named that lies outside of the folder that media may come from",
    "missing_file": "an image or video file is not there",
    "unreadable_media": "an image or video is damaged, cut short, or of another format",
    "too_large": "an image or video is larger than the bounds",
}
"""The kinds of problems, and what each one means; whoever reads rows may add kinds of their own."""

_RAW_CHARACTERS = 2000
_EXAMPLES = 3
_REASON_CHARACTERS = 400
_INPUT_CHARACTERS = 80


class DataError(FlexGymError, ValueError):
    """Data files cannot be used: one is missing or broken as a whole, or too many of their rows are bad."""


class RowError(FlexGymError, ValueError):
    """A row cannot be used. Readers count it and go on.

    Args:
        kind: one of `KINDS`, or a kind of the caller's own.
        reason: what was expected and what came.

    Attributes:
        kind: as given.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(" ".join(reason.split())[:_REASON_CHARACTERS])
        self.kind = kind


@dataclass(frozen=True)
class Place:
    """Where a row stands.

    Attributes:
        file: the data file.
        number: line of a JSON Lines file, row of any other, counted from 1.
        word: ``"line"`` or ``"row"``.
    """

    file: Path
    number: int
    word: str = "line"

    def __str__(self) -> str:
        return f"{self.file}, {self.word} {self.number}"


@dataclass(frozen=True)
class DataReport:
    """What was found in data files.

    Attributes:
        good: rows that can be used.
        bad: number of bad rows by kind.
        skipped: rows that a format leaves out on purpose, by reason, such as ``unlabelled``.
        examples: place and reason of the first few bad rows.
        rejects: the file in which the bad rows were set aside.
    """

    good: int = 0
    bad: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    rejects: Path | None = None

    @property
    def num_bad(self) -> int:
        """Bad rows of every kind."""
        return sum(self.bad.values())

    @property
    def bad_share(self) -> float:
        """Bad rows of all that should be usable, 0 to 1; 0 where there is no row."""
        return self.num_bad / max(self.good + self.num_bad, 1)

    def describe(self) -> str:
        """One line, such as ``rows: 1,200 good, 3 bad (2 missing_file, 1 not_json)``."""
        text = f"rows: {self.good:,} good, {self.num_bad:,} bad"
        if self.num_bad:
            text += f" ({_counted(self.bad)})"
        if self.skipped:
            text += f"; left out: {_counted(self.skipped)}"
        return text


@dataclass(frozen=True)
class BadRows:
    """What becomes of bad rows.

    Attributes:
        max_share: reading stops where more than this share of the rows is bad, 0 to 1.
        min_rows: no sooner than after so many rows.
        rejects: a JSON Lines file that takes them, with their place and the reason; None only counts them. Every pass
            over the data writes it anew, and puts it there when it ends, for whatever reason.

    Raises:
        ConfigError: a share outside of 0 to 1, or no positive number of rows.
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
    """Counts the rows of one pass, sets bad ones aside, and stops where there are too many.

    Args:
        rule: what becomes of bad rows.
        what: is read, for messages.
    """

    def __init__(self, rule: BadRows, what: str) -> None:
        self._rule = rule
        self._what = what
        self._good = 0
        self._bad: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._examples: list[str] = []
        self._file: IO[str] | None = None
        self._temporary = Path()

    def __enter__(self) -> Self:
        if self._rule.rejects is not None:
            rejects = Path(self._rule.rejects)
            rejects.parent.mkdir(parents=True, exist_ok=True)
            # Several processes may read the same data: none of them shall write into another's file.
            self._temporary = temporary_sibling(rejects)
            self._file = self._temporary.open("x", encoding="utf-8", errors="replace")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and self._rule.rejects is not None:
            self._file.close()
            self._file = None
            os.replace(self._temporary, self._rule.rejects)

    @property
    def report(self) -> DataReport:
        """The counts so far."""
        rejects = None if self._rule.rejects is None else Path(self._rule.rejects)
        return DataReport(self._good, dict(self._bad), dict(self._skipped), tuple(self._examples), rejects)

    def add_good(self) -> None:
        """Count a row that can be used."""
        self._good += 1

    def skip(self, reason: str) -> None:
        """Count a row that the format leaves out."""
        self._skipped[reason] += 1

    def set_aside(self, place: Place, problem: RowError, raw: Any) -> None:
        """Count a bad row and write it to the rejects file.

        Args:
            place: where it stands.
            problem: why it is bad.
            raw: what stands there, as bytes of a line or as a value; cut to 2,000 characters.

        Raises:
            DataError: there are too many of them.
        """
        self._bad[problem.kind] += 1
        if len(self._examples) < _EXAMPLES:
            self._examples.append(f"{place}: {problem}")
        if self._file is not None:
            line = {"file": str(place.file), place.word: place.number, "kind": problem.kind, "reason": str(problem)}
            self._file.write(json.dumps(line | {"raw": raw_text(raw)}, ensure_ascii=False) + "\n")
        self._check_share()

    def finish(self) -> DataReport:
        """The counts of the whole pass.

        Raises:
            DataError: no row can be used, or too many are bad.
        """
        self._check_share()
        report = self.report
        if not report.good:
            found = report.describe() if report.num_bad or report.skipped else "no rows at all"
            raise DataError(f"{self._what}: expected rows that can be used, found {found}. {self._shown(report)}")
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
        shown = f"The first: {report.examples[0]}." if report.examples else ""
        return shown + (f" All of them are in {report.rejects}." if report.rejects and report.num_bad else "")


def raw_text(raw: Any) -> str:
    """The beginning of a raw row as text, for people.

    Args:
        raw: bytes of a line, or a value in which embedded files are replaced by their size.
    """
    if isinstance(raw, bytes):
        return raw[: 4 * _RAW_CHARACTERS].decode("utf-8", "replace").rstrip("\r\n")[:_RAW_CHARACTERS]
    return json.dumps(raw, ensure_ascii=False, default=_unprintable)[:_RAW_CHARACTERS]


def row_error(error: ValidationError) -> RowError:
    """The gravest of the rules that a row breaks, as a problem.

    Args:
        error: of a schema.
    """
    found = [(_kind(item["type"]), item) for item in error.errors(include_url=False, include_context=False)]
    order = ("one_side", "missing_key", "wrong_type", "too_long")
    kind, item = min(found, key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
    # The names of union members and tags, which pydantic puts in, say nothing to the writer of a row.
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
