"""A frontend in session mode: one backend from login to disconnect, and nothing in between but bytes.

Green. What the frontend sends goes to its backend as it is; `backend.lease` does the same the other way. Nothing is
gathered, classified or refused, so that all that works directly works here. Only three things are ours: a Terminate
ends the session and not the backend, a cancel comes on another connection, and the pool may say goodbye between two
statements.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from lib import modes
from lib.backend.dialogue import Answer
from lib.backend.lease import Lease, State
from lib.errors import IdleTooLong, PoolError, ServerRefused, ServerUnreachable, ShuttingDown
from lib.patience import Doing
from lib.wire import messages

if TYPE_CHECKING:
    from lib import net
    from lib.backend.cluster import Cluster
    from lib.backend.groups import Login
    from lib.backend.leases import Leases

_HIGH_WATER, _LOW_WATER = 262_144, 65_536  # bytes on the way to a backend that does not read
_LOOK_S = 1.0  # how often it is seen whether one who waits is still there
_READ_OUT_S = 10.0  # how long a frontend that was ended may take to read what it was told


class Placement:
    """Where a session is going to be: on the primary, or, for one that only reads, on the standbys in turn, and on the
    primary when there is none that takes it."""

    def __init__(self, cluster: Cluster, user: str, database: str, packet: tuple[tuple[str, str], ...]) -> None:
        self._cluster = cluster
        self.login: Login = cluster.login(user, database, tuple(sorted(packet)))
        self._pool = cluster.primary
        self._reads = False

    @property
    def leases(self) -> Leases:
        return self._pool.leases(self.login.user, self.login.database)

    def choose_standby(self) -> None:
        """The next standby that is up, or the primary."""
        self._reads = True
        self._pool = self._cluster.next_standby() or self._cluster.primary

    def needs_new(self) -> bool:
        return not self._cluster.pause.holds(self.login.database) and self.leases.needs_new(self.login)

    def start(self, answer: Answer) -> Lease:
        return self.leases.start(self.login, answer)

    def take(self, started: Lease | None, still_wanted: Callable[[], bool]) -> Lease:
        """The backend for the session; waits for it as long as a statement may wait for a worker.

        started   what was started for this login already
        raises    PoolError to be told to the frontend, EOFError when it has gone
        """
        settings = self._cluster.settings
        patience_s = settings.query_wait_timeout or float("inf")
        deadline = time.monotonic() + patience_s
        while True:
            deadline += self._wait_for_resume(still_wanted)
            try:
                lease = self.leases.take(self.login, deadline, still_wanted, started)
                if lease.state is State.LENT:
                    return lease
                raise ServerUnreachable("the server closed the connection unexpectedly while a session began")
            except PoolError as error:
                makes_room = _is_full(error) and self._pool.close_idle_leases()
                if not (makes_room or _is_passing(error)) or time.monotonic() + settings.login_retry > deadline:
                    raise
            started = None
            was_down = self._pool.is_down
            if self._reads:
                self.choose_standby()
            else:
                self._pool = self._cluster.primary  # which may be another server by now
            if was_down:
                continue  # there is another one, and that one is not tried again before it was probed
            gevent.sleep(settings.login_retry)
            if not still_wanted():
                raise EOFError

    def _wait_for_resume(self, still_wanted: Callable[[], bool]) -> float:
        """For as long as the database is paused; how long that was."""
        began, pause = time.monotonic(), self._cluster.pause
        while pause.holds(self.login.database):
            pause.wait(_LOOK_S)
            if not still_wanted():
                raise EOFError
        return time.monotonic() - began


def _is_full(error: PoolError) -> bool:
    return isinstance(error, ServerRefused) and error.sqlstate == "53300"


def _is_passing(error: PoolError) -> bool:
    """Whether the server is not there, starting or stopping. One that is full says so to the frontend, as directly."""
    return isinstance(error, ServerUnreachable) or error.sqlstate[:3] == "57P"


class SessionFrontend:
    """One client connection that has a backend for itself.

    key       (pid, secret) that it was told: the pid is the backend's own where that is not taken
    silence   since when it is idle, where that has a limit
    asked     its startup packet, as it came
    is_gone   it was told to go
    """

    __slots__ = (
        "__weakref__", "_is_stopping", "_wake", "asked", "cluster", "is_gone", "key", "lease", "login", "peer",
        "settings", "silence", "stream",
    )  # fmt: skip

    def __init__(
        self, stream: net.Stream, cluster: Cluster, lease: Lease, key: tuple[int, bytes], peer: str
    ) -> None:
        self.stream = stream
        self.cluster = cluster
        self.settings = cluster.settings
        self.login = lease.login
        self.lease: Lease | None = lease
        self.key = key
        self.peer = peer
        self.silence: modes.Silence | None = None
        self.asked: messages.Startup | None = None
        self.is_gone = False
        self._is_stopping = False
        self._wake: Event | None = None
        lease.lend(self)

    def __repr__(self) -> str:
        lease = self.lease
        status = f" status={lease.course.status.decode()}" if lease is not None else ""
        gone = " gone" if self.is_gone else ""
        return f"<SessionFrontend {self.key[0]} {self.peer} {self.login.user}@{self.login.database}{status}{gone}>"

    @property
    def log_fields(self) -> dict[str, object]:
        """What a line of the log about it says beside its message, where lines have fields."""
        known = self.lease.log_fields if self.lease is not None else {}
        return {**known, "frontend": self.key[0], "client": self.peer} | {
            "user": self.login.user, "database": self.login.database,
        }  # fmt: skip

    @property
    def greeting(self) -> bytes:
        """What follows AuthenticationOk: the parameters are those of the session, as its own server said them."""
        assert self.lease is not None
        parts = [messages.parameter_status(name, value) for name, value in self.lease.parameters.items()]
        return b"".join((*parts, messages.backend_key_data(*self.key), messages.READY[b"I"]))

    # --- reading -----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Pass on until one of both sides is gone."""
        recv, at_once = self.stream.recv, self._at_once
        try:
            while recv(at_once) and self.lease is not None:
                self.lease.stream.wait_drained(_LOW_WATER)
        finally:
            self._leave()

    def _at_once(self, data: bytes) -> bytes | None:
        """Pass on what has arrived; the thread is woken at the end, and when the backend does not read."""
        lease = self.lease
        if lease is None or self.is_gone:
            return b""
        if self.silence is not None:
            self.silence.heard = True
        course, stream = lease.course, lease.stream
        if course.is_ready:
            lease.sent_at = time.monotonic()
        passed = course.sent(data, lease.look)
        if passed:
            stream.write(passed)
        if course.has_ended:
            return b""
        return data if stream.pending > _HIGH_WATER else None

    # --- being told --------------------------------------------------------------------------------------------------

    def answered(self) -> None:
        """The backend has nothing more to say to what it was sent."""
        if self._wake is not None:
            self._wake.set()
        if self._is_stopping:
            self.stop()

    def backend_lost(self) -> None:
        """The server has gone. Its goodbye, if it said one, has been passed on, and there is nothing to add."""
        self.lease = None
        self._let_go()

    def cancel(self) -> None:
        if self.lease is not None:
            self.lease.cancel()

    @property
    def status(self) -> bytes:
        """Transaction status."""
        return self.lease.course.status if self.lease is not None else b"I"

    @property
    def backend(self) -> Lease | None:
        """What runs its statements: a lease, for as long as it is here."""
        return self.lease

    def doing(self) -> tuple[Doing, object]:
        """What it does at this moment, and what tells that from the last time that it did so."""
        lease = self.lease
        if lease is None:
            return Doing.IDLE, None
        course = lease.course
        if not course.is_ready:
            return Doing.RUNNING, course.answers
        return (Doing.IN_TRANSACTION if course.status != b"I" else Doing.IDLE), course.answers

    def cancel_late(self, limit_s: float) -> None:
        """Cancel what runs, and say why: the server will only say that somebody wanted it."""
        if self.lease is not None:
            if not self.lease.course.is_mid_message:
                self.stream.write(messages.late_notice(limit_s))
            self.cancel()

    def watch_silence(self, silence: modes.Silence | None) -> None:
        """Whether there is a limit to how long it may be idle has changed."""
        self.silence = silence

    def look(self, now: float) -> None:
        """End it when it has been idle for longer than active_cnn_timeout."""
        lease = self.lease
        if self.silence is None or lease is None or self.is_gone:
            return
        idle_s = self.silence.look(now, not lease.course.is_idle or self.stream.pending > 0)
        if idle_s > self.settings.active_cnn_timeout:
            self.end(IdleTooLong("terminating connection due to idle-session timeout"))

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The pool is being stopped: goodbye as soon as the statement in flight has answered."""
        self._is_stopping = True
        if not self.is_gone and (self.lease is None or self.lease.course.is_idle):
            self.end(ShuttingDown("terminating connection due to administrator command"))

    def end(self, error: PoolError) -> None:
        """Say why, and close."""
        if self.is_gone:
            return
        self.cluster.tallies.told(self.login.user, self.login.database, error.sqlstate)
        if self.lease is None or not self.lease.course.is_mid_message:
            self.stream.write(messages.error_response(error, "FATAL"))
        self._let_go()

    def _let_go(self) -> None:
        # Its thread leaves. What it was told before it may still read.
        self.is_gone = True
        if self._wake is not None:
            self._wake.set()
        if not self.stream.is_closed:
            self.stream.stop_reading()

    def _leave(self) -> None:
        """Give the backend back when the session is over as sessions end, else have it end as with its client."""
        self._wait_for_answers()
        lease, self.lease = self.lease, None
        self.is_gone = True
        if lease is not None:
            lease.holder = None
            if lease.course.is_idle:
                lease.give_back()
            else:
                lease.close()
        if self.stream.pending:
            with gevent.Timeout(_READ_OUT_S, False):
                self.stream.wait_drained()
        self.stream.close()

    def _wait_for_answers(self) -> None:
        # What it has sent before its goodbye runs, as it does on a server, which is told of the goodbye then and goes.
        # Half a message or half a COPY does not run.
        lease = self.lease
        if lease is None or self.is_gone or lease.course.is_idle or lease.course.is_cut:
            return
        lease.stream.write(messages.TERMINATE)
        while not (self.lease is None or self.is_gone or self.stream.is_closed):
            self._wake = Event()
            self._wake.wait()
        self._wake = None
