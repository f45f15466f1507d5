"""How long a frontend may go on with what it does, and how it ends: it leaves, or is told to.

Green by what it writes to; only `_leave` and `_see_out` park, in the frontend's own thread. Limits are kept by who
looks at all frontends every so often (`keeper`, `arrival`); here is what they see, and what they have done to it.
`Frontend` is the only one that is Ending.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import gevent

from lib.answering import Answering
from lib.errors import IdleTooLong, PoolError, ShuttingDown
from lib.patience import Doing
from lib.wire import messages

if TYPE_CHECKING:
    from lib import net
    from lib.backend.cluster import Cluster
    from lib.backend.groups import Group
    from lib.backend.riders import Riders
    from lib.modes import Silence

_SEEN_OUT_S = 0.5  # how often it is looked whether one that has closed its side is still there
_READ_OUT_S = 10.0  # how long a frontend that was ended may take to read what it was told


class Ending(Answering):
    """What it takes to end a frontend.

    silence   since when it is idle, where that has a limit
    """

    __slots__ = ("_is_read_out", "_stopping", "silence")

    def __init__(self, stream: net.Stream, cluster: Cluster, group: Group, may_use_standbys: bool) -> None:
        super().__init__(stream, cluster, group, may_use_standbys)
        self.silence: Silence | None = None
        self._stopping = False
        self._is_read_out = False  # it was ended, and still reads what it was told before

    @abstractmethod
    def notify(self) -> None:
        """What its thread waits for may have come."""

    @abstractmethod
    def wait_for_news(self, limit_s: float | None = None) -> None:
        """Park its thread until then, or until so long has passed."""

    # --- limits ------------------------------------------------------------------------------------------------------

    @property
    def is_between(self) -> bool:
        """Whether it has been told that it is ready, and has sent nothing since, as far as is known."""
        unit = self.unit
        if unit is None:
            return True
        return unit.is_over and not (unit.withholds or self.pending or self.streaming.waits)

    @property
    def backend(self) -> Riders | None:
        """The worker that runs its statement, or else the one that it holds."""
        unit = None if self.is_between else self.unit
        return (unit.worker if unit is not None else None) or self.worker

    def doing(self) -> tuple[Doing, object]:
        """What it does at this moment, and what tells that from the last time that it did so."""
        unit, worker = self.unit, self.worker
        if unit is not None and not self.is_between:
            runs = unit.worker is not None and not unit.is_over
            return (Doing.RUNNING if runs else Doing.WAITING), unit
        if self.status != b"I":
            return Doing.IN_TRANSACTION, (self.status, worker.processed if worker is not None else -1)
        return Doing.IDLE, None

    def cancel_late(self, limit_s: float) -> None:
        """Cancel what runs, and say why: the server will only say that somebody wanted it."""
        unit = self.unit
        if unit is not None and unit.worker is not None and not unit.is_over:
            if not unit.worker.mid_message:
                self.stream.write(messages.late_notice(limit_s))
            unit.worker.cancel(unit)  # and nothing behind it

    def look(self, now: float) -> None:
        """End it when it has been idle for longer than active_cnn_timeout."""
        if self.silence is None or self.is_gone:
            return
        is_busy = self.unit is not None or bool(self.pending) or self.streaming.is_active or self.stream.pending > 0
        if self.silence.look(now, is_busy) > self.settings.active_cnn_timeout:
            self.end(IdleTooLong("terminating connection due to idle-session timeout"))

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The pool is being stopped: goodbye as soon as the statement in flight has answered."""
        self._stopping = True
        if self.is_between:
            self.end(ShuttingDown("terminating connection due to administrator command"))

    def end(self, error: PoolError) -> None:
        """Say why, and close."""
        if not self.is_gone:
            login = self.group.login
            self.cluster.tallies.told(login.user, login.database, error.sqlstate)
        self._end_with(messages.error_response(error, "FATAL"))

    def _end_with(self, raw: bytes) -> None:
        self.stream.write(raw)
        if not self.stream.pending or not self.is_between:
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

    def _give_back_if_gone(self) -> None:
        worker = self.worker
        if self.is_gone and worker is not None:  # it left meanwhile, while its unit still stood for the worker
            self.worker = None
            worker.reclaim(self.status)

    def _see_out(self) -> None:
        """It sends nothing more, but may still read: what it has sent is answered as long as somebody is there.

        Who has gone altogether looks the same, until something is said that is nothing new.
        """
        stream, streaming, told = self.stream, self.streaming, None
        while not (self.is_gone or streaming.is_active) and (self.unit is not None or self.pending or stream.pending):
            unit = self.unit
            known = self.group.parameters.get("server_version")
            if known and unit is not told and not (unit is None or unit.answered or stream.pending):
                stream.write(messages.parameter_status("server_version", known))
                told = unit
            if stream.has_hung_up():
                break
            self.wait_for_news(_SEEN_OUT_S)

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
