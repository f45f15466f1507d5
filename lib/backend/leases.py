"""The backends of one user and database on one server that are lent for whole sessions.

Green. A frontend gets an idle one that was started with its own startup packet, or a new one, or waits for its turn:
first come, first served. There are never more than `limit` of them (0: as many as the server takes).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from lib.backend import dialogue
from lib.backend.lease import Lease, State
from lib.errors import NoWorkerInTime, PoolError

if TYPE_CHECKING:
    from lib.backend.cluster import Login
    from lib.backend.freshness import Mark
    from lib.backend.pool import Pool
    from lib.route import Router

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # how often it is seen whether those who wait are still there
_SAY_AGAIN_S = 60.0


class Leases:
    """All of one user and database.

    leases     every one that is there
    idle       those that nobody has, the one given back last is last
    waiting    an Event for each frontend that waits, set when it is to look again
    starting   backends that are logging in
    last_login the one that a backend was started for last
    """

    def __init__(self, pool: Pool, user: str, database: str, limit: int) -> None:
        self.pool = pool
        self.cluster = pool.cluster
        self.user = user
        self.database = database
        self.limit = limit
        self.address = pool.address
        self.client_buffer = pool.settings.client_buffer
        self.leases: list[Lease] = []
        self.idle: list[Lease] = []
        self.waiting: deque[Event] = deque()
        self.starting = 0
        self.is_closed = False
        self.last_login: Login | None = None
        self._said_at = float("-inf")

    def __repr__(self) -> str:
        return (
            f"<Leases {self.describe()} sessions={len(self.leases) - len(self.idle)} idle={len(self.idle)} "
            f"starting={self.starting} waiting={len(self.waiting)}>"
        )

    def describe(self) -> str:
        return f"{self.user}@{self.database} on {self.pool.describe()}"

    @property
    def is_empty(self) -> bool:
        return not (self.leases or self.starting or self.waiting)

    @property
    def is_lent(self) -> bool:
        """Whether somebody has one, or is about to."""
        return len(self.leases) > len(self.idle) or bool(self.waiting)

    # --- for a frontend that logs in ---------------------------------------------------------------------------------

    def needs_new(self, login: Login) -> bool:
        """Whether a frontend that comes now is to have a new backend."""
        return not self.waiting and self._idle_of(login) is None and self._has_room()

    def _idle_of(self, login: Login) -> Lease | None:
        # What has something to say may be about to say goodbye.
        fit = (lease for lease in reversed(self.idle) if lease.login is login and not lease.stream.is_readable())
        return next(fit, None)

    def _has_room(self) -> bool:
        return not self.limit or len(self.leases) - len(self.idle) + self.starting < self.limit

    def start(self, login: Login, answer: dialogue.Answer) -> Lease:
        """Start a backend with the packet of `login`; it is idle then. The pool hears how it went."""
        self.starting += 1
        self.last_login = login
        try:
            while self.limit and self.idle and len(self.leases) + self.starting > self.limit:
                self.idle[0].close()  # of another packet: idle ones of this one are taken before
            return self._start(login, answer)
        finally:
            self.starting -= 1
            self._wake()

    def _start(self, login: Login, answer: dialogue.Answer) -> Lease:
        try:
            backend = dialogue.open_backend(
                self.address, login.startup, answer, self.pool.settings.connect_timeout, self.pool.cluster.approach
            )
        except PoolError as error:
            self.pool.start_failed(error)
            raise
        self.pool.start_succeeded(backend)
        lease = Lease(self, login, self.pool.next_worker_number(), backend)
        self.leases.append(lease)
        gevent.spawn(lease.run)
        # A login that only the server can check is passed on to it even when there is no room.
        if self.is_closed or (self.limit and len(self.leases) > self.limit):
            lease.close()
        else:
            self.idle.append(lease)
        return lease

    def take(
        self, login: Login, deadline: float, still_wanted: Callable[[], bool], started: Lease | None = None
    ) -> Lease:
        """A lease for a frontend of `login`, that nobody else gets any more. Waits for it.

        started   the one that was started for this login
        raises    NoWorkerInTime, what the server says to a new one, EOFError when the frontend has gone meanwhile
        """
        if started is not None and started.state is State.IDLE:
            return self._lent(started)
        place = Event()
        self.waiting.append(place)
        try:
            while True:
                if self.waiting[0] is place:
                    lease = self._idle_of(login)
                    if lease is not None:
                        return self._lent(lease)
                    if self._has_room():
                        break
                self._wait(place, deadline, still_wanted)
        finally:
            self.waiting.remove(place)
            self._wake()
        return self._lent(self.start(login, self.cluster.answer_for(login)))

    def _lent(self, lease: Lease) -> Lease:
        if lease in self.idle:
            self.idle.remove(lease)
            lease.state = State.LENT
        return lease

    def _wait(self, place: Event, deadline: float, still_wanted: Callable[[], bool]) -> None:
        now = time.monotonic()
        if now - self._said_at > _SAY_AGAIN_S:
            self._said_at = now
            log.warning("%s: %d sessions are all that max_workers allows; others wait", self.describe(), self.limit)
        if now >= deadline:
            raise NoWorkerInTime(
                "no worker became free within query_wait_timeout",
                detail=f"{len(self.leases)} sessions of {self.describe()} are all that max_workers allows.",
                hint="Raise max_workers, or have clients that do not need their session disconnect.",
            )
        place.wait(min(_LOOK_S, deadline - now))
        place.clear()
        if not still_wanted():
            raise EOFError

    def _wake(self) -> None:
        if self.waiting:
            self.waiting[0].set()

    # --- what becomes of leases --------------------------------------------------------------------------------------

    def lease_idle(self, lease: Lease) -> None:
        """It is clean, and anybody with its packet may have it."""
        lifetime = self.pool.settings.server_lifetime
        if self.is_closed or (lifetime and lease.idle_since - lease.started_at > lifetime):
            lease.close()
            return
        self.idle.append(lease)
        self._wake()

    def lease_gone(self, lease: Lease) -> None:
        if lease in self.idle:
            self.idle.remove(lease)
        if lease in self.leases:
            self.leases.remove(lease)
        self._wake()

    def sweep(self, now: float) -> None:
        """Close what has been idle, or there, for too long."""
        settings = self.pool.settings
        for lease in self.idle[:]:
            idles = settings.idle_timeout and now - lease.idle_since > settings.idle_timeout
            if idles or (settings.server_lifetime and now - lease.started_at > settings.server_lifetime):
                lease.close()

    def close_idle(self) -> bool:
        """The server is full: what nobody has goes. False when there was nothing."""
        idle = self.idle[:]
        for lease in idle:
            lease.close()
        return bool(idle)

    def retire_all(self) -> None:
        """Every one goes as soon as its session is over: what it logged in with, or as, has changed."""
        for lease in self.leases[:]:
            lease.retire()

    def close(self) -> None:
        """The server is no longer used."""
        self.is_closed = True
        self.retire_all()

    def busy(self) -> list[Lease]:
        return [lease for lease in self.leases if lease.state is State.LENT]

    # --- what is known of the database -------------------------------------------------------------------------------

    @property
    def router(self) -> Router:
        return self.cluster.router(self.database)

    @property
    def mark(self) -> Mark | None:
        """Where writes are noted for those who read them on a standby; of sessions only what others read matters."""
        return self.cluster.replay.mark_for(self.database, False) if self.pool.is_primary else None

    @property
    def customs(self) -> set[str]:
        """Names of custom settings that have been seen in the database."""
        return self.cluster.customs(self.database)

    def learn_customs(self, names: frozenset[str]) -> None:
        self.cluster.learn_customs(self.database, names)

    def catalog_changed(self) -> None:
        self.cluster.catalog_changed(self.database)
