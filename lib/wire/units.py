"""The least that can be dispatched: one Query, or extended-protocol messages up to their Sync.

Pure. `gather` finds the next unit in what a frontend has sent, and says which statements a unit of the extended
protocol names, so that routing can look at their texts and so that an unnamed statement, which belongs to the frontend
and not to a worker, is never that of a neighbour.

source: protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
"""

from __future__ import annotations

from enum import IntEnum

from lib.wire.framing import MAX_UNIT_BYTES, frontend_header, header


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
_SYNC, _TERMINATE, _PARSE, _BIND, _CLOSE = b"SXPBC"
_NAMING = frozenset(b"PBDC")  # what names a statement
_EXECUTE_AND_SYNC = b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04"
_USUAL_ENDS = frozenset((_EXECUTE_AND_SYNC, b"D\0\0\0\x06P\0" + _EXECUTE_AND_SYNC))


class Extended:
    """Which statements the messages of one unit name.

    texts            of every Parse, in order
    parse_unnamed    the Parse of the unnamed statement that is left behind, the whole message, or None
    drops_unnamed    no unnamed statement is left behind: it was closed
    names            it makes or uses others than an unnamed one of its own, or asks what one is: see `wire.prepared`
    """

    __slots__ = ("drops_unnamed", "names", "parse_unnamed", "texts")

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.parse_unnamed: bytes | None = None
        self.drops_unnamed = False
        self.names = False

    def read(self, buffer: bytes, start: int, end: int) -> None:
        """Take the whole Parse, Bind, Describe or Close at buffer[start:end] into account."""
        tag = buffer[start]
        if tag == _PARSE:  # name, text, types
            name_end = buffer.find(b"\0", start + 5, end)
            self.texts.append(buffer[name_end + 1 : buffer.find(b"\0", name_end + 1, end)])
            if name_end == start + 5:
                self.names = self.names or self.parse_unnamed is not None  # which of them is left depends on the answer
                self.parse_unnamed = buffer[start:end]
                self.drops_unnamed = False
            else:
                self.names = True
        elif tag == _BIND:  # portal, statement, ...
            if self.parse_unnamed is None:
                self.names = True
            else:
                portal_end = buffer.find(b"\0", start + 5, end)
                self.names = self.names or buffer[portal_end + 1 : portal_end + 2] != b"\0"
        elif buffer[start + 5 : start + 6] == b"S":
            if tag == _CLOSE and buffer[start + 6 : start + 7] == b"\0":
                self.parse_unnamed = None
                self.drops_unnamed = True
            else:
                self.names = True


def text_of(parse: bytes) -> bytes:
    """The statement of a whole Parse message."""
    name_end = parse.find(b"\0", 5)
    return parse[name_end + 1 : parse.find(b"\0", name_end + 1)]


def usual(buffer: bytes) -> Extended | None:
    """What `gather` reads in `buffer` where that is what drivers send for a statement with parameters, whole: Parse,
    Bind, Describe or not, Execute of all rows and Sync, everything unnamed. None when it is anything else.

    buffer   at least five bytes, the first of them of a Parse
    """
    size = len(buffer)
    parse_end = 1 + header(buffer, 0)[1]
    bind = buffer[parse_end : parse_end + 7]  # its type, its length, and no names of a portal and a statement
    if len(bind) < 7 or bind[0] != _BIND or bind[5] or bind[6] or buffer[5] or size > MAX_UNIT_BYTES:
        return None
    text_end = buffer.find(b"\0", 6, parse_end)
    if text_end < 0 or buffer[parse_end + 1 + header(bind, 0)[1] :] not in _USUAL_ENDS:
        return None
    read = Extended()
    read.texts.append(buffer[6:text_end])
    read.parse_unnamed = buffer[:parse_end]
    return read


Seen = tuple[int, "Extended"]


def gather(buffer: bytes, start: int, seen: Seen | None = None) -> tuple[Found, int, Extended | None]:
    """Find the next unit in buffer[start:].

    seen     (bytes, read) of an earlier call that found NOTHING here: so many bytes of whole messages, already read
    returns  (what, end, read): end is past the unit for all but STREAM and COPY, where the caller reads on message by
             message from `start`, and NOTHING, where it is past the whole messages that are there; read is what is
             known of a unit of the extended protocol, whole (EXTENDED) or not (NOTHING)
    raises   ProtocolViolation (08P01) for a message that PostgreSQL would refuse
    """
    stop = len(buffer)
    if seen is None and stop - start >= 5 and buffer[start] in _ALONE:
        end = frontend_header(buffer, start)[1]
        what = _ALONE[buffer[start]]
        if what is Found.COPY:
            return what, start, None
        if end <= stop:
            return what, end, None
        return (Found.STREAM if end - start > MAX_UNIT_BYTES else Found.NOTHING), start, None
    read = seen[1] if seen else Extended()
    position = start + seen[0] if seen else start
    while stop - position >= 5:
        tag, end = frontend_header(buffer, position)
        if tag == _SYNC and end <= stop:
            return Found.EXTENDED, end, read
        if tag in _STREAMS or end - start > MAX_UNIT_BYTES:
            return Found.STREAM, start, None
        if tag == _TERMINATE:
            return Found.TERMINATE, end, None  # an unsynced unit that is left behind never ran
        if end > stop:
            break
        if tag in _NAMING:
            read.read(buffer, position, end)
        position = end
    return Found.NOTHING, position, read if position > start else None
