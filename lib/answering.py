"""What a frontend is told by the pool itself: errors, notices, and that its transaction or its session is lost.

Green by what it writes to; it never parks. A frontend outlives its backend only where that is true: idle or in a single
statement it stays; in a transaction it gets an error and a virtual failed transaction; holding session state it is
closed, as the state is gone. `Frontend` is the only one that is Answering.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from lib.backend.unit import CANCELED, EXTENDED, Unit
from lib.errors import BackendLost, OutcomeUnknown, PoolError, TransactionLost
from lib.route.refused import refusal as refused
from lib.route.verdict import Kind, Verdict
from lib.virtual import Virtual, refusal, rolled_back
from lib.wire import messages

if TYPE_CHECKING:
    from lib import net
    from lib.backend.cluster import Cluster
    from lib.backend.groups import Group
    from lib.backend.worker import Worker
    from lib.config import Settings
    from lib.preparing import PreparedStatements
    from lib.streaming import Streaming

_NOT_VIRTUAL, _WRITE = Virtual.NONE, Kind.WRITE
_IDLE_ONLY = ("57P05",)  # idle_session_timeout: the server says it only while it is idle, so nothing of ours has run


class Behind(NamedTuple):
    """What a frontend has sent behind the statement that is on its way.

    unit      the next one
    streams   it begins a unit that cannot be gathered
    """

    unit: Unit | None
    streams: bool


class Answering(ABC):
    """What it takes to answer a frontend.

    home        the group of its startup packet, which a RESET goes back to
    status      the transaction status that the frontend was told last (I, T, E)
    worker      the one that it holds between two units: in a transaction, or for its session
    unit        the one that is on its way, or None
    pending     units behind it
    prepared    its prepared statements
    streaming   the unit that it streams message by message, if any
    mark        where its writes are noted; None where nobody reads them on a standby
    is_gone     it has disconnected, or was told to
    """

    __slots__ = (
        "_changed_parameters", "_is_told_held", "_virtual", "cluster", "group", "home", "is_gone", "mark", "pending",
        "prepared", "settings", "status", "stream", "streaming", "unit", "worker",
    )  # fmt: skip
    prepared: PreparedStatements
    streaming: Streaming

    def __init__(self, stream: net.Stream, cluster: Cluster, group: Group, may_use_standbys: bool) -> None:
        self.stream = stream
        self.cluster = cluster
        self.settings: Settings = cluster.settings
        self.group = self.home = group
        self.mark = cluster.replay.mark_for(group.login.database, may_use_standbys)
        self.status = b"I"
        self.worker: Worker | None = None
        self.unit: Unit | None = None
        self.pending: deque[Unit] = deque()
        self.is_gone = False
        self._virtual = Virtual.NONE
        self._is_told_held = False
        self._changed_parameters: dict[str, str] = {}

    @abstractmethod
    def _finish(self) -> None:
        """The unit that was on its way is dealt with: the next one's turn."""

    @abstractmethod
    def _cancel_next(self) -> None:
        """Cancel what it has sent behind its last unit, which is over."""

    @abstractmethod
    def settled(self) -> None:
        """What its last unit has set is known, or never will be."""

    @abstractmethod
    def end(self, error: PoolError) -> None:
        """Say why, and close."""

    @abstractmethod
    def _end_with(self, raw: bytes) -> None:
        """The same with an ErrorResponse."""

    @abstractmethod
    def close(self) -> None:
        """It can be told nothing any more."""

    # --- what is not run at all --------------------------------------------------------------------------------------

    def refusal(self, verdict: Verdict) -> PoolError | None:
        """Why a statement is not run at all, or None."""
        return refused(verdict, self.settings, self.worker is not None)

    def refuse(self, unit: Unit, raw: bytes) -> None:
        """A statement that is refused fails the transaction that it is in, as any error does."""
        worker = self.worker
        if worker is None or self.status != b"T":
            self.fail(unit, raw, self.status)
        elif worker.session:
            worker.refuse_unit(unit, raw)
        else:
            self.worker = None
            worker.reclaim(self.status)
            self._virtual = Virtual.FAILED
            self.fail(unit, raw, b"E")

    # --- answers that the pool makes itself --------------------------------------------------------------------------

    def fail(self, unit: Unit, raw: bytes, status: bytes = b"I") -> None:
        """An ErrorResponse, then ReadyForQuery: at once, or when the Sync of an open unit has come."""
        login = self.group.login
        self.cluster.tallies.told(login.user, login.database, messages.error_fields(raw).get("C", ""))
        self._end_unit(unit, raw, raw, status)

    def _end_unit(self, unit: Unit, first: bytes, raw: bytes, status: bytes) -> None:
        """Nothing more comes of `unit`. What it owes is answered with `first`, and with `raw` where it owes more."""
        self.status = status
        unit.failed = True
        self.prepared.note(unit)
        waits_for_sync = unit.open and unit.kind == EXTENDED
        ready = messages.READY[status]
        # Those inside an unsynced unit have each their own, and nobody sends a Sync before it has come.
        queries = unit.script.queries if unit.script is not None and unit.kind == EXTENDED else 0
        answers = [first, *[ready + raw] * (queries - 1), ready if queries or not waits_for_sync else b""]
        if queries and not waits_for_sync:
            answers.append(ready)
        self.stream.write(b"".join(answers))
        self.streaming.end(unit, to_sync=waits_for_sync)
        self._finish()

    def refused(self, unit: Unit, raw: bytes) -> None:
        """No worker could be had: a server's or the pool's reason, which ends the statement and not the frontend."""
        self.fail(unit, messages.with_severity(raw, "ERROR"))

    def cancel(self) -> None:
        """A CancelRequest with this frontend's key: its own statement, running or queued, and nothing else. One that
        was answered is over for it, whatever is still done about that: then it means the next one, if it has sent one.
        """
        unit = self.unit
        if self._virtual is not _NOT_VIRTUAL:
            return
        if unit is None or unit.is_over:
            self._cancel_next()
        elif unit.worker is not None:
            unit.worker.cancel(unit, self.behind())
        elif self.worker is None:
            unit.withdrawn = True
            self.canceled(unit)
        elif not self.withdraw(unit, CANCELED):
            unit.is_canceled = True  # its worker is being made fit for it

    def behind(self) -> Behind:
        """What it has sent behind its unit until now."""
        return Behind(self.pending[0] if self.pending else None, self.streaming.waits)

    def cancel_behind(self, unit: Unit, behind: Behind) -> None:
        """A cancel request that came while `unit` was on its way, and `behind` was there already, was not needed.

        A server would have met the next one: it comes to that sooner than we do. But only what was there already can
        have been meant. Where the unit itself is still there, it was moved to another worker.
        """
        now, streaming = self.unit, self.streaming
        if behind.streams and streaming.waits:
            streaming.cancels_next = True
        elif behind.unit is not None and behind.unit in self.pending:
            behind.unit.is_canceled = True
        elif now is not None and not now.is_over and (
            now in (unit, behind.unit) or (behind.streams and now is streaming.unit)
        ):  # fmt: skip
            self.cancel()

    def withdraw(self, unit: Unit, error: PoolError) -> bool:
        """Whether the worker that it holds has not sent `unit` yet, which waits for a server that is doubted or for the
        end of another cancel: then the pool answers."""
        if self.worker is None or not self.worker.take_back(unit):
            return False
        self.refuse(unit, messages.error_response(error))
        return True

    def canceled(self, unit: Unit) -> None:
        """Nobody else waits for its answer, which the pool gives itself."""
        self.fail(unit, messages.error_response(CANCELED))

    def _answer_virtually(self, unit: Unit) -> None:
        ends = unit.verdict.ends
        if self._virtual is Virtual.FAILED and ends and not unit.open:
            answer, self.status = rolled_back(unit.data)
            if self.status == b"I":
                self._virtual = Virtual.NONE
            self.prepared.note(unit)
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
            self._session_lost(worker, unit)
        elif unit is not None and unit.worker is worker:
            self._untell(worker)
            self._lost_in_flight(worker, unit, goodbye, said)
        elif self.status == b"I":
            if unit is not None:
                worker.roster.requeue(unit)
            elif self.unit is not None and self.unit.worker is worker:
                self.settled()  # it was answered, and its backend was asked what it might have left
        else:
            self._untell(worker)
            self._virtual = Virtual.LOST
            if unit is not None:
                self._answer_virtually(unit)
            elif self.unit is not None:  # it was answered, and its startup values were being restored
                if self.unit.withholds:
                    self.stream.write(messages.READY[self.status])
                self._finish()

    def _session_lost(self, worker: Worker, unit: Unit | None) -> None:
        """As on a connection of its own: it is told what the server said, if anything."""
        if worker.farewell is not None:
            self._end_with(worker.farewell)
            return
        is_unknown = unit is not None and unit.worker is worker
        detail = "It is not known whether the statement took effect." if is_unknown else None
        self.end(BackendLost("the server connection with the state of this session was lost", detail=detail))

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
        is_refused = unit.is_refused
        if not in_transaction and not is_refused and (has_not_run or unit.may_rerun(worker, now, sqlstate)):
            unit.lost_at = unit.lost_at or now
            unit.reruns += 1
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
        # Whether a COMMIT that has failed has ended it is not known: what comes next must not run outside of it.
        is_over = unit.verdict.ends and not is_refused
        failed = (in_transaction and not is_over) or (is_refused and unit.verdict.transaction)
        self._virtual = Virtual.FAILED if failed else Virtual.NONE
        raw, status = messages.error_response(error), b"E" if failed else b"I"
        if is_refused:
            self._end_unit(unit, b"", raw, status)  # it was told already what has become of it
        else:
            self.fail(unit, raw, status)

    # --- what it should know -----------------------------------------------------------------------------------------

    def _tell_withheld(self, unit: Unit) -> None:
        """All that it has reset is restored: the frontend is told what has become of its parameters, and is ready."""
        if unit.worker is not None:
            before, after = unit.before or {}, unit.worker.parameters
            for name, value in after.items():
                if before.get(name) != value:
                    self.stream.write(messages.parameter_status(name, value))
        self.stream.write(messages.READY[self.status])

    def tell_parameters(self, changed: dict[str, str]) -> None:
        """ParameterStatus values of the group have changed (a server reload); between two units, never inside one."""
        if self.unit is not None:
            self._changed_parameters.update(changed)
            return
        for name, value in changed.items():
            self.stream.write(messages.parameter_status(name, value))

    def tell_waiting(self, detail: str) -> None:
        """Its statement has not begun yet."""
        self.stream.write(
            messages.notice_response(
                "this statement still waits for a server connection", detail,
                "All connections are in use, or the server cannot be reached.", "01000",
            )
        )  # fmt: skip

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
