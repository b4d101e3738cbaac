"""Find out whether a video file ends before its own headers say; ffmpeg reads the beginning of most such files."""

from __future__ import annotations

import os
from typing import IO

_MAX_BLOCKS = 10**6
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_ATOMS = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp", b"sidx"})


def is_cut_short(stream: IO[bytes]) -> bool:
    """Return True if a GIF, Matroska, MP4, QuickTime or WebM file lacks its end.

    A file of another or an unknown structure counts as complete. The position of the stream is kept.

    Args:
        stream: the file, seekable.
    """
    position = stream.tell()
    stream.seek(0)
    start = stream.read(8)
    try:
        if start.startswith(b"GIF8"):
            return not _ends_gif(stream)
        end = stream.seek(0, os.SEEK_END)
        if start.startswith(_EBML):
            return _end_of_segment(stream) > end
        return start[4:8] in _ATOMS and _end_of_atoms(stream, end) > end
    finally:
        stream.seek(position)


def _end_of_atoms(stream: IO[bytes], end: int) -> int:
    """Return where the atoms of an MP4 or QuickTime file end, or the first that ends beyond ``end``."""
    offset = 0
    for _ in range(_MAX_BLOCKS):
        stream.seek(offset)
        header = stream.read(16)
        if len(header) < 8 or offset >= end:
            return offset + (8 if header else 0)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:  # 0 for an atom that lasts to the end of the file
            return end
        offset += size
    return end


def _end_of_segment(stream: IO[bytes]) -> int:
    """Return where the segment of a Matroska or WebM file ends; 0 if it does not say."""
    stream.seek(4)
    header = _ebml_size(stream)
    if header is None:
        return 0
    stream.seek(header, os.SEEK_CUR)
    if stream.read(4) != _SEGMENT:
        return 0
    size = _ebml_size(stream)
    return 0 if size is None else stream.tell() + size


def _ebml_size(stream: IO[bytes]) -> int | None:
    """Read a length: as many bytes as the first has leading zero bits, and one. None if all other bits are 1."""
    first = stream.read(1)
    if not first or not first[0]:
        return None
    length = 8 - first[0].bit_length()
    value = int.from_bytes(first + stream.read(length), "big") - (1 << 7 * (length + 1))
    return None if value == (1 << 7 * (length + 1)) - 1 else value


def _ends_gif(stream: IO[bytes]) -> bool:
    """Return True if the blocks of a GIF file are complete up to its trailer."""
    stream.seek(10)
    flags = stream.read(1)
    stream.seek(13 + _table_bytes(flags))
    for _ in range(_MAX_BLOCKS):
        mark = stream.read(1)
        if mark == b";":
            return True
        if mark == b",":
            about = stream.read(9)
            stream.seek(_table_bytes(about[8:]) + 1, os.SEEK_CUR)
        elif mark == b"!":
            stream.seek(1, os.SEEK_CUR)
        else:
            return False
        while (length := stream.read(1)) > b"\0":
            stream.seek(length[0], os.SEEK_CUR)
    return True


def _table_bytes(flags: bytes) -> int:
    """Return the size of a color table by its flags: it is there by the highest bit, and the lowest three give it."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 128 else 0
