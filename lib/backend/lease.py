"""A backend that one frontend has for its whole session, and that is lent to the next one of its like afterwards.

Green. Its thread reads. While it is lent, what it reads goes to the frontend as it is (`wire.course`); nothing is
refused, tuned or looked at on the way but for what decides whether anybody else may have it. Given back it is rolled
back and cleaned (DISCARD ALL), or closed where that does not undo all. It was started with the startup packet of its
frontend, so that what the session falls back to (RESET, DISCARD ALL) is what that frontend asked for; it is lent only
to frontends with the same packet.
"""

from __future__ import annotations

import logging
import time
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import gevent
from gevent.event import AsyncResult, Event

from lib import net
from lib.backend import dialogue, tuning
from lib.errors import BackendLost, PoolError, ProtocolViolation
from lib.route.verdict import Kind
from lib.wire import messages
from lib.wire.course import Course
from lib.wire.framing import header

if TYPE_CHECKING:
    from lib.backend.freshness import Mark
    from lib.backend.groups import Login
    from lib.backend.leases import Leases
    from lib.route import Router
    from lib.tlsfiles import Approach

log = logging.getLogger(__name__)

_CANCEL_TIMEOUT_S = 10.0
_CLEAN_TIMEOUT_S = 10.0  # a backend that does not get clean by then is closed
_PARSE = ord("P")
_MAY_COME_UNASKED = b"SNA"  # ParameterStatus, NoticeResponse, NotificationResponse


class Holder(Protocol):
    """The frontend of a session, as its backend sees it."""

    stream: net.Stream

    def answered(self) -> None:
        """All that was sent was answered, or nobody reads the answer any more."""

    def backend_lost(self) -> None:
        """The server has closed the connection; what it said last has been passed on."""

    def end(self, error: PoolError) -> None:
        """Say why, and close."""


class State(Enum):
    IDLE = "idle"  # for the next frontend with the same packet
    LENT = "lent"
    CLEANED = "cleaned"  # is being made fit for the next one
    CLOSED = "closed"


class _Exchange:
    """Statements of our own, sent as one Query each: what came back, in all."""

    def __init__(self, queries: int) -> None:
        self.left = queries
        self.rows = 0
        self.error: bytes | None = None
        self.done: AsyncResult = AsyncResult()


class Lease:
    """One backend and the green thread that reads from it.

    login       what it was started with
    holder      the frontend that has it
    course      of that frontend's session
    sent_at     when it was last sent something after all had been answered
    processed   how many statements it has answered
    last_s      how long the last one took
    retiring    closed as soon as nobody has it
    spoilt      the same: something in its session lasts longer than DISCARD ALL
    ddl         the catalog was changed in a transaction that is still open
    defines     a statement was prepared that may change the catalog whenever it is run
    """

    __slots__ = (
        "_answers", "_block_since", "_blocked", "_buffer", "_canceled", "_exchange", "_goodbye", "_mark",
        "_may_write", "_router", "_writes", "cancels", "course", "ddl", "defines", "holder", "idle_since", "key",
        "last_s", "login", "number", "parameters", "processed", "retiring", "roster", "sent_at", "spoilt",
        "started_at", "state", "stream",
    )  # fmt: skip

    def __init__(self, roster: Leases, login: Login, number: int, backend: dialogue.Backend) -> None:
        self.roster = roster
        self.login = login
        self.number = number
        self.stream = backend.stream
        self.parameters = backend.parameters
        self.key = backend.key
        self.state = State.IDLE
        self.holder: Holder | None = None
        self.course = Course()
        self.retiring = self.spoilt = self.ddl = self.defines = False
        self._router: Router
        self._mark: Mark | None = None
        self._writes = self._may_write = False  # what was sent last; statements that it has prepared
        self.started_at = self.idle_since = time.monotonic()
        self.sent_at = self.last_s = self._block_since = 0.0
        self.processed = self._answers = 0
        self.cancels = 0
        self._canceled: Event | None = None
        self._exchange: _Exchange | None = None
        self._goodbye = ""
        self._buffer = b""
        self._blocked = False

    def __repr__(self) -> str:
        return f"<Lease {self.number} {self.state.name} {self.roster.describe()} pid={self.key[0]}>"

    @property
    def log_fields(self) -> dict[str, object]:
        """What a line of the log about it says beside its message, where lines have fields."""
        pool = self.roster.pool
        return {
            "worker": self.number, "pool": pool.number, "server_pid": self.key[0], "user": self.login.user,
            "database": self.login.database,
        }  # fmt: skip

    # --- reading -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Read and pass on until the backend is gone."""
        reason = "the connection was closed by the server"
        try:
            while self.stream.recv(self._at_once) or self._blocked:
                self._blocked = False
                if self.holder is not None:
                    self.holder.stream.wait_drained(self.roster.client_buffer // 2)
        except ProtocolViolation as error:
            reason = error.message
        except Exception as error:
            log.exception("%r cannot go on", self)
            reason = f"internal error: {error!r}"
        self.close(self._goodbye or reason)

    def _at_once(self, data: bytes) -> bytes | None:
        holder = self.holder
        if holder is None:
            self._take(data)
            return None
        course, stream = self.course, holder.stream
        passed = course.received(data, self.parameters)
        if passed:
            stream.write(passed)
        if course.is_ready or stream.is_closed:
            if course.is_ready:
                self._count()
            if self.ddl or self._writes:
                self._note_writes()
            holder.answered()
        if stream.pending > self.roster.client_buffer:
            self._blocked = True  # it does not read: the backend waits, as it would without us
            return b""
        return None

    def _count(self) -> None:
        """All that was sent was answered."""
        tally, course = self.roster.tally, self.course
        seconds, answers = time.monotonic() - self.sent_at, course.answers - self._answers
        if answers > 0:
            self._answers = course.answers
            self.last_s = seconds
            self.processed += answers
            tally.session.run.add(seconds / answers, answers)
        if course.status != b"I" or self._block_since:
            tally.in_block_s += seconds
        if course.status != b"I":
            tally.in_blocks += answers
            self._block_since = self._block_since or self.sent_at
        elif self._block_since:
            tally.block_s += time.monotonic() - self._block_since
            self._block_since = 0.0

    def _take(self, data: bytes) -> None:
        """Messages while nobody has it: answers to the pool's own statements, or what a server says unasked."""
        data = self._buffer + data
        position = 0
        while len(data) - position >= 5:
            tag, length = header(data, position)
            if length < 4:
                raise ProtocolViolation("invalid message length from the server")
            end = position + 1 + length
            if end > len(data):
                break
            self._message(tag, data[position:end])
            position = end
        self._buffer = data[position:]

    def _message(self, tag: int, raw: bytes) -> None:
        exchange = self._exchange
        if tag == ord("S"):
            name, value = messages.read_parameter_status(raw)
            self.parameters[name] = value
        elif tag == ord("E"):
            fields = messages.error_fields(raw)
            if exchange is not None:
                exchange.error = exchange.error or raw
            if messages.severity(fields) in ("FATAL", "PANIC"):
                self._goodbye = f"{fields.get('C')} {fields.get('M')}"
        elif exchange is None:
            if tag not in _MAY_COME_UNASKED:
                raise ProtocolViolation(f"unexpected message type {raw[:1]!r} from an idle backend")
        elif tag == ord("D"):
            exchange.rows += 1
        elif tag == ord("Z"):
            exchange.left -= 1
            if not exchange.left:
                self._exchange = None
                exchange.done.set(exchange)

    # --- a session ---------------------------------------------------------------------------------------------------

    def lend(self, holder: Holder) -> None:
        self.state = State.LENT
        self.holder = holder
        self.course = Course()
        self._answers, self._block_since = 0, 0.0
        self._router, self._mark = self.roster.router, self.roster.mark

    def look(self, tag: int, body: bytes | None) -> None:
        """See what a Query or Parse may leave behind that DISCARD ALL does not take away, or change in the catalog."""
        if body is None:
            self.spoilt = self.ddl = self._writes = True  # too long to be looked at
            return
        name, _, text = body.partition(b"\0") if tag == _PARSE else (b"", b"", body)
        text = text.partition(b"\0")[0]
        known = self._router.known(text)
        verdict = known.verdict
        if verdict.kind >= Kind.WRITE:
            self._writes = True
            self._may_write = self._may_write or bool(name)
        if not known.marks:
            return
        if verdict.frees:
            self.roster.cluster.leaving.leave(verdict.frees)
        self.ddl = self.ddl or verdict.ddl
        self.defines = self.defines or (verdict.ddl and bool(name))
        if verdict.kind > Kind.WRITE or verdict.clean:
            self.spoilt = self.spoilt or verdict.spoils or self._names_custom_setting(tag, text)

    def _names_custom_setting(self, tag: int, text: bytes) -> bool:
        # A backend never forgets the name of one. In a Parse it may be a parameter, which nobody looks at.
        names = tuning.customs(text)
        if names:
            self.roster.learn_customs(names)
        return bool(names - self._own_customs) or (tag == _PARSE and b"set_config" in text.lower())

    @property
    def _own_customs(self) -> frozenset[str]:
        return tuning.placeholders(tuning.split(self.login.packet)[1])

    def _note_writes(self) -> None:
        if self.ddl and self.course.status == b"I":
            self.ddl = self.defines
            self.roster.catalog_changed()
        if self._mark is not None:
            self._mark.wrote(self.roster.pool.progress)
        self._writes = self._may_write

    def begin_marking(self) -> None:
        """There are standbys now, and reads there are to see what this session has written, if others' are."""
        self._mark = self.roster.mark
        if self._mark is not None:
            self._mark.wrote(self.roster.pool.progress)

    @property
    def approach(self) -> Approach | None:
        """How a cancel request gets there: encrypted if the backend's own connection is."""
        return self.roster.pool.cluster.approach if self.stream.is_encrypted else None

    def cancel(self) -> None:
        """Cancel what runs now; asked for by the frontend that has the session, so that it meets nobody else's."""
        self.cancels += 1
        gevent.spawn(self._cancel, self.holder)

    def _cancel(self, holder: Holder | None) -> None:
        certain = dialogue.cancel(
            self.roster.address, self.key, _CANCEL_TIMEOUT_S,
            lambda: self.state is State.LENT and self.holder is holder, self.approach,
        )  # fmt: skip
        self.spoilt = self.spoilt or not certain
        self.cancels -= 1
        if self._canceled is not None and not self.cancels:
            self._canceled.set()

    # --- between two sessions ----------------------------------------------------------------------------------------

    def give_back(self) -> None:
        """The session is over, and between two units: clean it for the next one, or close it."""
        self.holder = None
        if self.state is not State.LENT:
            return
        self.state = State.CLEANED
        gevent.spawn(self._clean, self.course.status)

    def _clean(self, status: bytes) -> None:
        if self.cancels:
            # A signal may still be on its way, and must not meet another session.
            self._canceled = Event()
            self._canceled.wait(_CANCEL_TIMEOUT_S + 1)
            self._canceled = None
        if self.retiring or self.spoilt or self.roster.is_closed or self.cancels:
            self.close()
            return
        rollback = () if status == b"I" else (tuning.ROLLBACK,)
        customs = self.roster.customs - self._own_customs
        steps = (*rollback, tuning.CLEAN, "RESET ROLE", *((tuning.ask_for(customs),) if customs else ()))
        answer = self._ask(*steps)
        if answer is None or answer.error is not None:
            told = messages.error_fields(answer.error).get("M") if answer and answer.error else "no answer"
            self.close(f"could not be cleaned: {told}")
        elif answer.rows or self.retiring:
            self.close()
        else:
            self.ddl = self.defines = self._writes = self._may_write = False
            self.idle_since = time.monotonic()
            self.state = State.IDLE
            self.roster.lease_idle(self)

    def _ask(self, *queries: str) -> _Exchange | None:
        """Run statements of our own; None when there was no answer in time."""
        if self.state is State.CLOSED:
            return None
        exchange = self._exchange = _Exchange(len(queries))
        self.stream.write(b"".join(map(messages.query, queries)))
        with gevent.Timeout(_CLEAN_TIMEOUT_S, False):
            return exchange.done.get()
        return None

    def hold(self) -> None:
        """Nothing more is sent to the server, which may be gone."""
        self.stream.cork()

    def release(self) -> None:
        self.stream.uncork()

    def abandon(self, reason: str) -> None:
        """The server is given up, and the session with it."""
        if self.holder is not None:
            lost = BackendLost("the server connection with the state of this session was lost", detail=reason)
            self.holder.end(lost)
        self.close(reason)

    def retire(self) -> None:
        """Close now when nobody has it, else when its session is over."""
        self.retiring = True
        if self.state is State.IDLE:
            self.close()

    def close(self, reason: str = "") -> None:
        """End the backend, and tell the frontend that has it. Called again it does nothing."""
        if self.state is State.CLOSED:
            return
        was, self.state = self.state, State.CLOSED
        if self.course.is_idle and not self._exchange and not self.stream.is_closed:
            self.stream.write(messages.TERMINATE)
        self.stream.close()
        self.roster.lease_gone(self)
        if reason:
            log.log(logging.WARNING if was is State.CLEANED else logging.INFO, "%r is closed: %s", self, reason)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.done.set(None)
        holder, self.holder = self.holder, None
        if self._writes:
            self._note_writes()  # it may have been committed
        if holder is not None:
            holder.backend_lost()
