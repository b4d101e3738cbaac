"""Track which images a server holds, so that each one is sent only once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from weakref import WeakValueDictionary

from flexgym.judge.backends.base import Picture

_IDS_KEPT = 4096


class HeldPictures:
    """Ids of the latest 4,096 images that one server has received.

    Use an instance within a single event loop only.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def upload(self, pictures: Iterable[Picture], send: Callable[[Picture], Awaitable[bool]]) -> set[str]:
        """Send the images that the server does not hold yet.

        If several requests share an image, the first one sends it and the others wait. If sending fails, the next
        request tries again.

        Args:
            pictures: images of a request.
            send: function that sends one image and returns True if the server accepted it.

        Returns:
            Ids of the images that the server now holds.
        """
        held = set()
        for picture in pictures:
            async with self._locks.setdefault(picture.id, asyncio.Lock()):
                if picture.id in self._ids or await send(picture):
                    held.add(picture.id)
                    self._remember(picture.id)
        return held

    def forget(self, ids: Iterable[str]) -> None:
        """Record that the server does not hold these images."""
        for picture_id in ids:
            self._ids.pop(picture_id, None)

    def clear(self) -> None:
        """Record that the server holds no images, as after a restart."""
        self._ids.clear()

    def _remember(self, picture_id: str) -> None:
        self._ids[picture_id] = None
        self._ids.move_to_end(picture_id)
        if len(self._ids) > _IDS_KEPT:
            self._ids.popitem(last=False)
