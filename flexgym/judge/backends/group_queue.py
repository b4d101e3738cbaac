"""Which request a server gets next: those of one group stay together, since the server's caches hold its pictures."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, MutableMapping, Sequence

_HOMES_KEPT = 4096


class Homes(OrderedDict[Hashable, Hashable]):
    """Who worked on a group last, for the latest 4,096 groups."""

    def __setitem__(self, group: Hashable, taker: Hashable) -> None:
        super().__setitem__(group, taker)
        self.move_to_end(group)
        if len(self) > _HOMES_KEPT:
            self.popitem(last=False)


class GroupQueue:
    """Numbered requests, handed out group by group.

    Whoever comes gets the group that he works on, then one that he knows from an earlier queue, then one that is new to
    all, then one that another knows. When all groups are taken he helps with the longest, so nobody idles while there
    is work.

    Args:
        groups: the group of each request.
        homes: who worked on which group last; kept up to date.
    """

    def __init__(self, groups: Sequence[Hashable], homes: MutableMapping[Hashable, Hashable]) -> None:
        self._homes = homes
        self._requests: dict[Hashable, deque[int]] = {}
        for index, group in enumerate(groups):
            self._requests.setdefault(group, deque()).append(index)
        self._untaken: dict[Hashable, deque[Hashable]] = {None: deque()}  # groups by who knows them, None if nobody
        for group in self._requests:
            self._untaken.setdefault(homes.get(group), deque()).append(group)
        self._current: dict[Hashable, deque[int]] = {}

    def take(self, taker: Hashable) -> int | None:
        """The number of the next request for ``taker``; None when all have been taken."""
        if not self._current.get(taker):
            self._current[taker] = self._next_group(taker)
        mine = self._current[taker]
        return mine.popleft() if mine else None

    def _next_group(self, taker: Hashable) -> deque[int]:
        for groups in (self._untaken.get(taker), self._untaken[None], *self._untaken.values()):
            if groups:
                group = groups.popleft()
                self._homes[group] = taker
                return self._requests[group]
        return max(self._current.values(), key=len, default=deque())
