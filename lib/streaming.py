"""A frontend's unit that cannot be gathered: COPY, Flush, a Query before the Sync, or a very long message.

Green. Message by message, and very long messages part by part, it goes to a worker that the frontend has for itself
meanwhile, as fast as that takes it. Every message is checked before it is passed on, and the unit's script knows what
the backend owes for it.

source: protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY, protocol-flow.html#PROTOCOL-COPY
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lib.backend.unit import CALL, EXTENDED, SIMPLE, Unit
from lib.errors import ProtocolViolation
from lib.route.combine import OPAQUE, STANDBY_HINT, combine
from lib.route.verdict import Verdict
from lib.wire import messages
from lib.wire.framing import MAX_UNIT_BYTES, copy_data_run, frontend_header
from lib.wire.session import Script
from lib.wire.units import Extended, text_of

if TYPE_CHECKING:
    from lib.frontend import Frontend

_HIGH_WATER, _LOW_WATER = 262_144, 65_536  # bytes on the way to a backend that does not read
_PARSE, _QUERY, _CALL, _SYNC, _TERMINATE = b"PQFSX"
_RUNS = frozenset(b"PQF")
_COPY_MESSAGES = frozenset(b"dcf")
_EATEN = frozenset(b"SH")  # by a backend that waits for CopyData
_EXTENDED = frozenset(b"PBDEC")
KEPT = messages.message(b"P", b'\0"\0\0\0')  # stands for an unnamed statement that only its worker has; cannot be read
_KINDS = {ord("Q"): SIMPLE, ord("F"): CALL}


class Streaming:
    """What a frontend streams now.

    unit         the unit whose messages go to a worker, or None
    discarding   the unit has failed: drop all up to its Sync, and answer that
    """

    __slots__ = ("_forwarding", "_frontend", "_left", "_reader", "discarding", "unit")

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self.unit: Unit | None = None
        self.discarding = False
        self._left = 0  # bytes of the message that passes now, still to come
        self._forwarding = False  # they go to the worker; otherwise they are dropped
        self._reader = Extended()

    def __repr__(self) -> str:
        return f"<Streaming {self.unit!r} left={self._left}{' discarding' if self.discarding else ''}>"

    @property
    def is_active(self) -> bool:
        """Whether what the frontend sends now belongs here."""
        return self.unit is not None or self._left > 0 or self.discarding

    # --- beginning and end -------------------------------------------------------------------------------------------

    def begin(self, data: bytes, position: int) -> None:
        """Begin the unit whose first message is at `position`, which stays there: wait for a worker of its own."""
        frontend = self._frontend
        frontend.wait_until(lambda: frontend.unit is None or self.unit is not None)
        if self.unit is not None:
            return  # the unit ahead turned out to be a COPY, and it is that which gets the message
        kind = _KINDS.get(data[position], EXTENDED)
        verdict = self._verdict_ahead(data, position)
        if kind == EXTENDED and frontend.unnamed is not None:
            verdict = combine(verdict, frontend.router.verdict(text_of(frontend.unnamed)))
        unit = Unit(frontend, b"", kind, verdict)
        unit.script = Script()
        unit.open = True
        has_its_own = data[position] == _PARSE and data[position + 5 : position + 6] == b"\0"
        unit.wants_unnamed = kind == EXTENDED and not has_its_own
        self._reader = Extended()
        self.unit = unit
        frontend.submit(unit)
        frontend.wait_until(lambda: unit.worker is not None or self.unit is not unit)
        if self.unit is not unit and not self.discarding:
            # It was answered before anything of it was sent, and its message must not be taken for another unit.
            self.drop(data, position)

    def resume(self, unit: Unit) -> None:
        """CopyInResponse: a unit that was gathered goes on with CopyData."""
        self.unit = unit

    def end(self, unit: Unit, to_sync: bool = False) -> None:
        """The unit was answered. What still comes of it is dropped: the rest of a message, or all up to its Sync."""
        if to_sync:
            self.discarding = True
        if self.unit is unit:
            self.unit, self._forwarding = None, False

    def drop(self, data: bytes, position: int) -> None:
        """Drop the message at `position`, however much of it is there."""
        self._left, self._forwarding = frontend_header(data, position)[1] - position, False

    def _verdict_ahead(self, data: bytes, position: int) -> Verdict:
        # Of what is not all there only the server is known; of messages that are, all that route can say.
        if data[position] != _PARSE:
            return replace(OPAQUE, standby=data.startswith(STANDBY_HINT, position + 5))
        verdict = None
        while len(data) - position >= 5:
            tag, end = frontend_header(data, position)
            if end > len(data) or tag not in _EXTENDED:
                break
            if tag == _PARSE:
                found = self._frontend.router.verdict(text_of(data[position:end]))
                verdict = found if verdict is None else combine(verdict, found)
            position = end
        if verdict is None:
            return replace(OPAQUE, standby=data.startswith(STANDBY_HINT, data.find(b"\0", position + 5) + 1))
        return verdict

    # --- message by message ------------------------------------------------------------------------------------------

    def take(self, data: bytes, position: int) -> int:
        """Pass on one message, a run of CopyData, or a part of a long message.

        returns  the position behind it; `position` itself when more bytes are needed; -1 for Terminate
        raises   ProtocolViolation (08P01)
        """
        if not self._left:
            unit = self.unit
            if unit is not None and unit.script is not None and unit.script.copying:
                self._left, self._forwarding = copy_data_run(data, position) - position, True
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
        if tag == _TERMINATE:
            self._left = -1
        elif self.discarding:
            if tag == _SYNC:
                self.discarding = False
                self._frontend.stream.write(messages.READY[self._frontend.status])
        elif self.unit is not None:
            self._forwarding = self._note(self.unit, tag, data[position:end], end - position)
        return True

    def _note(self, unit: Unit, tag: int, whole: bytes, size: int) -> bool:
        """Take one message of the unit into account; whether it goes to the worker."""
        script = unit.script
        assert script is not None
        if script.copying:
            if tag in _EATEN:
                return False
            if tag not in _COPY_MESSAGES:
                raise ProtocolViolation(f"unexpected message type 0x{tag:02X} during COPY from stdin")
        elif unit.kind == EXTENDED:
            self._look(unit, tag, whole, len(whole) == size)
            refusal = self._frontend.refusal(unit.verdict)
            if refusal is not None:
                # What came before it is under way, so there is no telling the one from the other any more.
                self._frontend.end(refusal)
                return False
        reader = self._reader
        unit.names, unit.parse_unnamed, unit.drops_unnamed = reader.names, reader.parse_unnamed, reader.drops_unnamed
        script.sent(tag)
        if tag == _SYNC or (unit.kind != EXTENDED and tag != ord("d")):
            unit.open = False
        return True

    def _look(self, unit: Unit, tag: int, message: bytes, is_whole: bool) -> None:
        # Add what one message of the unit does to its verdict, and to what is known of its statements.
        router, reader = self._frontend.router, self._reader
        if tag in _RUNS:
            text = text_of(message) if tag == _PARSE else message[5:-1]
            seen = is_whole and tag != _CALL
            unit.verdict = combine(unit.verdict, router.verdict(text) if seen else OPAQUE)
        if tag == _QUERY:
            reader.drop_unnamed()
        elif is_whole and tag in b"PBDC":
            reader.read(message, 0, len(message))
        elif tag == _PARSE:
            # Too long to be kept for another worker: the frontend keeps this one, which knows what it is.
            reader.names = True
            reader.parse_unnamed = KEPT

    def _push(self, part: bytes) -> None:
        unit = self.unit
        if not self._forwarding or unit is None or unit.worker is None:
            return
        stream = unit.worker.stream
        unit.cut = self._left
        stream.write(part)
        if not self._left and not unit.open:
            self.unit = None
        if stream.pending > _HIGH_WATER:
            stream.wait_drained(_LOW_WATER)
