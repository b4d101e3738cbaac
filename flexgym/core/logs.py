"""Log messages of libraries, filtered for a while."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def filtered_logs(names: Iterable[str], keep: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Filter what loggers report, inside this context.

    Args:
        names: names of the loggers; those below them are not filtered.
        keep: returns True for a record to keep; what it raises reaches whoever logs.
    """
    loggers = [logging.getLogger(name) for name in names]
    try:
        for logger in loggers:
            logger.addFilter(keep)
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(keep)
