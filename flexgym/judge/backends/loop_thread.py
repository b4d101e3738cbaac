"""Event loop in its own thread, so that synchronous code can run many requests concurrently."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from flexgym.core.errors import JudgeUnavailableError

_T = TypeVar("_T")
_JOIN_TIMEOUT_S = 5.0


class LoopThread:
    """Run coroutines on behalf of callers in other threads.

    The thread starts with the first coroutine and never keeps the process alive.

    Args:
        name: name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine and wait for its result; an interrupted wait, such as by Ctrl-C, cancels the coroutine.

        Args:
            make: function that creates the coroutine.

        Returns:
            The result of the coroutine.

        Raises:
            JudgeUnavailableError: if the loop is closed before or during the wait.
        """
        loop = self._running_loop()
        future = asyncio.run_coroutine_threadsafe(make(), loop)
        try:
            return future.result()
        except CancelledError:
            raise JudgeUnavailableError("the backend was closed while waiting for its replies.") from None
        except BaseException:
            future.cancel()
            raise

    def close(self, clean_up: Callable[[], Awaitable[None]]) -> None:
        """Cancel all running coroutines, run ``clean_up`` in the loop and end the thread; repeated calls do nothing."""
        with self._guard:
            closed, self._closed = self._closed, True
        if self._loop is None or self._thread is None:
            return
        if not closed:
            asyncio.run_coroutine_threadsafe(_end(clean_up), self._loop)
        self._thread.join(_JOIN_TIMEOUT_S)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._closed:
                raise JudgeUnavailableError("the backend is closed: create a new one.")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    # One pass more, in which the sockets of the connections that were just aborted are closed.
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def _end(clean_up: Callable[[], Awaitable[None]]) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await clean_up()
    asyncio.get_running_loop().stop()
