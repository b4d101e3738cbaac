"""Log messages of libraries, filtered for a while."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager


@contextmanager
def filtered_logs(names: Collection[str], keep: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
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


@contextmanager
def heard_warnings(names: Collection[str], hear: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Pass warnings of loggers to a filter inside this context, also where they are switched off.

    Args:
        names: names of the loggers.
        hear: as ``keep`` of `filtered_logs`.
    """
    loggers, disabled = [logging.getLogger(name) for name in names], logging.root.manager.disable
    before = [(logger.level, logger.disabled) for logger in loggers]
    try:
        logging.disable(logging.NOTSET)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
            logger.disabled = False
        with filtered_logs(names, hear):
            yield
    finally:
        logging.disable(disabled)
        for logger, (level, off) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.disabled = off
