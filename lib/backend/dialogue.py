"""From a server's address to a backend that is ready for its first statement.

Green. The login itself is whatever `answer` makes of the server's Authentication messages: the pool's own secrets, or a
frontend that is shown them (relay). What the server says no with is `ServerRefused`, verbatim.

source: protocol-flow.html#PROTOCOL-FLOW-START-UP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import gevent

from lib import net, tls
from lib.errors import PoolError, ProtocolViolation, ServerRefused, ServerUnreachable
from lib.tls import HandshakeFailed
from lib.wire import messages

if TYPE_CHECKING:
    from lib.tlsfiles import Approach

# What a server sends when it cannot take us now but may later; anything else is said for good.
TRANSIENT = frozenset(("57P03", "53300", "53400", "57P01", "57P02", "08006", "08004", "08001", "53200", "58000"))

# Called with an Authentication message, and with what SCRAM can be bound to as well, where there is something.
Answer = Callable[..., bytes | None]


class Backend(NamedTuple):
    """A server process that has said ReadyForQuery.

    key   (pid, secret) for CancelRequest
    """

    stream: net.Stream
    parameters: dict[str, str]
    key: tuple[int, bytes]


_NO_RULE = "28000"


def is_transient(error: PoolError) -> bool:
    return error.sqlstate in TRANSIENT


class _Refused(Exception):
    """By the server's rules, before anything was asked."""

    def __init__(self, error: ServerRefused) -> None:
        super().__init__(str(error))
        self.error = error


def open_backend(
    address: net.Address, startup: dict[str, str], answer: Answer, timeout_s: float, approach: Approach | None = None
) -> Backend:
    """Connect, log in, and read on to ReadyForQuery.

    startup    parameters of the startup packet, user and database among them
    answer     gets each Authentication message, whole; returns what to send, or None
    timeout_s  for connecting, and again for each message of the server; what `answer` takes is not counted
    approach   how TLS is tried; None: not at all
    raises     ServerUnreachable, ServerRefused, and whatever `answer` raises
    """
    ways = approach.ways if approach is not None and not address[0].startswith("/") else ((False, False),)
    failure: PoolError | None = None
    for asks, must in ways:
        try:
            stream = tls.connect(address, timeout_s, approach if asks else None, must=must)
        except HandshakeFailed as error:
            failure = failure or ServerUnreachable(f"no TLS with server {net.show_address(address)}: {error}")
            continue
        except ServerUnreachable as error:
            raise failure or error from None
        try:
            return _log_in(stream, startup, answer, timeout_s)
        except _Refused as refused:
            stream.close()
            failure = failure or refused.error
            if (asks and not stream.is_encrypted) or must:
                break  # without TLS it has been refused already
        except BaseException:
            stream.close()
            raise
    assert failure is not None
    raise failure


def is_in_recovery(backend: Backend, timeout_s: float) -> bool:
    """Whether the server is a standby.

    raises   ServerUnreachable, ServerRefused
    """
    if "in_hot_standby" in backend.parameters:
        return backend.parameters["in_hot_standby"] == "on"
    backend.stream.write(messages.query("select pg_catalog.pg_is_in_recovery()"))  # 13 and older do not say it unasked
    found = False
    while True:
        raw = _read(backend.stream, timeout_s)
        tag = raw[:1]
        if tag == b"D":
            found = raw[-1:] == b"t"
        elif tag == b"E":
            raise ServerRefused(messages.error_fields(raw), raw)
        elif tag == b"Z":
            return found


def _log_in(stream: net.Stream, startup: dict[str, str], answer: Answer, timeout_s: float) -> Backend:
    stream.write(messages.startup_packet(startup))
    parameters: dict[str, str] = {}
    key = (0, b"")
    asked = False
    while True:
        raw = _read(stream, timeout_s)
        tag = raw[:1]
        if tag == b"R":
            reply = answer(raw) if stream.binding is None else answer(raw, stream.binding)
            asked = True
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
            refused = ServerRefused(messages.error_fields(raw), raw)
            if refused.sqlstate == _NO_RULE and not asked:
                raise _Refused(refused)
            raise refused
        elif tag not in (b"N", b"v"):
            raise ProtocolViolation(f"unexpected message type {tag!r} from the server while a worker logged in")


def _read(stream: net.Stream, timeout_s: float) -> bytes:
    late = ServerUnreachable(f"the server did not go on with a login within {timeout_s:g} s")
    try:
        with gevent.Timeout(timeout_s or None, late):
            return stream.recv_message()
    except EOFError:
        raise ServerUnreachable("the server closed the connection unexpectedly while a worker logged in") from None


def cancel(
    address: net.Address, key: tuple[int, bytes], timeout_s: float, still_wanted: Callable[[], bool],
    approach: Approach | None = None,
) -> bool:  # fmt: skip
    """Send a CancelRequest and wait until the server has closed that connection: then the signal was sent.

    still_wanted   asked again when the connection stands, for that took time
    approach       where the backend's own connection is encrypted
    returns        False when it was sent but the server has not closed in time, so that nobody knows
    """
    try:
        stream = tls.connect(address, timeout_s, approach)
    except (ServerUnreachable, HandshakeFailed):
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
