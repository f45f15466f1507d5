"""A green thread per frontend, from its first statement to its last.

Green. The thread reads, gathers units and hands them on; answers are written by the workers' threads. One unit at a
time is on its way; what a frontend pipelines waits behind it, so that its statements run in its own order. What cannot
be gathered (COPY, Flush, very long messages) is streamed to a worker that the frontend has for itself meanwhile.

A frontend outlives its backend only where that is true: idle or in a single statement it stays; in a transaction it
gets an error and a virtual failed transaction; holding session state it is closed, as the state is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from gevent.event import Event

from lib.backend.unit import CALL, EXTENDED, SIMPLE, Unit
from lib.errors import (
    BackendLost,
    FeatureRefused,
    InFailedTransaction,
    OutcomeUnknown,
    PoolError,
    ProtocolViolation,
    ShuttingDown,
    StatementCancelled,
    StatementRefused,
    TransactionLost,
)
from lib.route.combine import OPAQUE, STANDBY_HINT, combine
from lib.route.verdict import Kind, Verdict
from lib.wire import messages
from lib.wire.framing import MAX_UNIT_BYTES, copy_data_run, frontend_header
from lib.wire.session import Script
from lib.wire.units import Extended, Found, gather

if TYPE_CHECKING:
    from lib import net
    from lib.backend.cluster import Cluster, Group
    from lib.backend.worker import Worker
    from lib.config import Settings

MAX_PENDING = 200  # units that a frontend may pipeline before it is read on
_HIGH_WATER, _LOW_WATER = 262_144, 65_536  # bytes on the way to a backend that does not read
_IDLE_ONLY = ("57P05",)  # idle_session_timeout: the server says it only while it is idle, so nothing of ours has run
_QUERY = ord("Q")
_SYNC = ord("S")
_COPY_MESSAGES = frozenset(b"dcf")


class Virtual(Enum):
    """A transaction whose backend is gone."""

    NONE = 0
    LOST = 1  # the frontend does not know yet
    FAILED = 2  # it was told, and has to end it


class Frontend:
    """One client connection that was let in.

    status      the transaction status that the frontend was told last (I, T, E)
    worker      the one that it holds between two units: in a transaction, or for its session
    unit        the one that is on its way, or None
    pending     units behind it
    unnamed     the Parse of its unnamed statement, wherever that was prepared last
    open        the unit that it is streaming to
    is_gone     it has disconnected, or was told to
    """

    __slots__ = (
        "__weakref__",
        "_changed_parameters",
        "_discarding",
        "_forwarding",
        "_left",
        "_pumping",
        "_reader",
        "_rest",
        "_stopping",
        "_virtual",
        "_wake",
        "cluster",
        "group",
        "is_gone",
        "key",
        "may_use_standbys",
        "open",
        "peer",
        "pending",
        "router",
        "settings",
        "status",
        "stream",
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
        self.group = group
        self.router = cluster.router(group.login.database)
        self.key = key
        self.peer = peer
        self.may_use_standbys = may_use_standbys
        self.status = b"I"
        self.worker: Worker | None = None
        self.unit: Unit | None = None
        self.pending: deque[Unit] = deque()
        self.unnamed: bytes | None = None
        self.open: Unit | None = None
        self.is_gone = False
        self._rest = b""  # a unit that is cut
        self._left = 0  # bytes of a message that passes in parts, still to come
        self._forwarding = False  # they go to the worker; otherwise they are dropped
        self._discarding = False  # the unit has failed: drop all up to its Sync
        self._reader = Extended()  # of the unit that is open
        self._virtual = Virtual.NONE
        self._wake: Event | None = None
        self._pumping = False
        self._stopping = False
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
        recv = self.stream.recv
        between = True  # nothing of a unit or a message is left over
        try:
            while data := recv():
                size = len(data)
                if (
                    between
                    and data[0] == _QUERY
                    and size > 5
                    and int.from_bytes(data[1:5], "big") + 1 == size
                    and self.open is None
                    and not self._discarding
                ):
                    self._submit(Unit(self, data, SIMPLE, self.router.verdict(data[5:-1])))
                elif self._take(self._rest + data if self._rest else data):
                    between = not self._rest and not self._left
                else:
                    break
                if len(self.pending) > MAX_PENDING:
                    self._wait_until(lambda: len(self.pending) < MAX_PENDING // 2)
                if self.stream.pending > self.settings.client_buffer:
                    self.stream.wait_drained(self.settings.client_buffer // 2)
        except ProtocolViolation as error:
            self.end(error)
        finally:
            self._leave()

    def _take(self, data: bytes) -> bool:
        """Take in what has arrived; False when the frontend says goodbye."""
        position = 0
        while position < len(data):
            if self._left or self._discarding or self.open is not None:
                end = self._stream(data, position)
                if end < 0:
                    return False
                if end == position:
                    break
                position = end
                continue
            what, end, read = gather(data, position)
            if read is not None:
                self._submit(self._extended(data[position:end], read))
            elif what is Found.QUERY:
                raw = data[position:end]
                self._submit(Unit(self, raw, SIMPLE, self.router.verdict(raw[5:-1])))
            elif what is Found.CALL:
                self._submit(Unit(self, data[position:end], CALL, OPAQUE))
            elif what is Found.STREAM:
                self._open(data, position)
            elif what is Found.COPY:
                # It belongs to a COPY that has not answered yet, or to none, and is then ignored as the server does.
                self._wait_until(lambda: self.unit is None or self.open is not None)
                if self.open is None:
                    self._left, self._forwarding = _message_size(data, position), False
            elif what is Found.TERMINATE:
                return False
            elif what is Found.NOTHING:
                break
            position = end
        self._rest = data[position:]
        return True

    def _extended(self, data: bytes, read: Extended) -> Unit:
        texts = read.texts
        if read.wants_unnamed and self.unnamed is not None:
            texts = [_text(self.unnamed), *texts]
        verdict = self.router.verdict(texts[0] if texts else b"")
        for text in texts[1:]:
            verdict = combine(verdict, self.router.verdict(text))
        unit = Unit(self, data, EXTENDED, verdict)
        unit.names = read.names
        unit.parse_unnamed = read.parse_unnamed
        unit.wants_unnamed = read.wants_unnamed
        return unit

    # --- one unit after the other ------------------------------------------------------------------------------------

    def _submit(self, unit: Unit) -> None:
        if self.unit is None and not self.pending:
            self._start(unit)
        else:
            self.pending.append(unit)

    def _start(self, unit: Unit) -> None:
        self.unit = unit
        if self._virtual is not Virtual.NONE:
            self._answer_virtually(unit)
            return
        if unit.verdict.kind > Kind.WRITE:
            error = self._refusal(unit.verdict)
            if error is not None:
                self.fail(unit, messages.error_response(error))
                return
        if self.worker is not None:
            self.worker.put(unit)
        else:
            self.cluster.dispatch(unit)

    def _pump(self) -> None:
        # What the pool answers by itself is done at once: a loop, so that a long pipeline is no deep recursion.
        if not self._pumping:
            self._pumping = True
            while self.pending and self.unit is None and not self.is_gone:
                self._start(self.pending.popleft())
            self._pumping = False
        if self._wake is not None:
            self._wake.set()
        if self._stopping and self.unit is None and not self.is_gone:
            self.stop()

    def _refusal(self, verdict: Verdict) -> PoolError | None:
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

    def unit_done(self, unit: Unit, status: bytes) -> None:
        """The unit's last ReadyForQuery was passed on."""
        self.status = status
        if unit.parse_unnamed is not None:
            self.unnamed = unit.parse_unnamed
        elif unit.kind == SIMPLE:
            self.unnamed = None
        if self.open is unit:
            self.open, self._forwarding = None, False
        if unit.verdict.resets and self.worker is not None and status != b"E" and not self.is_gone:
            sql = self.group.restore(unit.verdict.resets)
            if sql:
                self.worker.run_restore(sql, self._restored)
                return
        self._finish()

    def _restored(self) -> None:
        self._finish()
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
        self.stream.write(raw)
        if unit.open and unit.kind == EXTENDED:
            self._discarding = True
        else:
            self.stream.write(messages.READY[status])
        if self.open is unit:
            self.open, self._forwarding = None, False
        self._finish()

    def refused(self, unit: Unit, raw: bytes) -> None:
        """No worker could be had: a server's or the pool's reason, which ends the statement and not the frontend."""
        self.fail(unit, messages.with_severity(raw, "ERROR"))

    def cancel(self) -> None:
        """A CancelRequest with this frontend's key: its own statement, running or queued, and nothing else."""
        unit = self.unit
        if unit is None or self._virtual is not Virtual.NONE:
            return
        if unit.worker is not None:
            unit.worker.cancel(unit)
        elif self.worker is None:
            unit.withdrawn = True
            self.fail(unit, messages.error_response(StatementCancelled("canceling statement due to user request")))

    def _answer_virtually(self, unit: Unit) -> None:
        ends = unit.verdict.ends
        if self._virtual is Virtual.FAILED and ends and not unit.open:
            self._virtual = Virtual.NONE
            self.status = b"I"
            self.stream.write(_rolled_back(unit))
            self._finish()
            return
        error: PoolError
        if self._virtual is Virtual.LOST:
            self._virtual = Virtual.FAILED
            error = TransactionLost(
                "the server connection of this transaction was lost",
                detail="The transaction was rolled back.",
                hint="Roll back and repeat the transaction.",
            )
        else:
            error = InFailedTransaction(
                "current transaction is aborted, commands ignored until end of transaction block",
                detail="The server connection of this transaction was lost.",
            )
        if ends and unit.open:
            # Streamed with Flush: answered with the error, but ended all the same.
            self._virtual = Virtual.NONE
            self.fail(unit, messages.error_response(error), b"I")
        else:
            self.fail(unit, messages.error_response(error), b"E")

    # --- a backend that is gone --------------------------------------------------------------------------------------

    def backend_lost(
        self, worker: Worker, unit: Unit | None, goodbye: dict[str, str], mid_message: bool = False
    ) -> None:
        """The worker is closed. `unit` was in flight on it, or, when it has no worker yet, was about to be.

        goodbye      the fields of the server's FATAL, or nothing when it went without a word
        mid_message  the frontend has part of a message, and can be told nothing any more
        """
        self.worker = None
        if self.is_gone:
            return
        said = f"The server said: {goodbye.get('M')} ({goodbye.get('C')})." if goodbye else None
        if mid_message:
            self.close()
        elif worker.session:
            self.end(BackendLost("the server connection with the state of this session was lost", detail=said))
        elif unit is not None and unit.worker is worker:
            self._lost_in_flight(worker, unit, goodbye, said)
        elif self.status == b"I":
            if unit is not None:
                worker.roster.requeue(unit)
        else:
            self._virtual = Virtual.LOST
            if unit is not None:
                self._answer_virtually(unit)
            elif self.unit is not None:  # it was answered, and its startup values were being restored
                self._finish()

    def _lost_in_flight(self, worker: Worker, unit: Unit, goodbye: dict[str, str], said: str | None) -> None:
        in_transaction = self.status != b"I"
        if not in_transaction and (unit.may_rerun or goodbye.get("C") in _IDLE_ONLY):
            unit.reruns += 1
            worker.roster.requeue(unit)
            return
        if in_transaction and not unit.verdict.transaction:
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

    # --- streaming ---------------------------------------------------------------------------------------------------

    def _open(self, data: bytes, position: int) -> None:
        """Begin a unit that cannot be gathered: wait for a worker of its own, then pass message by message."""
        self._wait_until(lambda: self.unit is None)
        kind = {_QUERY: SIMPLE, ord("F"): CALL}.get(data[position], EXTENDED)
        unit = Unit(self, b"", kind, self._verdict_ahead(data, position))
        unit.script = Script()
        unit.open = True
        unit.wants_unnamed = kind == EXTENDED
        self._reader = Extended()
        self.open = unit
        self._submit(unit)
        self._wait_until(lambda: unit.worker is not None or self.open is not unit)
        if self.open is not unit and not self._discarding:
            # It was answered before anything of it was sent, and its message must not be taken for another unit.
            self._left, self._forwarding = _message_size(data, position), False

    def _verdict_ahead(self, data: bytes, position: int) -> Verdict:
        # Of what is not all there only the server is known; of messages that are, all that route can say.
        if data[position] != ord("P"):
            return replace(OPAQUE, standby=data.startswith(STANDBY_HINT, position + 5))
        verdict = None
        while len(data) - position >= 5:
            tag, end = frontend_header(data, position)
            if end > len(data) or tag not in b"PBDEC":
                break
            if tag == ord("P"):
                found = self.router.verdict(_text(data[position:end]))
                verdict = found if verdict is None else combine(verdict, found)
            position = end
        if verdict is None:
            return replace(OPAQUE, standby=data.startswith(STANDBY_HINT, data.find(b"\0", position + 5) + 1))
        return verdict

    def copy_begins(self, unit: Unit) -> None:
        """The backend waits for CopyData from us."""
        self.open = unit
        self.notify()

    def _stream(self, data: bytes, position: int) -> int:
        """Pass on one message, or a part of one, of a unit that is streamed.

        returns  the position behind it; `position` itself when more bytes are needed; -1 for Terminate
        """
        if not self._left:
            unit = self.open
            if unit is not None and unit.script is not None and unit.script.copying:
                end = copy_data_run(data, position)
                if end > position:
                    self._left, self._forwarding = end - position, True
            if not self._left and not self._begin_message(data, position):
                return position
            if self._left < 0:
                return -1
        part = data[position : position + self._left]
        self._left -= len(part)
        self._push(part)
        return position + len(part)

    def _begin_message(self, data: bytes, position: int) -> bool:
        """Look at the message that begins at `position`: `_left` is its size and `_forwarding` what happens to it.

        returns  False when more bytes are needed to tell
        """
        if len(data) - position < 5:
            return False
        tag, end = frontend_header(data, position)
        if end - position <= MAX_UNIT_BYTES and end > len(data):
            return False
        self._left, self._forwarding = end - position, False
        if tag == ord("X"):
            self._left = -1
        elif self._discarding:
            if tag == _SYNC:
                self._discarding = False
                self.stream.write(messages.READY[self.status])
        elif self.open is not None:
            self._forwarding = self._note(self.open, tag, data[position:end], end - position)
        return True

    def _note(self, unit: Unit, tag: int, whole: bytes, size: int) -> bool:
        """Take one message of an open unit into account; whether it goes to the worker."""
        script = unit.script
        assert script is not None
        if script.copying:
            if tag in b"SH":
                return False  # the backend would eat them
            if tag not in _COPY_MESSAGES:
                raise ProtocolViolation(f"unexpected message type 0x{tag:02X} during COPY from stdin")
        elif unit.kind == EXTENDED and len(whole) == size and tag in b"PBD":
            self._reader.read(whole, 0, size)
            if tag == ord("P"):
                unit.verdict = combine(unit.verdict, self.router.verdict(_text(whole)))
            unit.names, unit.parse_unnamed = self._reader.names, self._reader.parse_unnamed
        elif tag == ord("P"):
            unit.verdict = combine(unit.verdict, OPAQUE)
            unit.names = True  # too long to be kept for another worker: the frontend keeps this one
        script.sent(tag)
        if tag == _SYNC or (unit.kind != EXTENDED and tag not in b"d"):
            unit.open = False
        return True

    def _push(self, part: bytes) -> None:
        unit = self.open
        if not self._forwarding or unit is None or unit.worker is None:
            return
        stream = unit.worker.stream
        unit.cut = self._left
        stream.write(part)
        if not self._left and not unit.open:
            self.open = None
        if stream.pending > _HIGH_WATER:
            stream.wait_drained(_LOW_WATER)

    # --- waiting and being told --------------------------------------------------------------------------------------

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self.is_gone:
            self._wake = Event()
            self._wake.wait()
        self._wake = None

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

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The pool is being stopped: goodbye as soon as the statement in flight has answered."""
        self._stopping = True
        if self.unit is None:
            self.end(ShuttingDown("terminating connection due to administrator command"))

    def end(self, error: PoolError) -> None:
        """Say why, and close."""
        self.stream.write(messages.error_response(error, "FATAL"))
        self.close()

    def close(self) -> None:
        self.is_gone = True
        self.notify()
        self.stream.close()

    def _leave(self) -> None:
        self.is_gone = True
        self.stream.close()
        self.pending.clear()
        unit, worker = self.unit, self.worker
        if unit is not None and unit.worker is not None:
            if self.open is unit or unit.cut:
                unit.worker.close("its frontend vanished in the middle of a COPY or of a long message")
            # Otherwise the statement runs on, as it would without a pool, and the worker drains its answer.
        elif unit is None and worker is not None:
            self.worker = None
            worker.reclaim(self.status)


def _text(parse: bytes) -> bytes:
    """The statement of a Parse message."""
    name_end = parse.find(b"\0", 5)
    return parse[name_end + 1 : parse.find(b"\0", name_end + 1)]


def _message_size(data: bytes, position: int) -> int:
    return frontend_header(data, position)[1] - position


def _rolled_back(unit: Unit) -> bytes:
    """What a server answers to the end of a failed transaction, message by message for the extended protocol."""
    done = messages.command_complete(b"ROLLBACK")
    if unit.kind == SIMPLE:
        return done + messages.READY[b"I"]
    answers = {
        ord("P"): messages.PARSE_COMPLETE,
        ord("B"): messages.BIND_COMPLETE,
        ord("C"): messages.CLOSE_COMPLETE,
        ord("E"): done,
        ord("S"): messages.READY[b"I"],
    }
    parts = []
    position, data = 0, unit.data
    while position < len(data):
        tag, end = frontend_header(data, position)
        if tag == ord("D"):
            is_statement = data[position + 5] == ord("S")
            parts.append((messages.PARAMETER_DESCRIPTION_NONE if is_statement else b"") + messages.NO_DATA)
        else:
            parts.append(answers[tag])
        position = end
    return b"".join(parts)
