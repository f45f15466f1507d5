"""From a backend's bytes to its frontends: headers are scanned, chunks are passed on as they come.

Green by what it writes to; it never parks. Never a row by itself and never a whole result. What means something to the
pool (errors, parameters, notifications, the beginning of a COPY, ReadyForQuery) is looked at; all else is not.
`Worker` is the only one that is a Relay; what happens at a ReadyForQuery is its business.

source: protocol-flow.html, protocol-message-formats.html
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from lib.backend import dialogue
from lib.backend.unit import SIMPLE, Exchange, Unit
from lib.errors import ProtocolViolation
from lib.wire import messages
from lib.wire.framing import (
    COPY_IN,
    ERROR,
    INTERESTING,
    NOTICE,
    NOTIFICATION,
    PARAMETER,
    PARSED,
    READY,
    READY_TAG,
    header,
    missing,
    scan,
)

if TYPE_CHECKING:
    from lib.backend.roster import Roster
    from lib.frontend import Frontend

MAX_HELD_BYTES = 65_536  # a message longer than this is passed on in parts, and cannot be taken back
MAX_DISCARDED_BYTES = 1_000_000  # what is read for a frontend that is gone, before its backend is given up instead
_ACTED_ON = ERROR | NOTICE | PARAMETER | NOTIFICATION | COPY_IN  # what in an answer is looked at before it is passed on
_UNASKED = ERROR | NOTICE | PARAMETER | NOTIFICATION  # what a backend may say at any time
_ERROR_TAG = ord("E")
_LAST_WARNING = "quickdie"  # the server's routine that says goodbye in a crash or an immediate shutdown: a WARNING only


class Relay(ABC):
    """What a worker knows of its backend's bytes.

    holder        the frontend that has the worker: during a unit, a transaction, or until it disconnects
    session       the holder keeps it until it disconnects
    retiring      it is closed as soon as nobody has it
    in_flight     units and exchanges that were sent and are not answered, oldest first
    parameters    what the backend has reported (ParameterStatus)
    mid_message   a frontend has part of a message
    """

    __slots__ = (
        "_blocked_by",
        "_discarded",
        "_goodbye",
        "_missing",
        "_parts",
        "_skip",
        "holder",
        "in_flight",
        "parameters",
        "parameters_changed",
        "retiring",
        "roster",
        "session",
        "stream",
    )

    def __init__(self, roster: Roster, backend: dialogue.Backend) -> None:
        self.roster = roster
        self.stream = backend.stream
        self.parameters = backend.parameters
        self.parameters_changed = True
        self.holder: Frontend | None = None
        self.session = self.retiring = False
        self.in_flight: deque[Unit | Exchange] = deque()
        self._parts: list[bytes] = []  # of a message that is cut
        self._missing = 0  # bytes of it that are still to come, as far as is known
        self._skip = 0  # bytes of a long message that are still to be passed on
        self._goodbye: bytes | None = None  # what the server announced its end with
        self._blocked_by: Frontend | None = None  # does not read as fast as the backend answers
        self._discarded = 0

    @property
    def farewell(self) -> bytes | None:
        """The FATAL with which the server has ended it, as it came."""
        return self._goodbye if self._goodbye is not None and self._goodbye[0] == _ERROR_TAG else None

    @property
    def mid_message(self) -> bool:
        return self._skip > 0

    @abstractmethod
    def _ready(self, status: bytes) -> None:
        """A ReadyForQuery was passed on, or belongs to the worker's own exchange."""

    def _feed(self, data: bytes) -> None:
        """Take bytes from the backend: pass on what belongs to the head of the deque, act on what means something."""
        begin = position = 0  # begin: the first byte not passed on; position: where a message begins
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data, self._parts = b"".join(self._parts), []
        stop = len(data)
        if self._skip:
            if self._skip >= stop:
                self._skip -= stop
                self._pass_on(self.in_flight[0], data)
                return
            position, self._skip = self._skip, 0
        while position < stop:
            end, last, seen = scan(data, position, stop)
            unit = self.in_flight[0] if self.in_flight else None
            if seen & _ACTED_ON or unit is None or unit.__class__ is not Unit or unit.is_followed:
                self._walk(unit, data, begin, position, end)
            elif end > begin:
                unit.has_parsed = unit.has_parsed or seen & PARSED > 0
                self._pass_on(unit, data if begin == 0 and end == stop else data[begin:end])
            begin = position = end
            if last == READY_TAG:
                if end < stop and self._owes_nothing_behind(unit):
                    self._end_with(data[end - 1 : end], data[end:stop])
                    return
                self._ready(data[end - 1 : end])
                if self.stream.is_closed:
                    return
            elif end < stop:
                self._cut(unit, data, end, stop)
                return

    def _owes_nothing_behind(self, unit: Unit | Exchange | None) -> bool:
        # Of what is in flight this was the last ReadyForQuery.
        followed = isinstance(unit, Unit) and unit.script is not None and not unit.script.is_done
        return len(self.in_flight) == 1 and not followed

    def _end_with(self, status: bytes, behind: bytes) -> None:
        """The last answer is there, and `behind` it something that was said before anybody asked for more: it is looked
        at before the worker is somebody else's, who would take it for an answer."""
        violation = None
        try:
            end, last, _ = scan(behind, 0, len(behind))
            self._walk(None, behind, 0, 0, end)
            if last != READY_TAG and end < len(behind):
                self._cut(None, behind, end, len(behind))
        except ProtocolViolation as error:
            violation = error
        self.retiring = self.retiring or violation is not None or self._goodbye is not None
        self._ready(status)
        if violation is not None and not self.stream.is_closed:
            raise violation

    def _cut(self, unit: Unit | Exchange | None, data: bytes, end: int, stop: int) -> None:
        # The last message is not all there. It is kept, so that a frontend only ever has whole messages and can be told
        # of the worst between two of them; only a really long one is passed on in parts.
        if unit is None and not INTERESTING[data[end]] & _UNASKED:
            raise ProtocolViolation(f"unexpected message type {data[end : end + 1]!r} from an idle backend")
        rest = missing(data, end, stop)
        is_kept = not isinstance(unit, Unit) and (unit is None or bool(unit.keeps))
        if rest is None or stop - end + rest <= MAX_HELD_BYTES or INTERESTING[data[end]] or is_kept:
            # In parts, for a long ErrorResponse must not be copied with every read.
            self._parts = [data[end:stop]]
            self._missing = 5 - (stop - end) if rest is None else rest
            return
        if isinstance(unit, Unit) and unit.script is not None:
            unit.script.received(data[end])
        self._skip = rest
        self._pass_on(unit, data[end:stop])

    def _walk(self, unit: Unit | Exchange | None, data: bytes, begin: int, position: int, end: int) -> None:
        """Look at every message of data[position:end], and pass on data[begin:end] without those that are ours."""
        script = unit.script if isinstance(unit, Unit) else None
        kept = []
        while position < end:
            tag, length = header(data, position)
            following = position + 1 + length
            if script is not None:
                if script.hidden and script.is_hidden(tag, data[position:following]):
                    kept.append(data[begin:position])
                    begin = position = following
                    continue
                script.received(tag)
            kind = INTERESTING[tag]
            if not self._concerns_frontend(unit, kind, data[position:following]):
                kept.append(data[begin:position])
                begin = following
            elif kind == ERROR and isinstance(unit, Unit) and (unit.uses or unit.makes):
                kept += (data[begin:position], unit.named(data[position:following]))
                begin = following
            elif script is None and isinstance(unit, Unit):
                script = unit.script  # a COPY has just begun
            position = following
        kept.append(data[begin:end])
        if self._goodbye is None or not isinstance(unit, Unit) or unit.answered or unit.failed:
            self._pass_on(unit, b"".join(kept))
        # Otherwise the frontend has seen nothing of an answer that ends in FATAL, and the unit may run elsewhere.

    def _concerns_frontend(self, unit: Unit | Exchange | None, kind: int, raw: bytes) -> bool:
        """Act on one message; whether it is passed on."""
        is_withheld = unit is not None and kind in (PARAMETER, READY) and self._withholds(unit)
        if kind == PARAMETER:
            name, value = messages.read_parameter_status(raw)
            self.parameters[name] = value
            self.parameters_changed = True
        if is_withheld:
            return False
        if kind == NOTIFICATION:
            # Whoever listened here before is gone, and what was meant for them is nobody's.
            return self.session or (isinstance(unit, Unit) and unit.verdict.holds)
        if kind == ERROR:
            return self._error(unit, raw)
        if kind == NOTICE and messages.error_fields(raw).get("R") == _LAST_WARNING:
            self._goodbye = raw  # no part of an answer; the end of the stream follows
            return False
        if unit is None:
            if kind not in (PARAMETER, NOTICE):
                raise ProtocolViolation(f"unexpected message type {raw[:1]!r} from an idle backend")
            return self.holder is not None
        if isinstance(unit, Exchange):
            if raw[0] in unit.keeps:
                unit.rows.append(raw)
            # Startup values that are brought back are the frontend's, and it is told of them as of its own RESET.
            return kind == PARAMETER and self.holder is not None and unit.is_shown
        if kind == COPY_IN:
            unit.copy_begins()
            if unit.frontend.is_gone:
                raise ProtocolViolation("a COPY waits for data from a frontend that has gone")
        elif kind == PARSED and unit.swallow:
            unit.swallow -= 1
            return False
        elif unit.watch is not None:
            unit.watch.received(raw[0], raw)
        if kind == PARSED:
            unit.has_parsed = True
        return True

    def _withholds(self, unit: Unit | Exchange) -> bool:
        if not isinstance(unit, Unit) or not unit.withholds:
            return False
        if unit.before is None:
            unit.before = dict(self.parameters)
        return True

    def _error(self, unit: Unit | Exchange | None, raw: bytes) -> bool:
        fields = messages.error_fields(raw)
        if messages.severity(fields) in ("FATAL", "PANIC"):
            self._goodbye = raw  # the end of the stream follows, and says what it means for whom
            return False
        if unit is None:
            raise ProtocolViolation("an ErrorResponse that nobody asked for")
        if isinstance(unit, Exchange):
            unit.error = unit.error or raw
            return False
        unit.failed = True
        self.roster.tally.errors[fields.get("C", "")] += 1
        if unit.kind == SIMPLE and unit.swallow:
            # A message in front of it was refused, and with it all up to a Sync, which a Query does not bring.
            self.stream.write(messages.SYNC)
        return True

    def _pass_on(self, unit: Unit | Exchange | None, data: bytes) -> None:
        if isinstance(unit, Unit):
            unit.answered = unit.answered or bool(data)
            frontend: Frontend | None = unit.frontend
        else:
            frontend = self.holder
        if frontend is None or not data:
            return
        stream = frontend.stream
        stream.write(data)
        if stream.is_closed:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED_BYTES:
                raise ProtocolViolation("its frontend has gone and left a large answer behind")
        elif stream.pending > self.roster.client_buffer:
            self._blocked_by = frontend
