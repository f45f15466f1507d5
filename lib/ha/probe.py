"""Whether a server answers at all: a connection, a startup packet, and the first message back.

Green. What it answers does not matter much: a question for a password and a refusal are signs of life alike. Nobody
logs in, and a server that is full answers, too.

source: protocol-flow.html#PROTOCOL-FLOW-START-UP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gevent

from lib import net, tls
from lib.errors import ServerUnreachable
from lib.tls import HandshakeFailed
from lib.wire import messages

if TYPE_CHECKING:
    from lib.tlsfiles import Approach

_CANNOT_CONNECT_NOW = "57P03"
_GOODBYE_S = 1.0  # for a server that has let us in without a question


def probe(address: net.Address, startup: dict[str, str], timeout_s: float, approach: Approach | None = None) -> bool:
    """True when the server serves, False when it says that it starts up, shuts down or recovers.

    startup    parameters of the packet
    approach   how TLS is tried first with servers; one that has rules for TLS only would log every probe otherwise
    raises     ServerUnreachable: no connection, no answer, or a connection that was closed without a word
    """
    where = net.show_address(address)
    asks, must = approach.ways[0] if approach is not None and not address[0].startswith("/") else (False, False)
    with gevent.Timeout(timeout_s, ServerUnreachable(f"server {where} did not answer within {timeout_s:g} s")):
        try:
            stream = tls.connect(address, timeout_s, approach if asks else None, must=must)
        except HandshakeFailed:
            return True
        try:
            stream.write(messages.startup_packet(startup))
            raw = stream.recv_message()
            if raw == messages.AUTHENTICATION_OK:
                _say_goodbye(stream)
        except EOFError:
            raise ServerUnreachable(f"server {where} closed the connection without a word") from None
        finally:
            stream.close()
    return not (raw[:1] == b"E" and messages.error_fields(raw).get("C") == _CANNOT_CONNECT_NOW)


def _say_goodbye(stream: net.Stream) -> None:
    # A backend that has been started would log that it was left without a word.
    stream.write(messages.TERMINATE)
    with gevent.Timeout(_GOODBYE_S, False):
        while stream.recv():
            pass
