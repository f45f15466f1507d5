"""A green thread per frontend, from its first statement to its last.

Green. The thread reads, gathers units and hands them on; answers are written by the workers' threads. One unit at a
time is on its way; what a frontend pipelines waits behind it, so that its statements run in its own order. What cannot
be gathered (COPY, Flush, very long messages) is streamed to a worker that the frontend has for itself meanwhile.

A frontend outlives its backend only where that is true: idle or in a single statement it stays; in a transaction it
gets an error and a virtual failed transaction; holding session state it is closed, as the state is gone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from lib.backend import tuning
from lib.backend.unit import CALL, EXTENDED, SIMPLE, Unit
from lib.errors import (
    BackendLost,
    FeatureRefused,
    IdleTooLong,
    OutcomeUnknown,
    PoolError,
    ProtocolViolation,
    ShuttingDown,
    StatementCancelled,
    StatementRefused,
    TransactionLost,
)
from lib.route.combine import EARLIER, OPAQUE, combine
from lib.route.verdict import Kind, Verdict
from lib.streaming import Streaming
from lib.virtual import Virtual, refusal, rolled_back
from lib.wire import messages
from lib.wire.framing import header
from lib.wire.units import Extended, Found, Seen, gather, text_of

if TYPE_CHECKING:
    from lib import net
    from lib.backend.cluster import Cluster, Group
    from lib.backend.worker import Worker
    from lib.config import Settings
    from lib.modes import Silence

_NOT_VIRTUAL, _WRITE = Virtual.NONE, Kind.WRITE
MAX_PENDING = 200  # units that a frontend may pipeline before it is read on
_IDLE_ONLY = ("57P05",)  # idle_session_timeout: the server says it only while it is idle, so nothing of ours has run
_QUERY, _PARSE = b"QP"
_READ_OUT_S = 10.0  # how long a frontend that was ended may take to read what it was told


class Frontend:
    """One client connection that was let in.

    home        the group of its startup packet, which a RESET goes back to
    status      the transaction status that the frontend was told last (I, T, E)
    worker      the one that it holds between two units: in a transaction, or for its session
    unit        the one that is on its way, or None
    pending     units behind it
    unnamed     the Parse of its unnamed statement, wherever that was prepared last
    streaming   the unit that it streams message by message, if any
    mark        where its writes are noted; None where nobody reads them on a standby
    is_gone     it has disconnected, or was told to
    is_read_only  all that it sends goes to the standbys
    silence     since when it is idle, where that has a limit
    """

    __slots__ = (
        "__weakref__",
        "_changed_parameters",
        "_is_read_out",
        "_is_told_held",
        "_parsed",
        "_pumping",
        "_rest",
        "_seen",
        "_stopping",
        "_virtual",
        "_wake",
        "cluster",
        "group",
        "home",
        "is_gone",
        "is_read_only",
        "key",
        "mark",
        "may_use_standbys",
        "peer",
        "pending",
        "router",
        "settings",
        "silence",
        "status",
        "stream",
        "streaming",
        "unit",
        "unnamed",
        "worker",
    )

    def __init__(
        self,
        stream: net.Stream,
        cluster: Cluster,
        group: Group,
        key: tuple[int, bytes],
        peer: str,
        may_use_standbys: bool,
    ) -> None:
        self.stream = stream
        self.cluster = cluster
        self.settings: Settings = cluster.settings
        self.group = self.home = group
        self.router = cluster.router(group.login.database)
        self.key = key
        self.peer = peer
        self.may_use_standbys = may_use_standbys
        self.mark = cluster.replay.mark_for(group.login.database, may_use_standbys)
        self.status = b"I"
        self.worker: Worker | None = None
        self.unit: Unit | None = None
        self.pending: deque[Unit] = deque()
        self.unnamed: bytes | None = None
        self.streaming = Streaming(self)
        self.is_gone = self.is_read_only = False
        self.silence: Silence | None = None
        self._rest = b""  # a unit that is cut
        self._seen: Seen | None = None  # what is known of it
        self._parsed: bytes | None = None  # what `unnamed` will be when all that is pending was answered
        self._virtual = Virtual.NONE
        self._wake: Event | None = None
        self._pumping = False
        self._stopping = False
        self._is_read_out = False  # it was ended, and still reads what it was told before
        self._is_told_held = False
        self._changed_parameters: dict[str, str] = {}

    def __repr__(self) -> str:
        login = self.group.login
        return (
            f"<Frontend {self.key[0]} {self.peer} {login.user}@{login.database} status={self.status.decode()} "
            f"pending={len(self.pending)}{' held' if self.worker else ''}{' gone' if self.is_gone else ''}>"
        )

    # --- reading -----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Read until the frontend is gone; leave nothing of it behind."""
        recv, at_once = self.stream.recv, self._at_once if self.silence is None else self._heard
        try:
            while (data := recv(at_once)) and not self.is_gone:
                if not self._take(self._rest + data if self._rest else data):
                    break
                self._hold_back()
        except ProtocolViolation as error:
            self.end(error)
        finally:
            self._leave()

    def _heard(self, data: bytes) -> bytes | None:
        if self.silence is not None:
            self.silence.heard = True
        return self._at_once(data)

    def _at_once(self, data: bytes) -> bytes | None:
        """Take in a single whole unit, which is what nearly always arrives, without the thread: None if it was one."""
        if self._rest or self.streaming.is_active or self.pending or self.is_gone:
            return data
        if self.stream.pending > self.settings.client_buffer:
            return data
        size = len(data)
        if size > 5 and header(data, 0) == (_QUERY, size - 1):
            self._query(data)
            return None
        if data[0] == _PARSE:
            what, end, read = gather(data, 0)
            if what is Found.EXTENDED and end == size and read is not None:
                self._extended(data, read)
                return None
        return data

    def _hold_back(self) -> None:
        """Take no more from a frontend that has sent much, or has much to read, until that is less."""
        if len(self.pending) > MAX_PENDING:
            self.wait_until(lambda: len(self.pending) < MAX_PENDING // 2)
        if self.stream.pending > self.settings.client_buffer:
            self.stream.wait_drained(self.settings.client_buffer // 2)

    def _take(self, data: bytes) -> bool:
        """Take in what has arrived; False when the frontend says goodbye."""
        streaming = self.streaming
        position = 0
        while position < len(data) and not self.is_gone:
            self._hold_back()
            if streaming.is_active:
                end = streaming.take(data, position)
                if end < 0:
                    return False
                if end == position:
                    break
                position = end
                continue
            seen, self._seen = self._seen, None
            what, end, read = gather(data, position, seen)
            if what is Found.EXTENDED and read is not None:
                self._extended(data[position:end], read)
            elif what is Found.QUERY:
                self._query(data[position:end])
            elif what is Found.CALL:
                self.submit(Unit(self, data[position:end], CALL, OPAQUE))
            elif what is Found.STREAM:
                streaming.begin(data, position)
            elif what is Found.COPY:
                # It belongs to a COPY that has not answered yet, or to none, and is then ignored as the server does.
                self.wait_until(lambda: self.unit is None or streaming.unit is not None)
                if streaming.unit is None:
                    streaming.drop(data, position)
            elif what is Found.TERMINATE:
                # What was pipelined in front of it runs, as it would on the server.
                self.wait_until(lambda: streaming.is_active or (self.unit is None and not self.pending))
                return False
            elif what is Found.NOTHING:
                if read is not None:
                    self._seen = (end - position, read)
                break
            position = end
        self._rest = data[position:]
        return True

    def _query(self, data: bytes) -> None:
        self._parsed = None  # a simple query destroys the unnamed statement
        known = self.router.known(data[5:-1])
        unit = Unit(self, data, SIMPLE, known.verdict)
        if known.rides:
            unit.known = known
            if self.unit is None and self.worker is None and not self.pending and self._virtual is _NOT_VIRTUAL:
                self.unit = unit
                self.cluster.dispatch(unit)
                return
        if not known.marks:
            unit.marks = False
        self.submit(unit)

    def _extended(self, data: bytes, read: Extended) -> None:
        texts = read.texts
        if read.wants_unnamed and self._parsed is not None:
            texts = [text_of(self._parsed), *texts]
        known = self.router.known(texts[0]) if texts else None
        verdict = known.verdict if known is not None else EARLIER
        for text in texts[1:]:
            verdict = combine(verdict, self.router.verdict(text))
        unit = Unit(self, data, EXTENDED, verdict)
        if known is not None and len(texts) == 1 and not read.names:
            unit.marks = known.marks
            if known.rides:
                unit.known = known
        unit.names = read.names
        unit.parse_unnamed = read.parse_unnamed
        unit.drops_unnamed = read.drops_unnamed
        unit.wants_unnamed = read.wants_unnamed
        if read.parse_unnamed is not None or read.drops_unnamed:
            self._parsed = read.parse_unnamed
        self.submit(unit)

    # --- one unit after the other ------------------------------------------------------------------------------------

    def submit(self, unit: Unit) -> None:
        if self.unit is None and not self.pending:
            self._start(unit)
        else:
            self.pending.append(unit)

    def _start(self, unit: Unit) -> None:
        self.unit = unit
        if self._virtual is not _NOT_VIRTUAL:
            self._answer_virtually(unit)
            return
        if unit.verdict.kind > _WRITE:
            error = self.refusal(unit.verdict)
            if error is not None:
                self._refuse(unit, messages.error_response(error))
                return
            if unit.verdict.holds and self.settings.pin_notice:
                self.tell_held(unit.verdict.reason)
            if (unit.verdict.resets or unit.verdict.local_resets) and self.home.settings and unit.script is None:
                unit.withholds = True
        if unit.marks and unit.verdict.frees:
            self.cluster.leaving.leave(unit.verdict.frees)
        if self.worker is not None:
            self.worker.put(unit)
        else:
            self.cluster.dispatch(unit)

    def _pump(self) -> None:
        # What the pool answers by itself is done at once: a loop, so that a long pipeline is no deep recursion.
        if not self._pumping:
            self._pumping = True
            while self.pending and self.unit is None and not self.is_gone:
                unit = self.pending.popleft()
                unit.group = self.group  # which the one before it may have changed
                self._start(unit)
            self._pumping = False
        if self._wake is not None:
            self._wake.set()
        if self._stopping and self.unit is None and not self.is_gone:
            self.stop()

    def refusal(self, verdict: Verdict) -> PoolError | None:
        """Why a statement is not run at all, or None."""
        if verdict.transaction and self.settings.transactions == "reject":
            return FeatureRefused(
                "transactions are not allowed through this pool",
                hint="Send the statements as one text, or have the pool's `transactions` set to 'allow'.",
            )
        if verdict.session and self.settings.session_features == "reject":
            return FeatureRefused(
                f"session features are not allowed through this pool: {verdict.reason}",
                hint="Have the pool's `session_features` set to 'allow', or connect to the server directly.",
            )
        if verdict.refusal is not None and not (verdict.currval and self.worker is not None):
            return StatementRefused(
                verdict.refusal.message, sqlstate=verdict.refusal.sqlstate, hint=verdict.refusal.hint
            )
        return None

    def _refuse(self, unit: Unit, raw: bytes) -> None:
        """A statement that is refused fails the transaction that it is in, as any error does."""
        worker = self.worker
        if worker is None or self.status != b"T":
            self.fail(unit, raw, self.status)
            return

        def rolled_back() -> None:
            self._virtual = Virtual.FAILED
            self.fail(unit, raw, b"E")
            self._give_back_if_gone()

        if worker.session:
            worker.run_restore(tuning.ROLLBACK, rolled_back)
        else:
            self.worker = None
            worker.reclaim(self.status)
            rolled_back()

    def unit_done(self, unit: Unit, status: bytes) -> None:
        """The unit's last ReadyForQuery was passed on."""
        self.status = status
        if self.mark is not None and unit.verdict.kind >= _WRITE:
            self.cluster.replay.wrote(self.mark, unit)
        self.unnamed = None if unit.kind is SIMPLE else unit.unnamed_after(self.unnamed)
        if self.streaming.unit is unit:
            self.streaming.end(unit)
            self._parsed = self.unnamed
        worker = self.worker
        if worker is not None and worker.unsettled and not self.is_gone and worker.settle(unit, status):
            return
        if unit.withholds:
            self._tell_withheld(unit)
        self._finish()

    def read_done(self, unit: Unit) -> None:
        """The same for a read that leaves nothing behind, outside of a transaction."""
        self.unnamed = None if unit.kind is SIMPLE else unit.unnamed_after(self.unnamed)
        self.unit = None
        if self.pending or self._changed_parameters or self._wake is not None or self._stopping:
            self._finish()

    def settled(self) -> None:
        """What its last unit has set is known now, and startup values that it has reset are restored."""
        if self.unit is not None and self.unit.withholds:
            self._tell_withheld(self.unit)
        self._finish()
        self._give_back_if_gone()

    def _tell_withheld(self, unit: Unit) -> None:
        """All that it has reset is restored: the frontend is told what has become of its parameters, and is ready."""
        if unit.worker is not None:
            before, after = unit.before or {}, unit.worker.parameters
            for name, value in after.items():
                if before.get(name) != value:
                    self.stream.write(messages.parameter_status(name, value))
        self.stream.write(messages.READY[self.status])

    def _give_back_if_gone(self) -> None:
        worker = self.worker
        if self.is_gone and worker is not None:  # it left meanwhile, while its unit still stood for the worker
            self.worker = None
            worker.reclaim(self.status)

    def _finish(self) -> None:
        self.unit = None
        if self._changed_parameters:
            changed, self._changed_parameters = self._changed_parameters, {}
            self.tell_parameters(changed)
        if self.pending or self._wake is not None or self._stopping:
            self._pump()

    # --- answers that the pool makes itself --------------------------------------------------------------------------

    def fail(self, unit: Unit, raw: bytes, status: bytes = b"I") -> None:
        """An ErrorResponse, then ReadyForQuery: at once, or when the Sync of an open unit has come."""
        self.status = status
        unit.failed = True
        self.unnamed = unit.unnamed_after(self.unnamed)
        waits_for_sync = unit.open and unit.kind == EXTENDED
        self.stream.write(raw if waits_for_sync else raw + messages.READY[status])
        self.streaming.end(unit, to_sync=waits_for_sync)
        self._finish()

    def refused(self, unit: Unit, raw: bytes) -> None:
        """No worker could be had: a server's or the pool's reason, which ends the statement and not the frontend."""
        self.fail(unit, messages.with_severity(raw, "ERROR"))

    def cancel(self) -> None:
        """A CancelRequest with this frontend's key: its own statement, running or queued, and nothing else."""
        unit = self.unit
        if unit is None or self._virtual is not _NOT_VIRTUAL:
            return
        if unit.worker is not None:
            unit.worker.cancel(unit)
        elif self.worker is None:
            unit.withdrawn = True
            self.canceled(unit)
        else:
            unit.is_canceled = True  # its worker waits for the end of another cancel

    def canceled(self, unit: Unit) -> None:
        """Nobody else waits for its answer, which the pool gives itself."""
        self.fail(unit, messages.error_response(StatementCancelled("canceling statement due to user request")))

    def _answer_virtually(self, unit: Unit) -> None:
        ends = unit.verdict.ends
        if self._virtual is Virtual.FAILED and ends and not unit.open:
            answer, self.status = rolled_back(unit.data)
            if self.status == b"I":
                self._virtual = Virtual.NONE
            self.unnamed = unit.unnamed_after(self.unnamed)
            self.stream.write(answer)
            self._finish()
            return
        error = messages.error_response(refusal(self._virtual))
        self._virtual = Virtual.FAILED
        if ends and unit.open:
            # Streamed with Flush: answered with the error, but ended all the same.
            self._virtual = Virtual.NONE
            self.fail(unit, error, b"I")
        else:
            self.fail(unit, error, b"E")

    # --- a backend that is gone --------------------------------------------------------------------------------------

    def backend_lost(
        self, worker: Worker, unit: Unit | None, goodbye: dict[str, str], mid_message: bool = False
    ) -> None:
        """The worker is closed. `unit` was in flight on it, or, when it has no worker yet, was about to be.

        goodbye      the fields of the server's FATAL, or nothing when it went without a word
        mid_message  the frontend has part of a message, and can be told nothing any more
        """
        self.worker = None
        if self.mark is not None and unit is not None and unit.worker is worker and unit.verdict.kind >= _WRITE:
            self.cluster.replay.wrote(self.mark, unit)  # it may have been committed
        if self.is_gone:
            return
        said = f"The server said: {goodbye.get('M')} ({goodbye.get('C')})." if goodbye else None
        if mid_message:
            self.close()
        elif worker.session or worker.is_settling:
            in_flight = "It is not known whether the statement took effect. " if unit and unit.worker is worker else ""
            detail = in_flight + (said or "")
            self.end(BackendLost("the server connection with the state of this session was lost", detail=detail))
        elif unit is not None and unit.worker is worker:
            self._untell(worker)
            self._lost_in_flight(worker, unit, goodbye, said)
        elif self.status == b"I":
            if unit is not None:
                worker.roster.requeue(unit)
        else:
            self._untell(worker)
            self._virtual = Virtual.LOST
            if unit is not None:
                self._answer_virtually(unit)
            elif self.unit is not None:  # it was answered, and its startup values were being restored
                if self.unit.withholds:
                    self.stream.write(messages.READY[self.status])
                self._finish()

    def _untell(self, worker: Worker) -> None:
        """What it was told of its parameters in a transaction that is lost holds no more."""
        if self.status != b"I":
            unit = self.unit
            told = worker.parameters if unit is None or unit.before is None else unit.before
            known = self.group.parameters
            self.tell_parameters({name: value for name, value in known.items() if told.get(name) != value})

    def _lost_in_flight(self, worker: Worker, unit: Unit, goodbye: dict[str, str], said: str | None) -> None:
        in_transaction = self.status != b"I"
        now = time.monotonic()
        sqlstate = goodbye.get("C")
        has_not_run = sqlstate in _IDLE_ONLY and unit.script is None
        if not in_transaction and (has_not_run or unit.may_rerun(worker, now, sqlstate)):
            unit.lost_at = unit.lost_at or now
            unit.queued_at = 0.0
            worker.roster.requeue(unit)
            return
        if in_transaction and not unit.verdict.may_commit:
            error: PoolError = TransactionLost(
                "the server connection was lost during this statement",
                detail="The transaction was rolled back." + (f" {said}" if said else ""),
                hint="Roll back and repeat the transaction.",
            )
        else:
            error = OutcomeUnknown(
                "the server connection was lost during this statement",
                detail="It is not known whether the statement took effect." + (f" {said}" if said else ""),
                hint="Look whether it did before you repeat it.",
            )
        failed = in_transaction and not unit.verdict.ends
        self._virtual = Virtual.FAILED if failed else Virtual.NONE
        self.fail(unit, messages.error_response(error), b"E" if failed else b"I")

    # --- waiting and being told --------------------------------------------------------------------------------------

    def wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self.is_gone:
            self._wake = Event()
            self._wake.wait()
        self._wake = None

    def copy_begins(self, unit: Unit) -> None:
        """The backend waits for CopyData."""
        if self.pending:
            tag = self.pending[0].data[0]
            self.end(ProtocolViolation(f"unexpected message type 0x{tag:02X} during COPY from stdin"))
        self.streaming.resume(unit)
        self.notify()

    def move(self, group: Group) -> None:
        """It belongs to another group from its next unit on."""
        if group is not self.group and not self.is_gone:
            self.group.frontends.discard(self)
            self.group = group
            group.frontends.add(self)

    def notify(self) -> None:
        if self._wake is not None:
            self._wake.set()

    def tell_parameters(self, changed: dict[str, str]) -> None:
        """ParameterStatus values of the group have changed (a server reload); between two units, never inside one."""
        if self.unit is not None:
            self._changed_parameters.update(changed)
            return
        for name, value in changed.items():
            self.stream.write(messages.parameter_status(name, value))

    def look(self, now: float) -> None:
        """End it when it has been idle for longer than active_cnn_timeout."""
        if self.silence is None or self.is_gone:
            return
        is_busy = self.unit is not None or bool(self.pending) or self.streaming.is_active or self.stream.pending > 0
        if self.silence.look(now, is_busy) > self.settings.active_cnn_timeout:
            self.end(IdleTooLong("terminating connection due to idle-session timeout"))

    def tell_held(self, why: str) -> None:
        """It now holds a worker for its session: said once, if it is wanted."""
        if self.settings.pin_notice and not self._is_told_held:
            self._is_told_held = True
            self.stream.write(
                messages.notice_response(
                    "this session now has a server connection of its own",
                    f"The statement {why}.",
                    "The connection is shared again when nothing of that is left in the session.",
                    "01000",
                )
            )

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The pool is being stopped: goodbye as soon as the statement in flight has answered."""
        self._stopping = True
        if self.unit is None:
            self.end(ShuttingDown("terminating connection due to administrator command"))

    def end(self, error: PoolError) -> None:
        """Say why, and close."""
        self.stream.write(messages.error_response(error, "FATAL"))
        if not self.stream.pending or self.unit is not None:
            self.close()
            return
        # It reads slowly, and what it was answered before is still its own. But it does not have for ever.
        self.is_gone = self._is_read_out = True
        self.notify()
        self.stream.stop_reading()
        gevent.spawn_later(_READ_OUT_S, self.stream.close)

    def close(self) -> None:
        self.is_gone = True
        self.notify()
        self.stream.close()

    def _leave(self) -> None:
        self.is_gone = True
        if not self._is_read_out:
            self.stream.close()
        self.pending.clear()
        unit, worker = self.unit, self.worker
        if unit is not None and unit.worker is not None:
            if self.streaming.unit is unit or unit.cut:
                unit.worker.close("its frontend vanished in the middle of a COPY or of a long message")
            # Otherwise the statement runs on, as it would without a pool, and the worker drains its answer.
        elif unit is None and worker is not None:
            self.worker = None
            worker.reclaim(self.status)
        if self._is_read_out:
            self.stream.wait_drained()
            self.stream.close()
