"""Data for judge training: three kinds of rows, readers and writers for them, and converters from public data sets."""

from __future__ import annotations

from flexgym.data.conversations import Question, as_chat, dpo_row, sft_row
from flexgym.data.files import Clip, MediaFile, Source, num_pictures
from flexgym.data.indexing import IndexedRows
from flexgym.data.media import check_source, load_frames, load_picture, load_pictures
from flexgym.data.messages import Message, Part
from flexgym.data.problems import BadRows, DataError, DataReport, RowError
from flexgym.data.reading import ReadOptions, RowStream, read_rows
from flexgym.data.schema import DPORow, PreferencePair, Row, SFTRow
from flexgym.data.shuffling import ORDERS, in_orders, shuffle_sides
from flexgym.data.writing import MediaStore, RowWriter, write_rows

__all__ = [
    "ORDERS",
    "BadRows",
    "Clip",
    "DPORow",
    "DataError",
    "DataReport",
    "IndexedRows",
    "MediaFile",
    "MediaStore",
    "Message",
    "Part",
    "PreferencePair",
    "Question",
    "ReadOptions",
    "Row",
    "RowError",
    "RowStream",
    "RowWriter",
    "SFTRow",
    "Source",
    "as_chat",
    "check_source",
    "dpo_row",
    "in_orders",
    "load_frames",
    "load_picture",
    "load_pictures",
    "num_pictures",
    "read_rows",
    "sft_row",
    "shuffle_sides",
    "write_rows",
]
