"""From a server's address to a backend that is ready for its first statement.

Green. The login itself is whatever `answer` makes of the server's Authentication messages: the pool's own secrets, or a
frontend that is shown them (relay). What the server says no with is `ServerRefused`, verbatim.

source: protocol-flow.html#PROTOCOL-FLOW-START-UP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gevent

from lib import net
from lib.errors import PoolError, ProtocolViolation, ServerRefused, ServerUnreachable
from lib.wire import messages

# What a server sends when it cannot take us now but may later; anything else is said for good.
TRANSIENT = frozenset(("57P03", "53300", "53400", "57P01", "57P02", "08006", "08004", "08001", "53200", "58000"))

Answer = Callable[[bytes], bytes | None]


class Backend(NamedTuple):
    """A server process that has said ReadyForQuery.

    key   (pid, secret) for CancelRequest
    """

    stream: net.Stream
    parameters: dict[str, str]
    key: tuple[int, bytes]


def is_transient(error: PoolError) -> bool:
    return error.sqlstate in TRANSIENT


def open_backend(address: net.Address, startup: dict[str, str], answer: Answer, timeout_s: float) -> Backend:
    """Connect, log in, and read on to ReadyForQuery.

    startup    parameters of the startup packet, user and database among them
    answer     gets each Authentication message, whole; returns what to send, or None
    timeout_s  for connecting, and again for each message of the server; what `answer` takes is not counted
    raises     ServerUnreachable, ServerRefused, and whatever `answer` raises
    """
    stream = net.connect(address, timeout_s)
    try:
        return _log_in(stream, startup, answer, timeout_s)
    except BaseException:
        stream.close()
        raise


def _log_in(stream: net.Stream, startup: dict[str, str], answer: Answer, timeout_s: float) -> Backend:
    stream.write(messages.startup_packet(startup))
    parameters: dict[str, str] = {}
    key = (0, b"")
    while True:
        raw = _read(stream, timeout_s)
        tag = raw[:1]
        if tag == b"R":
            reply = answer(raw)
            if reply is not None:
                stream.write(reply)
        elif tag == b"S":
            name, value = messages.read_parameter_status(raw)
            parameters[name] = value
        elif tag == b"K":
            key = messages.read_backend_key_data(raw)
        elif tag == b"Z":
            return Backend(stream, parameters, key)
        elif tag == b"E":
            raise ServerRefused(messages.error_fields(raw), raw)
        elif tag not in (b"N", b"v"):
            raise ProtocolViolation(f"unexpected message type {tag!r} from the server while a worker logged in")


def _read(stream: net.Stream, timeout_s: float) -> bytes:
    late = ServerUnreachable(f"the server did not go on with a login within {timeout_s:g} s")
    try:
        with gevent.Timeout(timeout_s or None, late):
            return stream.recv_message()
    except EOFError:
        raise ServerUnreachable("the server closed the connection unexpectedly while a worker logged in") from None


def cancel(address: net.Address, key: tuple[int, bytes], timeout_s: float, still_wanted: Callable[[], bool]) -> bool:
    """Send a CancelRequest and wait until the server has closed that connection: then the signal was sent.

    still_wanted   asked again when the connection stands, for that took time
    returns        False when it was sent but the server has not closed in time, so that nobody knows
    """
    try:
        stream = net.connect(address, timeout_s)
    except ServerUnreachable:
        return True
    try:
        if not still_wanted():
            return True
        stream.write(messages.cancel_request(*key))
        with gevent.Timeout(timeout_s or None, False):
            while stream.recv():
                pass
            return True
        return False
    finally:
        stream.close()
