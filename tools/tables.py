"""Plain text tables for the terminal and for the logs of CI."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Pad columns to their widest cell, under a ruled header.

    Args:
        header: names of the columns.
        rows: one cell per column each.

    Returns:
        The table, without a trailing newline.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
