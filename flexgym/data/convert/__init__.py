"""Convert public data sets to FlexGym rows, such as by ``convert("hpdv3", "train.json", "pairs.jsonl")``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.data.convert import hpdv3, llama_factory, pickapic, rapidata, videodpo, videofeedback
from flexgym.data.convert.base import Format, LeftOut
from flexgym.data.problems import DataError, DataReport, RowError, Tally
from flexgym.data.raw import data_files, read_raw
from flexgym.data.raw_row import RawRow
from flexgym.data.reading import ReadOptions, checked_media, media_folder, raw_values
from flexgym.data.schema import PreferencePair, Row
from flexgym.data.shuffling import shuffle_sides
from flexgym.data.writing import MediaStore, RowWriter

FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        hpdv3.FORMAT,
        pickapic.FORMAT,
        rapidata.FORMAT,
        videofeedback.FORMAT,
        videofeedback.FORMAT_2,
        videodpo.FORMAT,
        llama_factory.FORMAT,
    )
}
"""Supported formats by name."""

LOW_CONFIDENCE = "below min_confidence"
"""Reason for skipping pairs whose label has a low confidence."""


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion.

    Attributes:
        path: the written file.
        written: number of written rows.
        report: counts of good and bad rows in the sources.
    """

    path: Path
    written: int
    report: DataReport


def find_format(name: str) -> Format:
    """Return the format with the given name.

    Raises:
        UnknownNameError: if there is none; the message suggests the nearest name.
    """
    if name not in FORMATS:
        raise unknown_name("data format", name, FORMATS)
    return FORMATS[name]


def convert(
    name: str,
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    options: ReadOptions | None = None,
    seed: int | None = 0,
    min_confidence: float = 0.0,
    overwrite: bool = False,
) -> Conversion:
    """Convert rows of a public format to FlexGym's JSON Lines.

    One row is in memory at a time. The output file appears when it is complete; an interrupted conversion starts again
    and reuses the media that were written. Images and videos embedded in the sources are stored once each in the folder
    ``<out>_media`` next to the output file; other media stay where they are.

    Args:
        name: name of the format, see `FORMATS`.
        sources: JSON, JSON Lines or Parquet files.
        out: path ending in ``.jsonl``.
        options: where media are, how they are checked, and how bad rows are handled.
        seed: seed of the coin that decides which candidate of a pair is first; None keeps the order of the format.
        min_confidence: smallest confidence of a label; less certain pairs are skipped.
        overwrite: replace an existing file.

    Raises:
        UnknownNameError: if there is no such format.
        ConfigError: if ``out`` exists or has another extension, or the confidence is not in ``[0, 1]``.
        DataError: if a source is missing or unreadable, too many rows are bad, or no rows remain.
    """
    form, files, options = find_format(name), data_files(sources), options or ReadOptions()
    if not 0.0 <= min_confidence <= 1.0:
        raise ConfigError(f"min_confidence: expected 0 to 1, got {min_confidence}")
    written = 0
    with RowWriter(out, overwrite=overwrite) as writer, Tally(options.bad, ", ".join(map(str, files))) as tally:
        store = MediaStore(writer.path.with_name(f"{writer.path.stem}_media"))
        reader = _Reader(form, options, tally, min_confidence=min_confidence)
        for row in form.finish(row.with_files(store.keep) for path in files for row in reader.rows(path)):
            if isinstance(row, PreferencePair) and seed is not None:
                row = shuffle_sides(row, seed)
            writer.write(row)
            written += 1
        report = tally.finish()
        if not written:
            raise DataError(f"{form.name}: expected pairs, but no prompt has two different samples")
    return Conversion(writer.path, written, report)


class _Reader:
    """Reader of the sources of one format, which counts good and bad rows."""

    def __init__(self, form: Format, options: ReadOptions, tally: Tally, *, min_confidence: float) -> None:
        self._form, self._options, self._tally, self._min_confidence = form, options, tally, min_confidence

    def rows(self, path: Path) -> Iterator[Row]:
        """Iterate over the good rows of one file, with absolute paths of their media."""
        folder = media_folder(path, self._options)
        for raw in read_raw(path):
            try:
                row = self._read(raw)
                if not isinstance(row, LeftOut):
                    row = checked_media(row, folder, self._options.check)
            except RowError as problem:
                self._tally.set_aside(raw.place, problem, raw.line if raw.values is None else raw.values)
                continue
            if isinstance(row, LeftOut):
                self._tally.skip(row.reason)
                continue
            self._tally.add_good()
            yield row

    def _read(self, raw: RawRow) -> Row | LeftOut:
        row = self._form.read(raw_values(raw))
        confidence = row.confidence if isinstance(row, PreferencePair) else None
        return LeftOut(LOW_CONFIDENCE) if confidence is not None and confidence < self._min_confidence else row


__all__ = ["FORMATS", "Conversion", "Format", "convert", "find_format"]
