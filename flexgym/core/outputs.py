"""Standard output and error of which nobody reads any more, such as those of a terminal that was closed."""

from __future__ import annotations

import os
import select

_OUTPUTS = (1, 2)


def drop_lost_outputs() -> None:
    """Redirect standard output and error to nothing where their terminal or pipe is gone.

    What is written to them later, also from the buffers of Python, raises no error then.
    """
    poll = select.poll()
    for descriptor in _OUTPUTS:
        poll.register(descriptor, 0)  # errors are reported without being asked for
    for descriptor, events in poll.poll(0):
        if events & (select.POLLERR | select.POLLHUP):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, descriptor)
            os.close(nothing)


def write_error_line(text: str) -> None:
    """Write a line to standard error without buffers or locks, as a signal handler may; a lost output is no error."""
    drop_lost_outputs()
    try:
        os.write(2, f"\n{text}\n".encode())
    except OSError:  # lost in this moment, or a full disk under a log: a run is worth more than its output
        drop_lost_outputs()
