"""From public formats to rows of our own: ``convert("hpdv3", "train.json", "pairs.jsonl")``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.rm.data.convert import hpdv3, llama_factory, pickapic, rapidata, videodpo, videofeedback
from flexgym.rm.data.convert.base import Format, LeftOut
from flexgym.rm.data.problems import DataError, DataReport, RowError, Tally
from flexgym.rm.data.raw import RawRow, data_files, read_raw
from flexgym.rm.data.reading import ReadOptions, checked_media, media_folder, raw_values
from flexgym.rm.data.schema import PreferencePair, Row
from flexgym.rm.data.shuffling import shuffle_sides
from flexgym.rm.data.writing import MediaStore, RowWriter

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
"""The formats by name."""

LOW_CONFIDENCE = "below min_confidence"


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        path: the file that was written.
        written: rows in it.
        report: what was found in the sources.
    """

    path: Path
    written: int
    report: DataReport


def find_format(name: str) -> Format:
    """A format by its name.

    Raises:
        UnknownNameError: there is none; the message holds the nearest one.
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
    """Write the rows of a public format as JSON Lines of our own.

    One row is in memory at a time. The file appears when the last one is written; after an interruption the conversion
    starts again, and finds the media that it has written. Images and videos that stand in the sources go to the folder
    ``<out>_media`` beside the file, once each; other media stay where they are.

    Args:
        name: of the format, see `FORMATS`.
        sources: JSON, JSON Lines or Parquet files.
        out: ends in ``.jsonl``.
        options: where media are looked for, how they are checked, and what becomes of bad rows.
        seed: of the coin that puts the sides of each pair in order; None leaves them as the format has them.
        min_confidence: pairs are left out whose label is known to be less sure.
        overwrite: replace a file that is there.

    Raises:
        UnknownNameError: no such format.
        ConfigError: ``out`` is there already, or has another ending; a confidence outside of 0 to 1.
        DataError: a source is missing or broken as a whole, too many rows are bad, or nothing is left to write.
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
            raise DataError(f"{form.name}: expected pairs, but no prompt has two samples that differ")
    return Conversion(writer.path, written, report)


class _Reader:
    """Reads the sources of one format, and counts."""

    def __init__(self, form: Format, options: ReadOptions, tally: Tally, *, min_confidence: float) -> None:
        self._form, self._options, self._tally, self._min_confidence = form, options, tally, min_confidence

    def rows(self, path: Path) -> Iterator[Row]:
        """The good rows of one file, their media with absolute paths."""
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
        sure = row.confidence if isinstance(row, PreferencePair) else None
        return LeftOut(LOW_CONFIDENCE) if sure is not None and sure < self._min_confidence else row


__all__ = ["FORMATS", "Conversion", "Format", "convert", "find_format"]
