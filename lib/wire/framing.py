"""Where messages begin and end. Reads headers only, never rows; holds nothing.

Pure. Two directions, two needs: backend bytes are scanned for the few messages that mean something to a relay, so
that whole chunks can be passed on untouched; frontend messages are checked against PostgreSQL's own table of types and
lengths before a byte of them is sent, because a server that is shown a bad one closes the connection on everybody.

source: protocol-overview.html#PROTOCOL-MESSAGE-CONCEPTS, protocol-message-formats.html
"""

from __future__ import annotations

import struct

from lib.errors import ProtocolViolation

header = struct.Struct("!BI").unpack_from
_length = struct.Struct("!I").unpack_from

# One bit for each backend message that the relay has to look at. All others are passed on unread.
READY, ERROR, PARAMETER, NOTIFICATION, COPY_IN, NOTICE, PARSED = 1, 2, 4, 8, 16, 32, 64
INTERESTING = [0] * 256
INTERESTING[ord("Z")] = READY
INTERESTING[ord("E")] = ERROR
INTERESTING[ord("S")] = PARAMETER
INTERESTING[ord("A")] = NOTIFICATION
INTERESTING[ord("G")] = INTERESTING[ord("W")] = COPY_IN
INTERESTING[ord("N")] = NOTICE
INTERESTING[ord("1")] = INTERESTING[ord("3")] = PARSED

READY_TAG = ord("Z")
_USUAL = READY | PARSED
_SHORT, _MOST_SHORT = 32, 500
_short: dict[bytes, bool] = {}  # answers without rows are few, and come again and again
_COMMAND_COMPLETE = ord("C")
_OF_A_READ = frozenset(b"TD12n")  # messages in front of that
_READY_IDLE = b"Z\0\0\0\5I"
_COPY_DATA = ord("d")
_DATA_ROW = ord("D")

# What PostgreSQL's SocketBackend() lets a frontend send, and how long each may be (PQ_SMALL_MESSAGE_LIMIT and
# PQ_LARGE_MESSAGE_LIMIT of pqcomm.h; the length counts itself).
_SMALL, _LARGE = 10_000, 0x3FFFFFFE
LIMITS = {
    ord(tag): limit
    for tags, limit in (("QFPBd", _LARGE), ("CDEHSXcf", _SMALL))
    for tag in tags
}
MAX_STARTUP_BYTES = 10_000  # MAX_STARTUP_PACKET_LENGTH of pqcomm.h
MAX_PASSWORD_BYTES = 65_535  # PG_MAX_AUTH_TOKEN_LENGTH of auth.h
MAX_UNIT_BYTES = 65_536  # a longer unit is streamed instead of gathered


def scan(buffer: bytes, start: int, stop: int) -> tuple[int, int, int]:
    """Find where the last whole message in buffer[start:stop] ends, but look no further than a ReadyForQuery.

    buffer   bytes; messages from a backend back to back, the last one possibly cut
    returns  (end, last, seen): offset past the last whole message, its type
             byte (0 when there was none), and a bit per tag in INTERESTING
    raises   ProtocolViolation (08P01) when a length word is below 4
    source   protocol-overview.html#PROTOCOL-MESSAGE-CONCEPTS
    """
    interesting, unpack = INTERESTING, header  # local names: a large result spends its time in this loop
    last_header = stop - 5
    last = seen = 0
    while start <= last_header:
        tag, length = unpack(buffer, start)
        if length < 4:
            raise ProtocolViolation("invalid message length from the server")
        end = start + length + 1
        if end > stop:
            break
        start, last = end, tag
        if tag == _DATA_ROW:
            continue
        bit = interesting[tag]
        if bit:
            seen |= bit
            if bit == READY:
                break
    return start, last, seen


def end_of_read(data: bytes, start: int) -> int:
    """Where the answer of a read that begins at `start` ends, when nothing of it needs looking at: its rows, and
    ReadyForQuery outside of a transaction. 0 when it is anything else, or not all there; then `scan` says more."""
    try:
        while True:
            tag, length = header(data, start)
            start += length + 1
            if tag == _COMMAND_COMPLETE:
                break
            if tag not in _OF_A_READ or length < 4:
                return 0
    except struct.error:
        return 0
    end = start + 6
    return end if data[start:end] == _READY_IDLE else 0


def is_usual(data: bytes) -> bool:
    """Whether `data` is a whole answer that needs no looking at: up to its ReadyForQuery, which is the last of it.

    raises   as scan
    """
    size = len(data)
    if size > _SHORT:
        end, last, seen = scan(data, 0, size)
        return last == READY_TAG and end == size and seen | PARSED == _USUAL
    usual = _short.get(data)
    if usual is None:
        end, last, seen = scan(data, 0, size)
        usual = last == READY_TAG and end == size and seen | PARSED == _USUAL
        if usual and len(_short) < _MOST_SHORT:
            _short[data] = usual
    return usual


def missing(buffer: bytes, start: int, stop: int) -> int | None:
    """How many bytes of the message cut at buffer[start:stop] are still to come; None while its header is cut too."""
    if stop - start < 5:
        return None
    return start + 1 + _length(buffer, start + 1)[0] - stop


def frontend_header(buffer: bytes, position: int) -> tuple[int, int]:
    """The type and the end of the frontend message at `position`, whether or not all of it is there.

    buffer   bytes with at least five bytes at `position`
    returns  (tag, end)
    raises   ProtocolViolation (08P01) for a type or a length that PostgreSQL would refuse, as soon as it can be seen
    """
    tag, length = header(buffer, position)
    limit = LIMITS.get(tag)
    if limit is None:
        raise ProtocolViolation(f"invalid frontend message type {tag}")
    if not 4 <= length <= limit:
        raise ProtocolViolation(
            "invalid message length",
            detail=f"A message of type {chr(tag)!r} announced {length} bytes; 4 to {limit} are allowed.",
        )
    return tag, position + 1 + length


def copy_data_run(buffer: bytes, position: int) -> int:
    """Where the run of whole CopyData messages that begins at `position` ends; `position` itself when there is none.

    A COPY comes as very many small ones, and they mean nothing to anybody on the way.
    """
    last_header = len(buffer) - 5
    stop = len(buffer)
    while position <= last_header:
        tag, length = header(buffer, position)
        end = position + 1 + length
        if tag != _COPY_DATA or end > stop or length < 4:
            break
        position = end
    return position
