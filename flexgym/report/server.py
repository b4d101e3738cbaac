"""Serve a report on this machine only, built again when its runs change."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flexgym.core.errors import ConfigError, FlexGymError
from flexgym.core.text import PlainLogger
from flexgym.report.page import build_page, escaped

HOST = "127.0.0.1"
_WATCHED = (
    "metrics.jsonl",
    "starts.jsonl",
    "config_newest",
    "report.json",
    "pairs.jsonl",
    "examples.jsonl",
    "records",
    "failed_samples",
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_log = PlainLogger(__name__)


class ReportSource:
    """A page that is built again when the files behind it change.

    Args:
        paths: run folders, and folders of evaluations.
        build: returns the page.
    """

    def __init__(self, paths: Sequence[Path], build: Callable[[], bytes]) -> None:
        self._paths, self._build = tuple(paths), build
        self._lock = threading.Lock()
        self._built, self._page = "", b""

    def version(self) -> str:
        """Return a digest of the names, sizes and times of the files behind the page."""
        found = hashlib.sha256()
        for path in self._paths:
            for name in _WATCHED:
                found.update(f"{path / name} {_state(path / name)}\n".encode("utf-8", "surrogateescape"))
        return found.hexdigest()[:20]

    def build(self) -> bytes:
        """Return the page of the present files, built now if they have changed.

        Raises:
            FlexGymError: they cannot be read.
        """
        with self._lock:
            version = self.version()
            if version != self._built:
                self._page, self._built = self._build(), version
            return self._page

    def page(self) -> bytes:
        """Return the page of the present files; a sentence where they cannot be read."""
        try:
            return self.build()
        except FlexGymError as error:
            return f"<!doctype html><title>FlexGym report</title><p>{escaped(str(error))}</p>".encode()


class ReportServer(http.server.ThreadingHTTPServer):
    """HTTP server of a report, which has two addresses: the page ``/`` and its ``/version``.

    No address leads to a file, and requests under another host name are rejected, so that no web page can read a report
    by a name that it points here.

    Args:
        source: the page.
        port: to listen on; 0 takes a free one.

    Raises:
        ConfigError: the port cannot be used.
    """

    daemon_threads = True

    def __init__(self, source: ReportSource, port: int) -> None:
        self.source = source
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port} of {HOST} cannot be used: {error}. Choose another --port") from error

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ReportServer
    server_version, sys_version = "FlexGym", ""
    timeout = 30

    def do_GET(self) -> None:  # noqa: N802 (named by http.server)
        """Answer with the page or its version."""
        names = {f"{host}:{self.server.server_port}" for host in (HOST, "localhost")}
        if self.headers.get("Host") not in names:
            self._answer(HTTPStatus.FORBIDDEN, b"Open the report as 127.0.0.1 or localhost.\n", "text/plain")
        elif self.path == "/":
            self._answer(HTTPStatus.OK, self.server.source.page(), "text/html; charset=utf-8")
        elif self.path == "/version":
            self._answer(HTTPStatus.OK, self.server.source.version().encode(), "text/plain")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"There is only one page: /\n", "text/plain")

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log requests for debugging only."""
        _log.debug(format, *args)


def live_source(paths: Sequence[Path]) -> ReportSource:
    """Return the live report of runs and evaluations; arguments as those of `build_page`."""
    return ReportSource(paths, lambda: build_page(paths, live=True))


def _state(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of a file, or of the entries of a folder."""
    try:
        entries = sorted(path.iterdir()) if path.is_dir() else [path]
        return [(entry.name, (about := entry.lstat()).st_size, about.st_mtime_ns) for entry in entries]
    except OSError:
        return []
