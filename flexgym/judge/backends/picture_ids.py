"""Which pictures a server holds, so that each is sent to it once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from weakref import WeakValueDictionary

from flexgym.judge.backends.base import Picture

_IDS_KEPT = 4096


class HeldPictures:
    """The ids of the pictures that one server has seen, the latest 4,096 of them.

    To be used within one event loop.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def upload(self, pictures: Iterable[Picture], send: Callable[[Picture], Awaitable[bool]]) -> set[str]:
        """Send those of ``pictures`` that the server does not hold.

        Requests that share a picture wait for the first of them to send it. Should that one fail, the next one sends.

        Args:
            pictures: what a request shows.
            send: sends one picture; tells whether the server took it.

        Returns:
            The ids of ``pictures`` that the server holds now.
        """
        held = set()
        for picture in pictures:
            async with self._locks.setdefault(picture.id, asyncio.Lock()):
                if picture.id in self._ids or await send(picture):
                    held.add(picture.id)
                    self._remember(picture.id)
        return held

    def forget(self, ids: Iterable[str]) -> None:
        """Take note that the server does not hold these."""
        for picture_id in ids:
            self._ids.pop(picture_id, None)

    def clear(self) -> None:
        """Take note that the server holds nothing, as after a restart."""
        self._ids.clear()

    def _remember(self, picture_id: str) -> None:
        self._ids[picture_id] = None
        self._ids.move_to_end(picture_id)
        if len(self._ids) > _IDS_KEPT:
            self._ids.popitem(last=False)
