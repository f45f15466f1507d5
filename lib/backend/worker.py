"""A green thread that owns one backend, and passes answers on.

Green. The thread always reads, and `Relay` passes on what it reads; others write to the backend through `put`, and
`Riders` lets quick reads in behind. What is in flight stands in a deque, oldest first: frontends' units, or an exchange
of the worker's own (tuning, cleaning). A read that leaves nothing behind has a worker without holding it.

Whatever happens to a frontend, its worker is brought back to idle, or closed; and a worker that says anything that
nobody asked for is closed, because the next one it is lent to would hear it.
"""

from __future__ import annotations

import logging
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from lib.backend import dialogue, tuning
from lib.backend.halting import Halting
from lib.backend.riders import NOTED
from lib.backend.unit import CANCELED, Exchange, Stale, Unit, Visit
from lib.backend.upkeep import State, Tuning
from lib.errors import ProtocolViolation, ResultChanged
from lib.route.verdict import Kind
from lib.wire import messages
from lib.wire.framing import is_usual

if TYPE_CHECKING:
    from lib.backend.roster import Roster
    from lib.frontend import Frontend

__all__ = ["State", "Worker"]

log = logging.getLogger(__name__)

_MAX_LOSSES = 5  # backends that may die with a read behind others on them, before it counts as the one that died
_BUSY, _HELD, _WRITE, _SESSION = State.BUSY, State.HELD, Kind.WRITE, Kind.SESSION


class Worker(Halting):
    """One backend and the green thread that reads from it.

    sent_at      when its holder's last unit was sent
    block_since  when its holder's last transaction block has begun
    is_lost      its end was not ours, nor that of a frontend which left it in the middle of something
    """

    __slots__ = (
        "_is_free_again", "_is_visited", "_usual", "block_since", "is_lost", "number", "sent_at", "started_at",
    )  # fmt: skip

    def __init__(self, roster: Roster, number: int, backend: dialogue.Backend) -> None:
        super().__init__(roster, backend)
        self.number = number
        self.is_lost = self._is_visited = self._is_free_again = False
        self.started_at = self.idle_since = self.sent_at = monotonic()
        self.block_since = 0.0
        self._usual: Unit | None = None  # is in flight alone: a usual answer to it is passed on without being looked at

    def __repr__(self) -> str:
        held = " session" if self.session else ""
        busy = f" in_flight={len(self.in_flight)}"
        return f"<Worker {self.number} {self.state.name}{held} {self.roster.describe()}{busy}>"

    @property
    def log_fields(self) -> dict[str, object]:
        """What a line of the log about it says beside its message, where lines have fields."""
        login, pool = self.roster.login, self.roster.pool
        return {
            "worker": self.number, "pool": pool.number, "server_pid": self.key[0], "user": login.user,
            "database": login.database,
        }  # fmt: skip

    @property
    def taken_at(self) -> float:
        """When its holder's transaction block has begun, or else its statement; never while nobody holds it."""
        if self.holder is None:
            return inf
        return self.sent_at if self.holder.status == b"I" else self.block_since

    # --- taking work -------------------------------------------------------------------------------------------------

    def put(self, unit: Unit | Visit) -> None:
        """Have `unit` run. The worker is idle, or held by the unit's frontend and between two units."""
        if isinstance(unit, Unit) and unit.is_plain and unit.group is self.group and unit.is_wanted and not unit.rides:
            self.begin_alone(unit)
        else:
            self._put(unit)

    def _put(self, unit: Unit | Visit) -> None:
        self.state = _BUSY
        if self.cancels:
            # A CancelRequest may still be on its way to this backend, and must not meet another statement.
            unit.queued_at = monotonic()
            self._after_cancel = unit
        elif not unit.is_wanted:
            self.reclaim(self.holder.status if self.holder else b"I")
        elif self.holder is not None and isinstance(unit, Unit):
            # Who holds it is never tuned to anything else.
            if unit.is_canceled and self.holder.status != b"E":
                self.refuse_unit(unit, messages.error_response(CANCELED))
            elif self.takes(unit):
                self._send_on(unit)
            else:
                self._inquire(unit)
        elif self.drew and isinstance(unit, Unit) and unit.verdict.kind is Kind.OPAQUE:
            # A function or a default that asks for currval() must not be answered with what a neighbour drew.
            self._tune(unit, tuning.FORGET_NUMBERS)
        elif isinstance(unit, Unit) and not self.takes(unit):
            self._inquire(unit)
        elif self.group is unit.group:
            self._send(unit)
        elif sql := tuning.retune(self.group.settings, unit.group.settings):
            self._tune(unit, sql)
        else:
            self._tuned_to(unit.group)
            self._send(unit)

    def begin_alone(self, unit: Unit) -> None:
        self.holder = unit.frontend
        self.go_on(unit)

    def go_on(self, unit: Unit) -> None:
        """The same for a plain unit of who holds the worker."""
        if self.cancels or self.lent:
            self._put(unit)
            return
        self.state = _BUSY
        unit.worker = self
        in_flight = self.in_flight
        self._usual = None if in_flight or self.has_notes else unit
        in_flight.append(unit)
        self.sent_at = monotonic()
        self.stream.write(unit.data)

    def _visited(self) -> None:
        """A visit is over at once, and what comes next may be another one, hundreds of times: not each within the one
        before, which would be too deep."""
        self._is_free_again = True
        if self._is_visited:
            return
        self._is_visited = True
        try:
            while self._is_free_again:
                self._is_free_again = False
                self.reclaim()
        finally:
            self._is_visited = False

    def _send(self, unit: Unit | Visit) -> None:
        if isinstance(unit, Visit):
            self.state = State.IDLE
            unit.arrived()
            self._visited()
        elif not unit.rides:
            self.holder = unit.frontend
            self._send_on(unit)
        else:
            unit.worker = self
            self.in_flight.append(unit)
            data = self.led(unit) if unit.uses else unit.data
            if self.roster.batches:
                self.stream.write_later(data)  # the server has something to do until the end of the turn
            else:
                self.stream.write(data)
            self.begin_batch(unit)

    def _send_on(self, unit: Unit) -> None:
        # To the backend that its frontend has for itself.
        unit.worker = self
        self.in_flight.append(unit)
        self.sent_at = monotonic()
        if unit.uses or unit.first or unit.makes or self.lent or unit.verdict.kind >= _SESSION:
            unit.is_plain = False  # something may be put in front of it, whose answers nobody is to see
            self.stream.write(self.led(unit))
        else:
            self.stream.write(unit.data)
        if unit.open:
            unit.frontend.notify()

    def run(self) -> None:
        """Read and pass on until the backend is gone."""
        reason = "the connection was closed by the server"
        try:
            while self.stream.recv(self._at_once) or self._blocked_by is not None:
                if self._blocked_by is not None:
                    self._wait_for_reader(self._blocked_by)
        except ProtocolViolation as error:
            reason = error.message
        except ResultChanged as error:
            reason = error.message
            if self.holder is not None:
                self.holder.end(error)
        except Exception as error:
            log.exception("%r cannot go on", self)
            reason = f"internal error: {error!r}"
        self.is_lost = self.holder is None or not self.holder.is_gone
        self.close(reason)

    def _at_once(self, data: bytes) -> bytes | None:
        """Pass on what has arrived; the thread is woken only when it has to wait for somebody to read."""
        usual = self._usual
        if usual is not None:
            self._usual = None
            if is_usual(data) and not self._parts:
                self._usual_ready(usual, data)
                return None
        if self.holder is None:
            self.feed_reads(data)
            if self.stream.wakes_at > 1:
                self.gather_less()
            if self.parameters_changed and (self.state is State.IDLE or self.open_to is not None):
                self.roster.group_seen(self)  # a server reload: the whole group is told
        elif usual is not None or not self._feed_usual(data):
            self._feed(data)
        return None if self._blocked_by is None else b""

    def _usual_ready(self, unit: Unit, data: bytes) -> None:
        """The usual answer has come for a plain unit, before which nothing was left behind either."""
        frontend = unit.frontend
        frontend.stream.write(data)
        status = data[-1:]
        self.in_flight.clear()
        self.processed += 1
        self._count_held(unit, status, data)
        if not self.drew:
            self.drew = unit.verdict.kind >= _WRITE
        self.state = _HELD
        if status != b"I" and not frontend.is_gone:
            frontend.worker = self
        else:
            frontend.worker = None
            self.reclaim(status)
        frontend.plain_done(unit, status)

    def _feed_usual(self, data: bytes) -> bool:
        """Pass on a whole answer for the frontend that holds the worker; False when it is anything else."""
        in_flight = self.in_flight
        if len(in_flight) != 1 or self._parts or self._skip:
            return False
        unit = in_flight[0]
        if not isinstance(unit, Unit) or not (unit.is_plain or unit.is_passed(data)) or not is_usual(data):
            return False
        unit.frontend.stream.write(data)
        self._unit_ready(unit, data[-1:], data)
        return True

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
            if status != b"I" and isinstance(unit, Stale):
                self._stale_badly(status)
            else:
                unit.then(unit)
            return
        if self.holder is None:
            self._read_ready(unit, status)
            return
        if unit.script is not None and not unit.script.is_done:
            return  # a Query inside an unsynced unit: its ReadyForQuery is not the last
        self._unit_ready(unit, status)

    def _unit_ready(self, unit: Unit, status: bytes, answer: bytes = b"") -> None:
        """The unit of the frontend that holds the worker was answered. The `answer` is known where it was all there."""
        self.in_flight.popleft()
        self.processed += 1
        frontend, verdict = unit.frontend, unit.verdict
        self._count_held(unit, status, answer)
        if (unit.lead or unit.effects) and self.note_statements(unit):
            self.unclean = True
        if verdict.deallocates and "*" in verdict.deallocates:
            self.statements.forget()  # all, or none when it has failed
        if verdict.kind > _WRITE or verdict.local_sets:
            self._note_tuning(unit)
        if unit.marks or self.ddl or self.defines:
            self._note_marks(unit, status)
        elif not self.drew:
            self.drew = verdict.kind >= _WRITE
        self.state = _HELD
        frontend.worker = self if status != b"I" or self.session or self.unsettled else None
        if unit.cut:
            # A CopyData is half sent: the backend would take what comes next for its rest.
            if frontend.worker is None:
                self.holder = None
            self.close("a COPY ended in the middle of a message")
        elif frontend.is_gone or frontend.worker is None:
            self.reclaim(status)
        frontend.unit_done(unit, status)

    def _count_held(self, unit: Unit, status: bytes, answer: bytes) -> None:
        """The same, before anything else is done about it."""
        now = monotonic()
        self.last_s = seconds = now - self.sent_at
        self.note_run(seconds)
        if not self.processed & NOTED:
            self.tally.alone.run.catch_up()
        known = unit.known
        if known is not None:
            known.calls = calls = known.calls + 1
            if calls >= known.next_sample:
                known.sample(seconds)
                known.saw(answer)
        before, tally = unit.frontend.status, self.tally
        if status != b"I":
            tally.in_blocks += 1
            tally.in_block_s += seconds
            if before == b"I":
                self.block_since = self.sent_at
        elif before != b"I":
            tally.in_block_s += seconds
            tally.block_s += now - self.block_since

    def _read_ready(self, unit: Unit, status: bytes) -> None:
        """A read that nobody holds the worker for was answered: whoever rides behind it is next."""
        in_flight, frontend = self.in_flight, unit.frontend
        in_flight.popleft()
        self.processed += 1
        if status != b"I":
            self._shared_badly(unit, status)
            return
        if unit.lead:
            self.note_statements(unit)
        if not in_flight:
            self._drained()
        frontend.unit_done(unit, status)

    def _shared_badly(self, unit: Unit, status: bytes) -> None:
        """A read that was taken for harmless has left a transaction open: nobody else may see anything of it."""
        log.error("%r: a statement taken for a harmless read left transaction status %s: %r", self, status, unit)
        unit.frontend.status = status
        self.close("it was shared, and has a transaction open")
        unit.frontend.backend_lost(self, None, {})

    def _stale_badly(self, status: bytes) -> None:
        log.error("%r: a statement taken for a harmless read, and moved, left transaction status %s", self, status)
        self.close("it was shared, and has a transaction open")

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
        self._move_from_wreck(riders, has_said_goodbye=bool(goodbye))
        if isinstance(head, Tuning):
            unsent = head.unit  # whatever that has said: it is not over, so nobody was told
        if isinstance(head, Unit):
            head.frontend.backend_lost(self, head, goodbye, mid_message=self.mid_message)
        elif holder is not None:
            holder.backend_lost(self, unsent if isinstance(unsent, Unit) else None, goodbye)
        elif unsent is not None:
            self.roster.requeue(unsent)

    def _move_from_wreck(self, riders: list[Unit], has_said_goodbye: bool) -> None:
        """What was behind the head when the backend died is run elsewhere: behind a FATAL it did not run, and it is a
        harmless read in any case. But without a goodbye one of them may be what kills backends, so not for ever."""
        for unit in riders:
            unit.losses += not has_said_goodbye
        self.roster.requeue(*(unit for unit in riders if unit.losses <= _MAX_LOSSES))
        for unit in riders:
            if unit.losses > _MAX_LOSSES:
                unit.frontend.backend_lost(self, unit, {})

