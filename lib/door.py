"""The first bytes of a connection: from whom it comes, whether it is encrypted, and what it wants.

Green. Behind the door stands a startup packet or a CancelRequest; in front of it may come, in this order and each once,
a TLS handshake or what asks for one. What a frontend says before it is encrypted counts for nothing afterwards.

source: protocol-flow.html#PROTOCOL-FLOW-SSL, protocol-flow.html#PROTOCOL-FLOW-GSSAPI
"""

from __future__ import annotations

import logging
import struct
from typing import TYPE_CHECKING

import gevent

from lib import net, tls
from lib.errors import LoginTimeout, NotAuthorized, ProtocolViolation, UnsupportedProtocol
from lib.wire import messages
from lib.wire.framing import MAX_STARTUP_BYTES

if TYPE_CHECKING:
    from lib.config import Settings
    from lib.tlsfiles import Identity, Watched

log = logging.getLogger(__name__)


class Caller:
    """The other end of a connection that has just been accepted.

    stream      another one once it is encrypted
    host, port  numeric address; None on a Unix socket
    uid         of the process at the other end of a Unix socket, else None
    """

    def __init__(self, stream: net.Stream) -> None:
        self.stream = stream
        self.host, self.port, self.uid = net.peer_address(stream)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.host is not None else f"unix uid {self.uid}"

    def __repr__(self) -> str:
        return f"<Caller {self}{' TLS' if self.stream.is_encrypted else ''}>"


class Door:
    """What may come in, and how.

    identity   what frontends on TLS are shown; None when there is no TLS
    """

    def __init__(self, settings: Settings, identity: Watched[Identity] | None) -> None:
        self._settings = settings
        self._identity = identity
        self._must_encrypt = settings.client_tls_sslmode in ("require", "verify-ca", "verify-full")

    def receive(self, caller: Caller) -> messages.Startup | messages.Cancel:
        """The startup packet or CancelRequest of a connection, within auth_timeout.

        raises   PoolError to be told to the frontend on `caller.stream`; tls.HandshakeFailed, when it cannot be told;
                 EOFError when it is gone
        """
        late = LoginTimeout("canceling authentication due to timeout")
        with gevent.Timeout(self._settings.auth_timeout, late):
            first = self._first_packet(caller)
        if self._must_encrypt and isinstance(first, messages.Startup):
            self._refuse_plain(caller)
        return first

    def _first_packet(self, caller: Caller) -> messages.Startup | messages.Cancel:
        asked: set[int] = set()
        first_byte = caller.stream.recv_exactly(1)
        caller.stream.unread(first_byte)
        if first_byte == tls.HANDSHAKE and self._offered(caller) is not None:
            self._encrypt(caller, is_direct=True)
        while True:
            length = struct.unpack("!I", caller.stream.recv_exactly(4))[0]
            if not 8 <= length <= MAX_STARTUP_BYTES:
                raise ProtocolViolation("invalid length of startup packet")
            first = messages.read_startup(caller.stream.recv_exactly(length - 4))
            if not isinstance(first, int):
                return first
            if caller.stream.is_encrypted or first in asked:
                raise UnsupportedProtocol(
                    f"unsupported frontend protocol {first >> 16}.{first & 0xFFFF}: server supports 3.0 to 3.2"
                )
            asked.add(first)
            if caller.stream.has_rest:
                # What came unencrypted behind the request could pass for encrypted (CVE-2021-23214).
                raise ProtocolViolation("received unencrypted data after an encryption request")
            if first == messages.SSL_CODE and self._offered(caller) is not None:
                caller.stream.write(b"S")
                self._encrypt(caller)
            else:
                caller.stream.write(b"N")

    def _offered(self, caller: Caller) -> Identity | None:
        # On a Unix socket there is no TLS, as in PostgreSQL.
        return self._identity.made if self._identity is not None and caller.host is not None else None

    def _encrypt(self, caller: Caller, is_direct: bool = False) -> None:
        identity = self._offered(caller)
        assert identity is not None
        caller.stream = tls.accept(caller.stream, identity, is_direct=is_direct)

    def _refuse_plain(self, caller: Caller) -> None:
        if not caller.stream.is_encrypted and caller.host is not None:
            raise NotAuthorized("SSL required", hint="Connect with sslmode=require, or a stronger one.")
