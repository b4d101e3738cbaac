"""Paths that may be URLs of a store."""

from __future__ import annotations

import re
from pathlib import Path

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)


def url_of(path: str | Path) -> str | None:
    """Return a path as a URL, without a slash at its end; None if it is a path of this machine.

    A `Path` made from a URL has lost a slash, which is put back.
    """
    match = _URL.fullmatch(str(path))
    if match is None:
        return None
    start = "/" if match[1] in ("file", "local") else ""
    return f"{match[1]}://{start}{match[2].strip('/')}"
