"""The PROXY protocol: what a proxy says of the client behind it, in front of that client's first bytes.

Pure. The headers are read by the library `proxyprotocol`; here it is told what is whole, and what it finds is put in
our words. What else a header of version 2 may hold (TLVs) is of no use to us.

source: https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from proxyprotocol.result import ProxyResultLocal, is_ipv4, is_ipv6
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from lib.errors import ProtocolViolation

BEGINNING_BYTES = 8  # by which both versions are known, and which no header is shorter than
MAX_LINE_BYTES = 107  # version 1, its end included
MAX_BINARY_BYTES = 4096  # version 2: its addresses take 216 at most, and all its TLVs a few hundred
FIXED_BYTES = 16
_LINE, _BINARY = b"PROXY ", b"\r\n\r\n\0\r\nQ"


class Origin(NamedTuple):
    """Whom a proxy speaks for.

    host, port   numeric; None when it does not say
    is_itself    it speaks for itself (a health check), so the connection's own address counts
    """

    host: str | None = None
    port: int | None = None
    is_itself: bool = False


def is_line(beginning: bytes) -> bool:
    """Whether a header of version 1 begins so, which ends with its line."""
    return beginning.startswith(_LINE)


def is_binary(beginning: bytes) -> bool:
    """Whether a header of version 2 begins so, which says how long it is."""
    return beginning.startswith(_BINARY)


def might_be(four_bytes: bytes) -> bool:
    """Whether some header begins with these; no startup packet does."""
    return four_bytes in (_LINE[:4], _BINARY[:4])


def rest_of(fixed: bytes) -> int:
    """How much comes behind the first FIXED_BYTES of version 2. Raises ProtocolViolation when that is too much."""
    size = int.from_bytes(fixed[14:16], "big")
    if FIXED_BYTES + size > MAX_BINARY_BYTES:
        raise malformed("it is too long")
    return size


def read(header: bytes) -> Origin:
    """Read a whole header. Raises ProtocolViolation."""
    parser = ProxyProtocolV2() if is_binary(header) else ProxyProtocolV1()
    try:
        found = parser.unpack(header)
    except Exception as error:  # struct.error and whatever else strange bytes lead to
        raise malformed(str(error) if isinstance(error, (ValueError, struct.error)) else "it is cut") from None
    if isinstance(found, ProxyResultLocal):
        return Origin(is_itself=True)
    if is_ipv4(found) or is_ipv6(found):
        return Origin(str(found.source[0]), int(found.source[1]))
    return Origin()


def malformed(reason: str) -> ProtocolViolation:
    return ProtocolViolation("malformed PROXY header", detail=f"The reason: {reason}.")
