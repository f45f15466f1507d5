"""A green thread that owns one backend, and passes answers on.

Green. The thread always reads, and `Relay` passes on what it reads; others write to the backend through `put`, and
`Riders` lets quick reads in behind. What is in flight stands in a deque, oldest first: frontends' units, or an exchange
of the worker's own (tuning, cleaning). A read that leaves nothing behind has a worker without holding it.

Whatever happens to a frontend, its worker is brought back to idle, or closed; and a worker that says anything that
nobody asked for is closed, because the next one it is lent to would hear it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

import gevent

from lib.backend import dialogue, traces, tuning
from lib.backend.riders import Riders
from lib.backend.unit import EXTENDED, SIMPLE, SOMEBODYS, Exchange, Unit, Visit
from lib.errors import ProtocolViolation
from lib.route.learned import SPOILING
from lib.route.verdict import Kind
from lib.wire import messages

if TYPE_CHECKING:
    from lib.backend.cluster import Group
    from lib.backend.roster import Roster
    from lib.frontend import Frontend

log = logging.getLogger(__name__)

_CANCEL_TIMEOUT_S = 10.0
_MAX_ASKS = 8  # statements of one transaction that are blamed for what it has left
_MAX_LOSSES = 5  # backends that may die with a read behind others on them, before it counts as the one that died


class State(Enum):
    IDLE = "idle"  # in its roster, for anybody
    BUSY = "busy"  # something is in flight
    HELD = "held"  # between two units of the frontend that has it
    CLOSED = "closed"


class Worker(Riders):
    """One backend and the green thread that reads from it.

    group         what it is tuned to
    unclean       nobody else gets it before DISCARD ALL
    spoilt        nobody else gets it at all: it may know a custom setting, and a backend never forgets the name of one
    placeholders  names of custom settings that the backend knows since it was tuned to them
    is_lost       its end was not ours, nor that of a frontend which left it in the middle of something
    unsure        it may know custom settings that no text has shown
    asks          statements that may have left something no text shows: it is asked before it is cleaned
    drew          it may know numbers that somebody drew from sequences, for currval() and lastval()
    ddl           the catalog was changed in a transaction that is still open
    defines       a statement was prepared that may change the catalog whenever it is run
    """

    __slots__ = (
        "_after_cancel",
        "_left_by",
        "_resume",
        "asks",
        "cancels",
        "ddl",
        "defines",
        "drew",
        "group",
        "idle_since",
        "is_lost",
        "key",
        "number",
        "placeholders",
        "spoilt",
        "started_at",
        "state",
        "unclean",
        "unsure",
    )

    def __init__(self, roster: Roster, number: int, backend: dialogue.Backend) -> None:
        super().__init__(roster, backend)
        self.number = number
        self.key = backend.key
        self.group: Group = roster.bare_group
        self.state = State.IDLE
        self.unclean = self.spoilt = self.ddl = self.defines = self.drew = False
        self.placeholders: frozenset[str] = frozenset()
        self.unsure = self.is_lost = False
        self.asks: list[bytes] = []
        self._left_by: Frontend | None = None  # whose it was last
        self.cancels = 0
        self.started_at = self.idle_since = time.monotonic()
        self._after_cancel: Unit | Visit | None = None  # waits until the server has closed the cancel connection
        self._resume: Callable[[], None] | None = None  # so does what comes without a unit

    def __repr__(self) -> str:
        held = " session" if self.session else ""
        busy = f" in_flight={len(self.in_flight)}"
        return f"<Worker {self.number} {self.state.name}{held} {self.roster.describe()}{busy}>"

    def may_serve(self, group: Group) -> bool:
        """Whether nothing of earlier groups would show in `group`: the name of a custom setting never goes away."""
        return not self.placeholders or self.placeholders <= group.placeholders

    # --- taking work -------------------------------------------------------------------------------------------------

    def put(self, unit: Unit | Visit) -> None:
        """Have `unit` run. The worker is idle, or held by the unit's frontend and between two units."""
        self.state = State.BUSY
        if self.cancels:
            # A CancelRequest may still be on its way to this backend, and must not meet another statement.
            self._after_cancel = unit
        elif not unit.is_wanted:
            self.reclaim(self.holder.status if self.holder else b"I")
        elif self.drew and self.holder is None and isinstance(unit, Unit) and unit.verdict.kind is Kind.OPAQUE:
            # A function or a default that asks for currval() must not be answered with what a neighbour drew.
            self._tune(unit, tuning.FORGET_NUMBERS)
        elif self.group is unit.group or self.holder is not None:  # who holds it is never tuned to anything else
            self._send(unit)
        else:
            self._tune(unit, unit.group.tuning)

    def _send(self, unit: Unit | Visit) -> None:
        if isinstance(unit, Visit):
            self.state = State.IDLE
            unit.arrived()
            self.reclaim()
            return
        unit.worker = self
        self.in_flight.append(unit)
        data = unit.prepared(self) if unit.wants_unnamed else unit.data
        if unit.known is not None and self.roster.batches:
            self.stream.write_later(data)  # the server has something to do until the end of the turn
        else:
            self.stream.write(data)
        if unit.known is not None and self.holder is None:
            self.begin_batch(unit)
        else:
            self.holder = unit.frontend
        if unit.open:
            unit.frontend.notify()
        if unit.is_canceled:
            self.cancel(unit)

    def _tune(self, unit: Unit | Visit, sql: str) -> None:
        def tuned(exchange: Exchange) -> None:
            if exchange.error is not None:
                # Who knows what it is tuned to now: the worker goes, and the frontend is told why. Unless it was tuned
                # to another group before, whose statement_timeout (say) held until now: then a new worker tries.
                was_bare = self.group in (self.roster.bare_group, self.roster.cleaned_group)
                self.close()
                if not was_bare:
                    self.roster.requeue(unit)
                elif unit.is_wanted:
                    unit.refuse(exchange.error)
                return
            if sql == tuning.FORGET_NUMBERS:
                self.drew = False
            else:
                self.group = unit.group
            self.unnamed = None  # as after every simple query
            self.placeholders |= unit.group.placeholders
            self.roster.group_seen(self)
            self.put(unit)

        self.in_flight.append(_Tuning(unit, tuned))
        self.stream.write(messages.query(sql))

    def run_restore(self, sql: str, then: Callable[[], None]) -> None:
        """Bring back startup values that the holder's RESET has taken away; `then` is called when they are."""

        def restored(exchange: Exchange) -> None:
            self.state = State.HELD
            self.unnamed = None
            if exchange.error is not None:
                log.warning("%r could not restore startup settings: %s", self, messages.error_fields(exchange.error))
            then()

        self.state = State.BUSY
        if self.cancels:
            self._resume = lambda: self.run_restore(sql, then)
            return
        self.in_flight.append(Exchange("restore", restored))
        self.stream.write(messages.query(sql))

    def run(self) -> None:
        """Read and pass on until the backend is gone."""
        reason = "the connection was closed by the server"
        try:
            while data := self.stream.recv():
                head = self.in_flight[0] if self.in_flight else None
                if head.__class__ is Unit and head.known is not None:
                    at, since, processed = time.monotonic(), self.head_since, self.processed
                    self._feed(data)
                    self.learn(head, self.processed - processed, len(data), since, at)
                    if self.open_to is not None and self.roster.waiting.quick:
                        self.roster.fill(self)
                else:
                    self._feed(data)
                if self.parameters_changed and (self.state is State.IDLE or self.open_to is not None):
                    self.roster.group_seen(self)  # a server reload: the whole group is told
                if self._blocked_by is not None:
                    self._wait_for_reader(self._blocked_by)
        except ProtocolViolation as error:
            reason = error.message
        except Exception as error:
            log.exception("%r cannot go on", self)
            reason = f"internal error: {error!r}"
        self.is_lost = self.holder is None or not self.holder.is_gone
        self.close(reason)

    def _wait_for_reader(self, blocked_by: Frontend) -> None:
        """A frontend that does not read stops its own worker: the backend waits as it would without us."""
        self._blocked_by = None
        if self.in_flight and blocked_by.unit is self.in_flight[0]:
            self.move_riders()
        elif blocked_by is not self.holder:
            return
        blocked_by.stream.wait_drained(self.roster.client_buffer // 2)

    # --- the end of a unit -------------------------------------------------------------------------------------------

    def _ready(self, status: bytes) -> None:
        if not self.in_flight:
            raise ProtocolViolation("a ReadyForQuery that nobody asked for")
        unit = self.in_flight[0]
        if isinstance(unit, Exchange):
            self.in_flight.popleft()
            unit.then(unit)
            return
        if unit.known is not None and self.holder is None:
            self._read_ready(unit, status)
            return
        if unit.script is not None and not unit.script.is_done:
            return  # a Query inside an unsynced unit: its ReadyForQuery is not the last
        self.in_flight.popleft()
        self.processed += 1
        frontend, verdict = unit.frontend, unit.verdict
        self._note_unnamed(unit)
        if verdict.kind >= Kind.WRITE or verdict.clean or unit.names or self.ddl:
            self._note_marks(unit, status)
        self.state = State.HELD
        frontend.worker = self if status != b"I" or self.session else None
        if unit.cut:
            # A CopyData is half sent: the backend would take what comes next for its rest.
            if frontend.worker is None:
                self.holder = None
            self.close("a COPY ended in the middle of a message")
        elif frontend.is_gone or frontend.worker is None:
            self.reclaim(status)
        frontend.unit_done(unit, status)

    def _read_ready(self, unit: Unit, status: bytes) -> None:
        """A read that nobody holds the worker for was answered: whoever rides behind it is next."""
        in_flight, frontend = self.in_flight, unit.frontend
        in_flight.popleft()
        self.processed += 1
        if status != b"I":
            self._shared_badly(unit, status)
            return
        if not in_flight:
            self._note_unnamed(unit)
            self._drained()
        frontend.unit_done(unit, status)

    def _drained(self) -> None:
        self.close_batch()
        self.reclaim()

    def _note_unnamed(self, unit: Unit) -> None:
        # Of what is in flight this was the last, so that the unnamed statement is what it has left.
        if unit.kind == SIMPLE:
            self.unnamed = None
        elif unit.kind == EXTENDED and (unit.failed or unit.wants_unnamed or unit.parse_unnamed or unit.drops_unnamed):
            self.unnamed = SOMEBODYS if unit.failed else unit.unnamed_after(unit.frontend.unnamed)

    def _shared_badly(self, unit: Unit, status: bytes) -> None:
        """A read that was taken for harmless has left a transaction open: nobody else may see anything of it."""
        log.error("%r: a statement taken for a harmless read left transaction status %s: %r", self, status, unit)
        unit.frontend.status = status
        self.close("it was shared, and has a transaction open")
        unit.frontend.backend_lost(self, None, {})

    def _note_marks(self, unit: Unit, status: bytes) -> None:
        # What the unit may have left behind on the backend, for when it is given back.
        verdict = unit.verdict
        self.drew = self.drew or verdict.kind >= Kind.WRITE
        self._note_customs(unit)
        self.unclean = self.unclean or verdict.clean or bool(verdict.resets)
        self.defines = self.defines or (unit.names and verdict.ddl)
        self.ddl = self.ddl or verdict.ddl or (self.defines and unit.kind == EXTENDED)
        if verdict.holds or unit.names:
            self.session = self.unclean = True
            self.spoilt = self.spoilt or (verdict.holds and b"." in unit.data)
        self.spoilt = self.spoilt or verdict.spoils
        if verdict.kind is Kind.OPAQUE and not verdict.holds and not unit.failed and len(self.asks) < _MAX_ASKS:
            self.asks += [text for text in unit.texts if unit.frontend.router.asks_after(text)]
        if self.ddl and status == b"I":
            self.ddl = False
            self.roster.catalog_changed()

    def _note_customs(self, unit: Unit) -> None:
        # A streamed unit is not kept, and what OPAQUE ones run is not seen: then the backend itself is asked.
        self.unsure = self.unsure or unit.verdict.kind is Kind.OPAQUE or unit.script is not None
        text = unit.data[5:]  # the length of a Query could be taken for a letter
        if unit.wants_unnamed and unit.frontend.unnamed is not None:
            text += unit.frontend.unnamed
        names = tuning.customs(text)
        # Which setting a prepared statement sets may be a parameter, at any time.
        self.spoilt = self.spoilt or (unit.names and b"set_config" in text.lower())
        if names:
            self._learn_customs(unit.frontend, names)

    def _learn_customs(self, frontend: Frontend, names: frozenset[str]) -> None:
        self.placeholders |= names
        self.roster.learn_customs(names)
        frontend.move(self.roster.pool.cluster.group_with(frontend.group, names))

    def _ask_for_customs(self) -> None:
        """See which custom settings the backend knows, of those that have ever been seen in this database."""

        def answered(exchange: Exchange) -> None:
            if exchange.error is not None:
                self.close(f"could not be looked at: {messages.error_fields(exchange.error).get('M')}")
                return
            self.unsure = False
            self.unnamed = None
            names = frozenset(messages.read_data_row(row)[0] or "" for row in exchange.rows)
            self.placeholders |= names
            if names and self._left_by is not None:
                self._learn_customs(self._left_by, names)
            self.reclaim()

        self.state = State.BUSY
        self.in_flight.append(Exchange("look", answered))
        self.stream.write(messages.query(tuning.ask_for(self.roster.customs - self.placeholders)))

    def reclaim(self, status: bytes = b"I") -> None:
        """Nobody has the worker any more and nothing is in flight: make it fit for the next, or close it."""
        if self.holder is not None:
            self._left_by = self.holder
        self.holder = None
        self._discarded = 0
        if self.state is State.CLOSED:
            return
        if self.cancels:
            self.state = State.BUSY
            self._resume = lambda: self.reclaim(status)
        elif self.retiring or self.spoilt:
            self.close()
        elif self.unclean or status != b"I":
            if self.asks and status == b"I" and not self.session:
                self._ask_for_traces()
            else:
                self._clean(status)
        elif self.unsure and not self.roster.customs <= self.placeholders:
            self._ask_for_customs()
        else:
            self.unsure = False
            if not self.placeholders <= self.group.placeholders:
                self._regroup()
            self._left_by = None
            self.state = State.IDLE
            if self.parameters_changed:
                self.roster.group_seen(self)
            self.roster.worker_idle(self)

    def _stale_answered(self, stale: Exchange) -> None:
        self.head_since = time.monotonic()
        if not self.in_flight:
            self._drained()

    def _regroup(self) -> None:
        # It knows more than those of its group do: it is of the group that the last frontend is in now, where that is
        # tuned alike, or else of one that no frontend is in, so that it is asked whether it may serve.
        group = self._left_by.group if self._left_by is not None else self.roster.cleaned_group
        is_tuned = group.settings == self.group.settings and self.placeholders <= group.placeholders
        self.group = group if is_tuned else self.roster.cleaned_group

    def _ask_for_traces(self) -> None:
        """See what opaque statements have left, which the text does not show, before it is taken away."""

        def answered(exchange: Exchange) -> None:
            self.unnamed = None
            if exchange.error is None:  # else nothing is known, and the worker is cleaned all the same
                left = traces.read(map(messages.read_data_row, exchange.rows))
                self.spoilt = self.spoilt or not SPOILING.isdisjoint(left)
                self.roster.pool.cluster.left(login.database, texts, left)
            self.reclaim()

        texts, self.asks = self.asks, []
        login = self.roster.login
        self.state = State.BUSY
        self.in_flight.append(Exchange("look", answered))
        self.stream.write(messages.query(traces.ask(login.user, self.group.settings, self.roster.customs)))

    def _clean(self, status: bytes) -> None:
        def cleaned(exchange: Exchange) -> None:
            if exchange.error is not None:
                self.close(f"could not be cleaned: {messages.error_fields(exchange.error).get('M')}")
            elif exchange.purpose == tuning.CLEAN:
                self.session = self.unclean = self.defines = self.drew = False
                self.unnamed = None
                self.asks.clear()
                self.group = self.roster.bare_group
                self.reclaim()

        self.state = State.BUSY
        steps = (tuning.CLEAN,) if status == b"I" else (tuning.ROLLBACK, tuning.CLEAN)
        self.in_flight.extend(Exchange(sql, cleaned) for sql in steps)
        self.stream.write(b"".join(messages.query(sql) for sql in steps))

    # --- cancelling --------------------------------------------------------------------------------------------------

    def cancel(self, unit: Unit) -> None:
        """Cancel `unit` and nothing else: until the cancel connection was closed by the server and the unit has
        answered, nothing is sent to this backend."""
        if self.drop_rider(unit):
            # It need not be told: a read that nobody waits for does no harm.
            unit.frontend.canceled(unit)
            return
        if unit not in self.in_flight:
            return
        self.move_riders()
        self.cancels += 1
        gevent.spawn(self._cancel, unit)

    def _cancel(self, unit: Unit) -> None:
        certain = dialogue.cancel(
            self.roster.address, self.key, _CANCEL_TIMEOUT_S, lambda: bool(self.in_flight) and self.in_flight[0] is unit
        )
        self.cancels -= 1
        if self.state is State.CLOSED:
            return
        if not certain:
            self.close("a cancel request was sent to it and nobody knows when it will arrive")
        elif not self.cancels:
            waiting, self._after_cancel = self._after_cancel, None
            if waiting is not None:
                self.put(waiting)
            elif self._resume is not None:
                resume, self._resume = self._resume, None
                resume()

    # --- the end of a worker -----------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Close now when idle, else when what it does is done."""
        self.retiring = True
        self.close_batch()
        if self.state is State.IDLE:
            self.close()

    def close(self, reason: str = "") -> None:
        """End the backend, and tell everybody who had something from it. Called again it does nothing."""
        if self.state is State.CLOSED:
            return
        was, self.state = self.state, State.CLOSED
        if not self.in_flight and not self.stream.is_closed:
            self.stream.write(messages.TERMINATE)
        self.stream.close()
        self._end_trial()
        self.roster.worker_gone(self)
        goodbye = messages.error_fields(self._goodbye) if self._goodbye else {}
        if goodbye:
            reason = f"{goodbye.get('C')} {goodbye.get('M')}"
        if reason:
            log.log(logging.INFO if was is State.IDLE else logging.WARNING, "%r lost its backend: %s", self, reason)
        self._tell_losers(goodbye)

    def _tell_losers(self, goodbye: dict[str, str]) -> None:
        holder, self.holder = self.holder, None
        unsent, self._after_cancel = self._after_cancel, None
        head = self.in_flight.popleft() if self.in_flight else None
        riders = [unit for unit in self.in_flight if isinstance(unit, Unit)]
        self.in_flight.clear()
        self._move_from_wreck(riders)
        if isinstance(head, _Tuning) and head.error is None:
            unsent = head.unit
        if isinstance(head, Unit):
            head.frontend.backend_lost(self, head, goodbye, mid_message=self.mid_message)
        elif holder is not None:
            holder.backend_lost(self, unsent if isinstance(unsent, Unit) else None, goodbye)
        elif unsent is not None:
            self.roster.requeue(unsent)

    def _move_from_wreck(self, riders: list[Unit]) -> None:
        """What was behind the head when the backend died is run elsewhere: behind a FATAL it did not run, and it is a
        harmless read in any case. But one of them may be what kills backends, so not for ever."""
        for unit in riders:
            unit.losses += 1
        self.roster.requeue(*(unit for unit in riders if unit.losses <= _MAX_LOSSES))
        for unit in riders:
            if unit.losses > _MAX_LOSSES:
                unit.frontend.backend_lost(self, unit, {})


class _Tuning(Exchange):
    """The tuning that goes before a unit."""

    __slots__ = ("unit",)
    is_shown = False

    def __init__(self, unit: Unit | Visit, then: Callable[[Exchange], None]) -> None:
        super().__init__("tune", then)
        self.unit = unit
