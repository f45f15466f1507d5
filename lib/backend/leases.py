"""The backends of one user and database on one server that are lent for whole sessions.

Green. A frontend gets an idle one that was started with its own startup packet, or a new one, or waits for its turn:
first come, first served. There are never more of them than max_workers (0: as many as the server takes).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from lib import modes
from lib.backend import dialogue
from lib.backend.crew import Crew
from lib.backend.lease import Lease, State
from lib.errors import NoWorkerInTime, ServerUnreachable

if TYPE_CHECKING:
    from lib.backend.freshness import Mark
    from lib.backend.groups import Login
    from lib.backend.pool import Pool
    from lib.route import Router

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # how often it is seen whether those who wait are still there
_SAY_AGAIN_S = 60.0


class Leases(Crew):
    """All of one user and database.

    workers    every one that is there
    idle       those that nobody has, the one given back last is last
    waiting    an Event for each frontend that waits, set when it is to look again
    last_login the one that a backend was started for last
    """

    def __init__(self, pool: Pool, user: str, database: str) -> None:
        super().__init__(pool, user, database)
        self._read_settings()
        self.workers: list[Lease] = []
        self.idle: list[Lease] = []
        self.waiting: deque[Event] = deque()
        self.last_login: Login | None = None
        self._said_at = float("-inf")

    def __repr__(self) -> str:
        return (
            f"<Leases {self.describe()} sessions={len(self.workers) - len(self.idle)} idle={len(self.idle)} "
            f"starting={self.starting} waiting={len(self.waiting)}>"
        )

    def _read_settings(self) -> None:
        settings = self.pool.settings
        self.limit = modes.mode_of(settings, self.user, self.database).max_workers
        self.client_buffer: int = settings.client_buffer

    def settings_changed(self) -> None:
        """A reload: the new limit holds for sessions that begin from now on."""
        self._read_settings()
        self._wake()

    @property
    def is_empty(self) -> bool:
        return not (self.workers or self.starting or self.waiting)

    @property
    def is_used(self) -> bool:
        """Whether somebody has one, or is about to."""
        return len(self.workers) > len(self.idle) or bool(self.waiting)

    @property
    def held(self) -> int:
        """How many somebody has."""
        return len(self.busy())

    # --- for a frontend that logs in ---------------------------------------------------------------------------------

    def needs_new(self, login: Login) -> bool:
        """Whether a frontend that comes now is to have a new backend."""
        return not (self.waiting or self.pool.is_held) and self._idle_of(login) is None and self._has_room()

    def _idle_of(self, login: Login) -> Lease | None:
        # What has something to say may be about to say goodbye.
        fit = (lease for lease in reversed(self.idle) if lease.login is login and not lease.stream.is_readable())
        return next(fit, None)

    def _has_room(self) -> bool:
        if self.limit and len(self.workers) - len(self.idle) + self.starting >= self.limit:
            return False
        return self.pool.has_room(self.user, self.database, True)

    def start(self, login: Login, answer: dialogue.Answer) -> Lease:
        """Start a backend with the packet of `login`; it is idle then. The pool hears how it went."""
        self.starting += 1
        self.last_login = login
        try:
            while self.limit and self.idle and len(self.workers) + self.starting > self.limit:
                self.idle[0].close()  # of another packet: idle ones of this one are taken before
            return self._start(login, answer)
        finally:
            self.starting -= 1
            self._wake()

    def _start(self, login: Login, answer: dialogue.Answer) -> Lease:
        backend = self.log_in(login, answer)
        lease = Lease(self, login, self.pool.next_worker_number(), backend)
        self.workers.append(lease)
        if self.pool.is_held:
            lease.hold()
        gevent.spawn(lease.run)
        # A login that only the server can check is passed on to it even when there is no room.
        if self.is_closed or (self.limit and len(self.workers) > self.limit):
            lease.close()
        else:
            self.idle.append(lease)
        return lease

    def take(
        self, login: Login, deadline: float, still_wanted: Callable[[], bool], started: Lease | None = None
    ) -> Lease:
        """A lease for a frontend of `login`, that nobody else gets any more. Waits for it.

        started   the one that was started for this login
        raises    NoWorkerInTime, ServerUnreachable when the server is given up, what the server says to a new one,
                  EOFError when the frontend has gone meanwhile
        """
        if started is not None and started.state is State.IDLE:
            return self._lent(started)
        place = Event()
        self.waiting.append(place)
        try:
            while True:
                if self.is_closed:
                    raise ServerUnreachable(f"{self.pool.describe()} was replaced while a session was about to begin")
                if self.waiting[0] is place and not self.pool.is_held:
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
        is_held = self.pool.is_held
        if now - self._said_at > _SAY_AGAIN_S and not is_held:
            self._said_at = now
            log.warning("%s: %d sessions are all that max_workers allows; others wait", self.describe(), self.limit)
        if now >= deadline:
            if is_held:
                raise self.primary_is_held()
            raise NoWorkerInTime(
                "no worker became free within query_wait_timeout",
                detail=f"{len(self.workers)} sessions of {self.describe()} are all that max_workers allows.",
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
        if lease in self.workers:
            self.workers.remove(lease)
            self.tally.processed += lease.processed
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
        for lease in self.workers[:]:
            lease.retire()

    def close(self) -> None:
        """The server is no longer used."""
        self.is_closed = True
        self.retire_all()

    def hold(self) -> None:
        """Nothing more is sent to the server; see Lease.hold."""
        for lease in self.workers:
            lease.hold()

    def hold_gently(self) -> bool:
        """Hold those sessions that are between two transactions: whether all are."""
        for lease in self.workers:
            if lease.state is not State.LENT or (lease.course.is_idle and lease.course.status == b"I"):
                lease.hold()
        return all(lease.stream.is_corked for lease in self.workers)

    def release(self) -> None:
        for lease in self.workers[:]:
            lease.release()
        self._wake()

    def abandon(self, reason: str) -> None:
        """The server is given up, and every session on it."""
        self.is_closed = True
        for lease in self.workers[:]:
            lease.abandon(reason)
        for place in self.waiting:
            place.set()

    def busy(self) -> list[Lease]:
        return [lease for lease in self.workers if lease.state is State.LENT]

    # --- what is known of the database -------------------------------------------------------------------------------

    @property
    def router(self) -> Router:
        return self.cluster.router(self.database)

    @property
    def mark(self) -> Mark | None:
        """Where writes are noted for those who read them on a standby; of sessions only what others read matters."""
        return self.cluster.replay.mark_for(self.database, False) if self.pool.is_primary else None
