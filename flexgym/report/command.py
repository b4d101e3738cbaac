"""``flexgym report``: write the page, or serve it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flexgym.core.errors import ConfigError
from flexgym.core.files import teaching_disk_errors, write_atomic
from flexgym.core.terminal import say
from flexgym.report.page import build_page
from flexgym.report.server import ReportServer, live_source


def write_report(paths: Sequence[Path], out: Path) -> None:
    """Write the report of runs and evaluations to a file and print where it is.

    Args:
        paths: run folders, and folders of evaluations.
        out: the file; one that exists is replaced.

    Raises:
        ConfigError: a path that is no run, or a file that cannot be written.
    """
    page = build_page(paths)
    with teaching_disk_errors(f"the report cannot be written to {out}", ConfigError):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, page)
    say(f"Report: {out} ({len(page) / 1e6:.1f} MB). Open it in a browser.")


def serve_report(paths: Sequence[Path], port: int) -> None:
    """Serve the live report of runs and evaluations on this machine until Ctrl-C.

    Args:
        paths: run folders, and folders of evaluations.
        port: to listen on; 0 takes a free one.

    Raises:
        ConfigError: a path that is no run, or a port that cannot be used.
    """
    source = live_source(paths)
    source.build()
    with ReportServer(source, port) as server:
        say(f"Report: {server.address} (this machine only; Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("Stopped.")
