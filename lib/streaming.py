"""A frontend's unit that cannot be gathered: COPY, Flush, a Query before the Sync, or a very long message.

Green. Message by message, and very long messages part by part, it goes to a worker that the frontend has for itself
meanwhile, as fast as that takes it. Every message is checked before it is passed on, and the unit's script knows what
the backend owes for it.

source: protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY, protocol-flow.html#PROTOCOL-COPY
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lib.backend import tuning
from lib.backend.unit import CALL, EXTENDED, SIMPLE, Unit
from lib.errors import ProtocolViolation
from lib.route.combine import OPAQUE, STANDBY_HINT, combine
from lib.wire import messages
from lib.wire.framing import MAX_UNIT_BYTES, copy_data_run, frontend_header
from lib.wire.prepared import Resolver, Watch
from lib.wire.session import Script
from lib.wire.units import text_of

if TYPE_CHECKING:
    from lib.frontend import Frontend

_HIGH_WATER, _LOW_WATER = 262_144, 65_536  # bytes on the way to a backend that does not read
_OVERLAP = 200  # bytes of a text's last part that are looked at with the next one: names may be cut
_PARSE, _BIND, _QUERY, _CALL, _SYNC, _TERMINATE = b"PBQFSX"
_RUNS = frozenset(b"PQF")
_ASKS = frozenset(b"SHQF")  # all that was sent before is run when it has arrived
_COPY_MESSAGES = frozenset(b"dcf")
_EATEN = frozenset(b"SH")  # by a backend that waits for CopyData
_EXTENDED = frozenset(b"PBDEC")
_NAMING = frozenset(b"PBDC")
_KINDS = {ord("Q"): SIMPLE, ord("F"): CALL}


class Streaming:
    """What a frontend streams now.

    unit         the unit whose messages go to a worker, or None
    discarding   the unit has failed: drop all up to its Sync, and answer that
    is_active    what the frontend sends now belongs here
    waits        a message is there that begins a unit, when the one in front of it is over
    cancels_next that unit is to be canceled
    """

    __slots__ = (
        "_forwarding", "_frontend", "_last", "_left", "_resolver", "_seen", "cancels_next", "discarding", "is_active",
        "unit", "waits",
    )  # fmt: skip

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self.unit: Unit | None = None
        self.discarding = False
        self._left = 0  # bytes of the message that passes now, still to come
        self._forwarding = False  # they go to the worker; otherwise they are dropped
        self._resolver: Resolver | None = None
        self.is_active = self.waits = self.cancels_next = False
        self._last = 0  # tag of the last message of the unit that went to the worker
        self._seen = b""  # the end of the last part of a text

    def __repr__(self) -> str:
        return f"<Streaming {self.unit!r} left={self._left}{' discarding' if self.discarding else ''}>"

    def _changed(self) -> None:
        # Asked for with everything that arrives, so it is not worked out there.
        self.is_active = self.unit is not None or self._left > 0 or self.discarding

    # --- beginning and end -------------------------------------------------------------------------------------------

    def begin(self, data: bytes, position: int, is_canceled: bool = False) -> None:
        """Begin the unit whose first message is at `position`, which stays there: wait for a worker of its own."""
        frontend = self._frontend
        self.waits, self.cancels_next = True, is_canceled
        frontend.wait_until(lambda: frontend.unit is None or self.unit is not None)
        self.waits = False
        if self.unit is not None:
            return  # the unit ahead turned out to be a COPY, and it is that which gets the message
        kind = _KINDS.get(data[position], EXTENDED)
        unit = Unit(frontend, b"", kind, OPAQUE)
        unit.script = Script()
        unit.open = True
        unit.is_canceled = self.cancels_next
        if kind == EXTENDED:
            self._look_ahead(unit, data, position)
            self._resolver = frontend.prepared.resolver()
            unit.watch = Watch(self._resolver.described)
        else:
            unit.verdict = replace(OPAQUE, standby=data.startswith(STANDBY_HINT, position + 5))
            self._resolver = None
        self.unit, self._last = unit, 0
        self._changed()
        frontend.submit(unit)
        frontend.wait_until(lambda: unit.worker is not None or self.unit is not unit)
        if self.unit is not unit and not self.discarding:
            # It was answered before anything of it was sent, and its message must not be taken for another unit.
            self.drop(data, position)

    def resume(self, unit: Unit) -> None:
        """CopyInResponse: a unit that was gathered goes on with CopyData."""
        self.unit = unit
        self._changed()

    def end(self, unit: Unit, to_sync: bool = False) -> None:
        """The unit was answered. What still comes of it is dropped: the rest of a message, or all up to its Sync."""
        if to_sync:
            self.discarding = True
        if self.unit is unit:
            self.unit, self._forwarding = None, False
        self._changed()

    def drop(self, data: bytes, position: int) -> None:
        """Drop the message at `position`, however much of it is there."""
        self._left, self._forwarding = frontend_header(data, position)[1] - position, False
        self._changed()

    def _look_ahead(self, unit: Unit, data: bytes, begin: int) -> None:
        """Say of the unit what the messages say that are all there, and what must be on its worker for them."""
        prepared = self._frontend.prepared
        resolver = prepared.resolver()
        position = begin
        while len(data) - position >= 5:
            tag, end = frontend_header(data, position)
            if end > len(data) or tag not in _EXTENDED:
                break
            if tag in _NAMING:
                resolver.take(data[position:end])
            position = end
        unit.uses = resolver.uses
        if resolver.texts or resolver.is_unsure:
            unit.verdict = prepared.verdict(resolver.texts, resolver.is_unsure)
        elif data[begin] == _PARSE:
            unit.verdict = replace(OPAQUE, standby=data.startswith(STANDBY_HINT, data.find(b"\0", begin + 5) + 1))

    # --- canceling it ------------------------------------------------------------------------------------------------

    def puts_off_cancel(self, unit: Unit) -> bool:
        """Whether a cancel request would do nothing now, as the backend does not have all yet that it is to run: then
        one is sent when it does."""
        script = unit.script
        is_there = not self._left and self._last in _ASKS
        if self.unit is not unit or is_there or (script is not None and script.copying):
            return False
        unit.is_canceled = True
        return unit.kind != EXTENDED or not self._last  # else it may be running what came before

    def _sent(self, unit: Unit) -> None:
        # A message is all there.
        if unit.is_canceled and self._last in _ASKS and unit.worker is not None:
            unit.is_canceled = False
            unit.worker.stream.wait_drained()
            unit.worker.cancel(unit)

    # --- message by message ------------------------------------------------------------------------------------------

    def take(self, data: bytes, position: int) -> int:
        """Pass on one message, a run of CopyData, or a part of a long message.

        returns  the position behind it; `position` itself when more bytes are needed; -1 for Terminate
        raises   ProtocolViolation (08P01)
        """
        try:
            return self._take(data, position)
        finally:
            self._changed()

    def _take(self, data: bytes, position: int) -> int:
        if not self._left:
            unit = self.unit
            if unit is not None and unit.script is not None and unit.script.copying:
                self._left, self._forwarding = copy_data_run(data, position) - position, True
            if not self._left:
                begun = self._begin_message(data, position)
                if begun == position and not self._left:
                    return position
                position = begun
            if self._left < 0:
                return -1
        part = data[position : position + self._left]
        self._left -= len(part)
        self._push(part)
        return position + len(part)

    def _begin_message(self, data: bytes, position: int) -> int:
        """Look at the message that begins at `position`: `_left` is what is to come, `_forwarding` where that goes.

        returns  the position behind what is dealt with; `position` itself, and nothing to come, when more bytes are
                 needed to tell
        """
        if len(data) - position < 5:
            return position
        tag, end = frontend_header(data, position)
        if end - position <= MAX_UNIT_BYTES and end > len(data):
            return position
        self._left, self._forwarding = end - position, False
        if tag == _TERMINATE:
            self._left = -1
        elif self.discarding:
            if tag == _SYNC:
                self.discarding = False
                self._frontend.stream.write(messages.READY[self._frontend.status])
        elif self.unit is not None:
            self._forwarding = self._note(self.unit, tag, data[position:end], end - position)
            if self._forwarding and self._resolver is not None and tag in _NAMING:
                self._forwarding = False
                return self._push_named(self.unit, self._resolver, data[position:end], position, end)
        return position

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
        self._last = tag
        if tag not in _NAMING or unit.kind != EXTENDED:
            script.sent(tag)
        if tag == _SYNC or (unit.kind != EXTENDED and tag != ord("d")):
            unit.open = False
        return True

    def _look(self, unit: Unit, tag: int, message: bytes, is_whole: bool) -> None:
        # Add what one message of the unit does to its verdict. (What a Bind runs is found with its name.)
        if tag in _RUNS:
            text = text_of(message) if tag == _PARSE else message[5:-1]
            seen = is_whole and tag != _CALL
            unit.verdict = combine(unit.verdict, self._frontend.router.verdict(text) if seen else OPAQUE)
        if tag == _QUERY and self._resolver is not None:
            self._resolver.drop_unnamed()
            self._resolver.runs.append(None)
            self._frontend.prepared.take_over(unit, self._resolver)

    def _push_named(self, unit: Unit, resolver: Resolver, message: bytes, position: int, end: int) -> int:
        """Send a message that may name a statement, as backends get it, with what must go in front of it.

        returns  the position behind what is dealt with; of a message that is cut the rest is forwarded as it comes
        """
        worker, script = unit.worker, unit.script
        assert script is not None
        if worker is None:
            return position
        size = end - position
        is_whole = len(message) == size
        texts, uses = len(resolver.texts), len(resolver.uses)
        makes, first = len(resolver.makes), len(resolver.first)
        if is_whole:
            sent, dealt_with = resolver.take(message), size
        elif message[0] == _BIND:
            sent, dealt_with = resolver.take_cut(message, size)
        else:
            # A Parse that is too long to be kept for another worker: the frontend keeps this one.
            resolver.keep_cut(message)
            unit.keeps_names = True
            sent, dealt_with = b"", 0
        if message[0] != _PARSE:
            for text in resolver.texts[texts:]:
                unit.verdict = combine(unit.verdict, self._frontend.router.verdict(text))
        lead = b""
        if len(resolver.uses) > uses or len(resolver.makes) > makes or len(resolver.first) > first:
            lead = worker.lead_in_stream(unit, resolver.uses[uses:], resolver.makes[makes:], resolver.first[first:])
        self._frontend.prepared.take_over(unit, resolver)
        script.sent(message[0])
        worker.stream.write(lead + sent)
        self._left = unit.cut = size - dealt_with
        self._forwarding = self._left > 0
        if worker.stream.pending > _HIGH_WATER:
            worker.stream.wait_drained(_LOW_WATER)
        return position + dealt_with

    def _push(self, part: bytes) -> None:
        unit = self.unit
        if not self._forwarding or unit is None or unit.worker is None:
            return
        stream = unit.worker.stream
        unit.cut = self._left
        if unit.kind == SIMPLE and not unit.data and not (unit.script is not None and unit.script.copying):
            seen = self._seen + part
            unit.customs |= tuning.customs(seen)
            self._seen = seen[-_OVERLAP:] if self._left else b""
        stream.write(part)
        if not self._left:
            self._sent(unit)
            if not unit.open:
                self.unit = None
        if stream.pending > _HIGH_WATER:
            stream.wait_drained(_LOW_WATER)
