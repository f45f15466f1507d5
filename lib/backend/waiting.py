"""What waits for a worker: quick reads, which may ride, and all else, which wants a worker alone.

Pure. Both queues are oldest first. A unit that nobody wants any more is dropped when its turn comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from operator import attrgetter
from typing import Any

from lib.backend import dispatch

_LOOKED_AT = 64  # how many waiting units are searched for some that are alike
_queued_at = attrgetter("queued_at")


class Waiting:
    """The two queues of a roster.

    quick    reads that may ride
    alone    units and visits that want an idle worker
    """

    __slots__ = ("alone", "quick")

    def __init__(self) -> None:
        self.quick: deque[Any] = deque()
        self.alone: deque[Any] = deque()

    def __repr__(self) -> str:
        return f"<Waiting quick={len(self.quick)} alone={len(self.alone)}>"

    def __len__(self) -> int:
        return len(self.quick) + len(self.alone)

    def __iter__(self) -> Iterator[Any]:
        yield from self.quick
        yield from self.alone

    def add(self, unit: Any, is_quick: bool) -> None:
        (self.quick if is_quick else self.alone).append(unit)

    def put_back(self, unit: Any, is_quick: bool) -> None:
        """It was not run after all, and is the next to be."""
        (self.quick if is_quick else self.alone).appendleft(unit)

    def next_for(self, group: object, now: float, may_begin_batch: bool, may_be_alone: bool) -> Any | None:
        """Take what an idle worker that is tuned to `group` runs next: the oldest, or one close behind it that needs
        no re-tuning; None when there is nothing for it."""
        while (may_begin_batch and self.quick) or (may_be_alone and self.alone):
            queue = self.quick if may_begin_batch and self.quick else self.alone
            if may_be_alone and self.alone and self.alone[0].queued_at <= queue[0].queued_at:
                queue = self.alone
            index = dispatch.pick_unit(queue, group, now)
            unit = queue[index]
            del queue[index]
            if unit.is_wanted:
                return unit
        return None

    def next_fitting(self, fits: Callable[[Any], bool], may_begin_batch: bool, may_be_alone: bool) -> Any | None:
        """Take the oldest of whose group it fits, when an idle worker is not fit for all; None when there is none
        close to the front."""
        for queue, may in ((self.quick, may_begin_batch), (self.alone, may_be_alone)):
            for index, unit in enumerate(islice(queue, _LOOKED_AT if may else 0)):
                if unit.is_wanted and fits(unit.group):
                    del queue[index]
                    return unit
        return None

    def next_rider(self, group: object) -> Any | None:
        """Take the oldest quick read when it is of `group`."""
        quick = self.quick
        while quick:
            unit = quick.popleft()
            if not unit.is_wanted:
                continue
            if unit.group is group:
                return unit
            quick.appendleft(unit)
            return None
        return None

    def take_like(self, unit: Any, most: int) -> list[Any]:
        """Take up to `most` of those that want a worker alone, and are of the same shape and group as `unit`."""
        alike: list[Any] = []
        for other in islice(self.alone, _LOOKED_AT):
            if other.known is unit.known and other.group is unit.group and other.is_wanted and len(alike) < most:
                alike.append(other)
        for other in alike:
            self.alone.remove(other)
        return alike

    def sort(self, is_quick: Callable[[Any], bool]) -> None:
        """Have those ride that wanted a worker alone and are quick now."""
        alone, self.alone = self.alone, deque()
        self.quick = deque(sorted((*self.quick, *filter(is_quick, alone)), key=_queued_at))
        self.alone.extend(unit for unit in alone if not is_quick(unit))

    def drain(self) -> list[Any]:
        """Take everything, oldest first."""
        taken = sorted(self, key=_queued_at)
        self.quick.clear()
        self.alone.clear()
        return taken

    def queued_before(self, moment: float) -> list[Any]:
        """Take what has waited since before `moment`."""
        late = []
        for queue in (self.quick, self.alone):
            while queue and queue[0].queued_at < moment:
                late.append(queue.popleft())
        return late
