"""How many workers a roster has: it grows while units wait in vain, and shrinks when nobody needs so many.

Green. What is a matter of time is looked at in one sweep; the rules are in `dispatch`. `Roster` is the only one that is
Sizing.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from math import inf
from typing import TYPE_CHECKING

from lib.backend import dispatch
from lib.backend.crowd import Crowd
from lib.backend.staff import Staff

if TYPE_CHECKING:
    from lib.backend.groups import Login
    from lib.backend.pool import Pool
    from lib.backend.riders import Riders

_TELL_EVERY_S = 0.25


class Sizing(Staff):
    """What tells a roster how many workers there should be.

    batches        workers that take riders, the one that began first is first
    last_batch_at  when quick reads were last under way
    rider_limit    seconds up to which a read is quick; negative where none rides
    max_workers    beyond the formula only up to here; 0: the formula alone
    """

    def __init__(self, pool: Pool, login: Login) -> None:
        super().__init__(pool, login)
        self.batches: list[Riders] = []
        self.last_batch_at = -inf
        self.rider_limit: float  # as the settings are read
        self.max_workers: int
        self._crowd = Crowd()
        self._reads = 0.0  # quick ones under way and waiting; a peak that wears off
        self._tell_at = 0.0  # when those who wait are looked at again

    @abstractmethod
    def _offer(self) -> None:
        """Give what waits to whoever can take it now."""

    def sweep(self, now: float) -> None:
        """Keep every limit that is a matter of time."""
        settings = self.pool.settings
        if settings.query_wait_timeout:
            self._time_out(now - settings.query_wait_timeout)
        if settings.query_wait_notify and self.waiting and now >= self._tell_at:
            self._tell_at = now + _TELL_EVERY_S
            self._tell_waiting(now - settings.query_wait_notify)
        self._retire_oldest(now)
        self.look(now)
        reads = len(self.waiting.quick) + sum(len(batch.in_flight) for batch in self.batches)
        self._reads = max(reads, 0.9 * self._reads)
        if reads:
            self.last_batch_at = now
        if self.waiting and self.starting <= self.relayed:
            # The worker in the place of an unfit one could not be started, and what waits behind may well find it fit;
            # or the one that was kept for reads has not had any for a while.
            self._offer()
        if self._crowd.look(self._is_crowded(), now):
            self._grow_if_due(now)
            return
        for idle in self.idle[:]:
            shared, needed = self.shared, self.needed
            if dispatch.is_surplus(shared, needed, self.max_workers) or dispatch.may_shrink(
                shared, needed, now - idle.idle_since, settings.idle_timeout
            ):
                idle.retire()
        self.ensure()

    def look(self, now: float) -> None:
        """Keep the limits of what is in flight."""
        for worker in [worker for worker in self.workers if len(worker.in_flight) > 1]:
            worker.look(now)

    def _grow_if_due(self, now: float) -> None:
        settings, crowded_for = self.pool.settings, self._crowd.seconds
        # Nobody has to wait for a frontend that does not say who it is.
        shared = self.shared - (self.relayed if crowded_for >= settings.grow_after else 0)
        if now < self._paused_until or self._retry_is_due:
            return
        if dispatch.may_grow(shared, self.needed, self.max_workers, crowded_for, settings.grow_after):
            self._crowd.eased()
            self.grow()

    def _is_crowded(self) -> bool:
        """Whether one worker more would do some good at this moment."""
        waiting = self.waiting
        if waiting.alone or (waiting.quick and not self.idle):
            return True
        return not self.idle and not waiting.quick and self._could_spread()

    def _could_spread(self) -> bool:
        """Whether reads ride that would rather have a worker of their own: none that are cheap."""
        heads = [batch.in_flight[0] for batch in self.batches if len(batch.in_flight) > 1]
        known = heads[0].known if heads else None
        return known is not None and dispatch.would_spread(self.batches, known.cost_s, self.rider_limit)

    def _kept(self) -> int:
        """How many workers are kept for quick reads now."""
        if self.last_batch_at == -inf:
            return 0
        read_ago_s = time.monotonic() - self.last_batch_at
        return dispatch.kept_for_reads(self.shared - self.starting, self._reads, read_ago_s)
