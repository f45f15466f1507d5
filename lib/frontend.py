"""A green thread per frontend, from its first statement to its last.

Green. The thread reads, gathers units and hands them on; answers are written by the workers' threads. One unit at a
time is on its way; what a frontend pipelines waits behind it, so that its statements run in its own order. What cannot
be gathered (COPY, Flush, very long messages) is streamed to a worker that the frontend has for itself meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gevent.event import Event

from lib.backend.unit import CALL, EXTENDED, SIMPLE, Unit, simple_query
from lib.ending import Ending
from lib.errors import ProtocolViolation
from lib.preparing import PreparedStatements
from lib.route.combine import EARLIER, OPAQUE, combine
from lib.route.verdict import Kind
from lib.streaming import Streaming
from lib.turns import give_way_in_time
from lib.virtual import Virtual
from lib.wire import messages
from lib.wire.framing import header
from lib.wire.units import Extended, Found, Seen, gather, usual

if TYPE_CHECKING:
    from lib import net
    from lib.backend.cluster import Cluster
    from lib.backend.groups import Group
    from lib.modes import Silence

_NOT_VIRTUAL, _WRITE, _SESSION = Virtual.NONE, Kind.WRITE, Kind.SESSION
MAX_PENDING = 200  # units that a frontend may pipeline before it is read on
_LET_OTHERS = 20  # messages that are taken in before it is seen whether others must have their turn
_QUERY, _BIND, _PARSE = b"QBP"
_BEGINS = frozenset(b"PBDC")  # what a unit of the extended protocol may begin with
_KINDS = {Found.QUERY: SIMPLE, Found.EXTENDED: EXTENDED, Found.CALL: CALL}


class Frontend(Ending):
    """One client connection that was let in; what it is beside what `Answering` and `Ending` say:

    is_read_only  all that it sends goes to the standbys
    asked         its startup packet, as it came
    """

    __slots__ = (
        "__weakref__", "_cancels_rest", "_pumping", "_rest", "_seen", "_wake", "asked", "is_read_only", "key",
        "may_use_standbys", "peer", "router",
    )  # fmt: skip

    def __init__(
        self,
        stream: net.Stream,
        cluster: Cluster,
        group: Group,
        key: tuple[int, bytes],
        peer: str,
        may_use_standbys: bool,
    ) -> None:
        super().__init__(stream, cluster, group, may_use_standbys)
        self.router = cluster.router(group.login.database)
        self.key = key
        self.peer = peer
        self.may_use_standbys = may_use_standbys
        self.prepared = PreparedStatements(self)
        self.streaming = Streaming(self)
        self.is_read_only = False
        self.asked: messages.Startup | None = None
        self._rest = b""  # a unit that is cut
        self._cancels_rest = False  # that is to be canceled
        self._seen: Seen | None = None  # what is known of it
        self._wake: Event | None = None
        self._pumping = False

    def __repr__(self) -> str:
        login = self.group.login
        return (
            f"<Frontend {self.key[0]} {self.peer} {login.user}@{login.database} status={self.status.decode()} "
            f"pending={len(self.pending)}{' held' if self.worker else ''}{' gone' if self.is_gone else ''}>"
        )

    @property
    def log_fields(self) -> dict[str, object]:
        """What a line of the log about it says beside its message, where lines have fields."""
        login = self.group.login
        return {"frontend": self.key[0], "client": self.peer, "user": login.user, "database": login.database}

    # --- reading -----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Read until the frontend is gone; leave nothing of it behind."""
        recv = self.stream.recv
        try:
            while (data := recv(self._at_once if self.silence is None else self._heard)) and not self.is_gone:
                if not self._take(self._rest + data if self._rest else data):
                    break
                self._hold_back()
            if not (data or self.is_gone):
                self._see_out()
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
        if self._rest or self.pending or self.is_gone or self.streaming.is_active:
            return data
        unread = self.stream.pending
        if unread and unread > self.settings.client_buffer:
            return data
        size = len(data)
        if size > 5:
            tag, length = header(data, 0)
            if tag == _QUERY and length == size - 1:
                self._query(data)
                return None
            if tag == _BIND and self.unit is None and self.worker is None:
                unit = self.prepared.usual(data, length)
                if unit is not None:
                    if unit.rides and self._virtual is _NOT_VIRTUAL:
                        self.unit = unit
                        self.cluster.dispatch(unit)  # as _start does with a read that leaves nothing behind
                    else:
                        self._start(unit)
                    return None
            if tag == _PARSE:
                read = usual(data)
                if read is not None:
                    self._extended(data, read)
                    return None
        if data[0] in _BEGINS:
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
        position, taken, ends_at = 0, 0, 0.0
        while position < len(data) and not self.is_gone:
            self._hold_back()
            taken += 1
            if not taken % _LET_OTHERS:
                ends_at = give_way_in_time(ends_at)
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
            is_canceled = self._cancels_rest and what is not Found.NOTHING
            if is_canceled:
                self._cancels_rest = False
            if is_canceled and what in _KINDS:
                unit = Unit(self, data[position:end], _KINDS[what], OPAQUE)
                unit.is_canceled = True
                self.submit(unit)
            elif what is Found.EXTENDED and read is not None:
                self._extended(data[position:end], read)
            elif what is Found.QUERY:
                self._query(data[position:end])
            elif what is Found.CALL:
                self.submit(Unit(self, data[position:end], CALL, OPAQUE))
            elif what is Found.STREAM:
                streaming.begin(data, position, is_canceled)
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
        known = self.router.known(data[5:-1])
        unit = simple_query(self, data, known)
        if (
            not known.is_plain or self.unit is not None or self.pending or self._virtual is not _NOT_VIRTUAL
            or (known.verdict.transaction and self.settings.transactions == "reject")
        ):  # fmt: skip
            self.submit(unit)
            return
        unit.is_plain = True
        self.unit = unit
        worker = self.worker
        if worker is None:
            self.cluster.dispatch(unit)
        else:
            worker.go_on(unit)

    def _extended(self, data: bytes, read: Extended) -> None:
        if read.names:
            unit = Unit(self, data, EXTENDED, EARLIER)
            unit.names = True
            self.submit(unit)
            return
        texts = read.texts
        known = self.router.known(texts[0]) if texts else None
        verdict = known.verdict if known is not None else EARLIER
        for text in texts[1:]:
            verdict = combine(verdict, self.router.verdict(text))
        unit = Unit(self, data, EXTENDED, verdict)
        unit.parse_unnamed = read.parse_unnamed
        unit.drops_unnamed = read.drops_unnamed
        if known is not None and len(texts) == 1:
            unit.known, unit.marks = known, known.marks
            is_next = self.unit is None and not self.pending and self.worker is None
            if is_next and known.rides and self._virtual is _NOT_VIRTUAL:
                self.unit = unit
                self.cluster.dispatch(unit)  # as _start does with a read that leaves nothing behind
                return
        self.submit(unit)

    # --- one unit after the other ------------------------------------------------------------------------------------

    def submit(self, unit: Unit) -> None:
        if self.unit is None and not self.pending and not unit.is_canceled:
            self._start(unit)
        else:
            self.pending.append(unit)
            if unit.is_canceled:
                self._pump()

    def _start(self, unit: Unit) -> None:
        self.unit = unit
        unit.group = self.group
        if unit.names:
            self.prepared.resolve(unit)
            if self._virtual is _NOT_VIRTUAL and self.status != b"E" and (answer := self.prepared.known_answer(unit)):
                self.prepared.note(unit)
                self.stream.write(answer + messages.READY[self.status])
                self._finish()
                return
        if self._virtual is not _NOT_VIRTUAL:
            self._answer_virtually(unit)
            return
        if unit.verdict.kind > _WRITE:
            error = self.refusal(unit.verdict)
            if error is not None:
                self.refuse(unit, messages.error_response(error))
                return
            if unit.verdict.holds and self.settings.pin_notice:
                self.tell_held(unit.verdict.reason)
            if (unit.verdict.resets or unit.verdict.local_resets) and self.home.settings and unit.script is None:
                unit.withholds = True
        if unit.marks and unit.verdict.frees:
            self.cluster.leaving.leave(unit.verdict.frees)
        if unit.verdict.kind >= _SESSION or unit.verdict.deallocates:
            self.prepared.show(unit)
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
                if not unit.is_canceled:
                    self._start(unit)
                else:
                    self._start_canceled(unit)
            self._pumping = False
        if self._wake is not None:
            self._wake.set()
        if self._stopping and self.unit is None and not self.is_gone:
            self.stop()

    def unit_done(self, unit: Unit, status: bytes) -> None:
        """The unit's last ReadyForQuery was passed on."""
        self.status = status
        if self.mark is not None and unit.verdict.kind >= _WRITE:
            self.cluster.replay.wrote(self.mark, unit)
        self.prepared.note(unit)
        if self.streaming.unit is unit:
            self.streaming.end(unit)
        worker = self.worker
        if worker is not None and worker.unsettled and not self.is_gone:
            unit.is_over = True
            if worker.settle(unit, status):
                return
        if unit.withholds:
            self._tell_withheld(unit)
        self._finish()

    def read_done(self, unit: Unit) -> None:
        """The same for a read that leaves nothing behind, outside of a transaction."""
        if unit.kind is SIMPLE:
            self.prepared.unnamed = None  # as every simple query destroys it
        elif unit.effects or unit.parse_unnamed is not None or unit.drops_unnamed:
            self.prepared.note(unit)
        self.unit = None
        if self.pending or self._changed_parameters or self._wake is not None or self._stopping:
            self._finish()

    def plain_done(self, unit: Unit, status: bytes) -> None:
        """The same for a plain unit."""
        self.status = status
        if self.mark is not None and unit.verdict.kind >= _WRITE:
            self.cluster.replay.wrote(self.mark, unit)
        self.prepared.unnamed = None
        self.unit = None
        if self.pending or self._changed_parameters or self._wake is not None or self._stopping:
            self._finish()

    def settled(self) -> None:
        """What its last unit has set is known now, and startup values that it has reset are restored."""
        if self.unit is not None and self.unit.withholds:
            self._tell_withheld(self.unit)
        self._finish()
        self._give_back_if_gone()

    def _finish(self) -> None:
        self.unit = None
        if self._changed_parameters:
            changed, self._changed_parameters = self._changed_parameters, {}
            self.tell_parameters(changed)
        if self.pending or self._wake is not None or self._stopping:
            self._pump()

    # --- one that is canceled before it is its turn ------------------------------------------------------------------

    def _cancel_next(self) -> None:
        if self.pending:
            self.pending[0].is_canceled = True
        elif self.streaming.waits:
            self.streaming.cancels_next = True
        else:
            self._cancels_rest = bool(self._rest)

    def _start_canceled(self, unit: Unit) -> None:
        """Nothing of it has been done: the pool answers, but for a transaction that the server has to fail."""
        if self._virtual is _NOT_VIRTUAL and self.status == b"I":
            self.unit = unit
            self.canceled(unit)
            return
        self._start(unit)
        if unit is self.unit and unit.worker is None:
            self.cancel()  # it may have to wait for long before it is refused

    # --- waiting and being told --------------------------------------------------------------------------------------

    def wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self.is_gone:
            self.wait_for_news()

    def wait_for_news(self, limit_s: float | None = None) -> None:
        self._wake = Event()
        self._wake.wait(limit_s)
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

    def watch_silence(self, silence: Silence | None) -> None:
        """Whether there is a limit to how long it may be idle has changed."""
        self.silence = silence
        self.stream.hear(self._at_once if silence is None else self._heard)
