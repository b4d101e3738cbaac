"""Queue that keeps the requests of a group on one server, whose caches already hold the group's images."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, MutableMapping, Sequence

_HOMES_KEPT = 4096


class Homes(OrderedDict[Hashable, Hashable]):
    """Server that last handled each group, kept for the latest 4,096 groups."""

    def __setitem__(self, group: Hashable, server: Hashable) -> None:
        super().__setitem__(group, server)
        self.move_to_end(group)
        if len(self) > _HOMES_KEPT:
            self.popitem(last=False)


class GroupQueue:
    """Queue of numbered requests, handed out group by group.

    A server gets requests of the group it is working on, then a group that it handled in an earlier queue, then a group
    that no server has handled, then a group that another server has handled. Once all groups are taken, it helps with
    the longest one, so no server is idle while requests remain.

    Args:
        groups: group of each request.
        homes: server that last handled each group; updated in place.
    """

    def __init__(self, groups: Sequence[Hashable], homes: MutableMapping[Hashable, Hashable]) -> None:
        self._homes = homes
        self._requests: dict[Hashable, deque[int]] = {}
        for index, group in enumerate(groups):
            self._requests.setdefault(group, deque()).append(index)
        self._untaken: dict[Hashable, deque[Hashable]] = {None: deque()}  # groups by last server, None if there is none
        for group in self._requests:
            self._untaken.setdefault(homes.get(group), deque()).append(group)
        self._current: dict[Hashable, deque[int]] = {}

    def take(self, server: Hashable) -> int | None:
        """Return the index of the next request for ``server``, or None if all requests have been taken."""
        if not self._current.get(server):
            self._current[server] = self._next_group(server)
        remaining = self._current[server]
        return remaining.popleft() if remaining else None

    def _next_group(self, server: Hashable) -> deque[int]:
        for groups in (self._untaken.get(server), self._untaken[None], *self._untaken.values()):
            if groups:
                group = groups.popleft()
                self._homes[group] = server
                return self._requests[group]
        return max(self._current.values(), key=len, default=deque())
