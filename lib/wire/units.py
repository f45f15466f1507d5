"""The least that can be dispatched: one Query, or extended-protocol messages up to their Sync.

Pure. `gather` finds the next unit in what a frontend has sent; `read_extended` says which statements a unit of the
extended protocol names, so that routing can look at their texts and so that an unnamed statement, which belongs to the
frontend and not to a worker, is never that of a neighbour.

source: protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from lib.wire.framing import MAX_UNIT_BYTES, frontend_header


class Found(IntEnum):
    """What `gather` found at the beginning of a frontend's bytes."""

    NOTHING = 0  # not yet: more bytes are needed
    QUERY = 1
    EXTENDED = 2  # Parse, Bind, Describe, Execute, Close … Sync, whole
    CALL = 3  # FunctionCall
    STREAM = 4  # cannot be gathered: over MAX_UNIT_BYTES, or Flush, Query or COPY messages before the Sync
    TERMINATE = 5
    COPY = 6  # CopyData, CopyDone or CopyFail
    FLUSH = 7  # Flush with nothing before it


_ALONE = {
    ord("Q"): Found.QUERY,
    ord("F"): Found.CALL,
    ord("X"): Found.TERMINATE,
    ord("d"): Found.COPY,
    ord("c"): Found.COPY,
    ord("f"): Found.COPY,
    ord("H"): Found.FLUSH,
}
_STREAMS = frozenset(b"HQFdcf")  # what makes a unit that has begun one to be streamed
_SYNC = ord("S")


def gather(buffer: bytes, start: int) -> tuple[Found, int]:
    """Find the next unit in buffer[start:].

    returns  (what, end): end is past the unit for all but NOTHING, STREAM and COPY, where the caller reads on
             message by message from `start`
    raises   ProtocolViolation (08P01) for a message that PostgreSQL would refuse
    """
    stop = len(buffer)
    position = start
    while stop - position >= 5:
        tag, end = frontend_header(buffer, position)
        if position == start and tag in _ALONE:
            what = _ALONE[tag]
            if what is Found.COPY:
                return what, start
            if end <= stop:
                return what, end
            return (Found.STREAM if end - start > MAX_UNIT_BYTES else Found.NOTHING), start
        if tag in _STREAMS or end - start > MAX_UNIT_BYTES:
            return Found.STREAM, start
        if tag == ord("X"):
            return Found.TERMINATE, end  # an unsynced unit that is left behind never ran
        if end > stop:
            break
        position = end
        if tag == _SYNC:
            return Found.EXTENDED, end
    return Found.NOTHING, start


@dataclass(slots=True)
class Extended:
    """Which statements the messages of one unit name.

    texts            of every Parse, in order
    parse_unnamed    the last Parse of the unnamed statement, the whole message, or None
    wants_unnamed    the unnamed statement is used before the unit has parsed one
    names            a Parse gives a name, which stays behind in the session
    """

    texts: list[bytes] = field(default_factory=list)
    parse_unnamed: bytes | None = None
    wants_unnamed: bool = False
    names: bool = False

    def read(self, raw: bytes) -> None:
        """Take one whole frontend message into account."""
        tag = raw[0]
        if tag == 80:  # Parse: name, text, types
            name_end = raw.find(b"\0", 5)
            text_end = raw.find(b"\0", name_end + 1)
            self.texts.append(raw[name_end + 1 : text_end])
            if name_end == 5:
                self.parse_unnamed = raw
            else:
                self.names = True
        elif tag == 66:  # Bind: portal, statement, …
            portal_end = raw.find(b"\0", 5)
            if raw[portal_end + 1 : portal_end + 2] == b"\0" and self.parse_unnamed is None:
                self.wants_unnamed = True
        elif tag == 68 and raw[5:7] == b"S\0" and self.parse_unnamed is None:  # Describe of the unnamed statement
            self.wants_unnamed = True


def read_extended(data: bytes) -> Extended:
    """Read a whole unit of the extended protocol. The messages were checked by `gather`."""
    unit = Extended()
    position, stop = 0, len(data)
    while position < stop:
        tag = data[position]
        end = position + 1 + int.from_bytes(data[position + 1 : position + 5], "big")
        if tag in b"PBD":
            unit.read(data[position:end])
        position = end
    return unit
