"""The first bytes of a connection: from whom it comes, whether it is encrypted, and what it wants.

Green. Behind the door stands a startup packet or a CancelRequest. In front of it comes a PROXY header, from those who
speak for others and from nobody else, and then may come a TLS handshake, or what asks for one. What a frontend says
before it is encrypted counts for nothing afterwards.

source: protocol-flow.html#PROTOCOL-FLOW-SSL, protocol-flow.html#PROTOCOL-FLOW-GSSAPI,
https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
import logging
import struct
from typing import TYPE_CHECKING

import gevent

from lib import checks, ends, net, tls
from lib.errors import LoginTimeout, NotAuthorized, ProtocolViolation, UnsupportedProtocol
from lib.wire import messages, proxy
from lib.wire.framing import MAX_STARTUP_BYTES

if TYPE_CHECKING:
    from lib.config import Settings
    from lib.tlsfiles import Identity, Watched

log = logging.getLogger(__name__)

_REQUESTS = {messages.SSL_CODE: "SSL request", messages.GSSENC_CODE: "GSSAPI encryption request"}  # the server's words
_MUST_ENCRYPT = ("require", "verify-ca", "verify-full")


class Caller:
    """The other end of a connection that has just been accepted.

    stream      another one once it is encrypted
    host, port  numeric address, the one that a proxy has told if one has; None on a Unix socket
    uid         of the process at the other end of a Unix socket, else None
    asked       its startup packet, when that has come
    """

    def __init__(self, stream: net.Stream) -> None:
        self.stream = stream
        self.host, self.port, self.uid = ends.peer_address(stream)
        self.asked: messages.Startup | None = None

    def stands_for(self, origin: proxy.Origin) -> None:
        """Have it be whom a proxy speaks for."""
        if origin.host is not None:
            self.host, self.port, self.uid = origin.host, origin.port, None
        elif not origin.is_itself:
            self.uid = None  # somebody, but not the proxy's own user

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.host is not None else f"unix uid {self.uid}"

    @property
    def log_fields(self) -> dict[str, object]:
        """What a line of the log about it says beside its message, where lines have fields."""
        who = {"user": self.asked.user, "database": self.asked.database} if self.asked is not None else {}
        return {"client": str(self), **who}

    def __repr__(self) -> str:
        return f"<Caller {self}{' TLS' if self.stream.is_encrypted else ''}>"


class Door:
    """What may come in, and how.

    identity   what frontends on TLS are shown; None when there is no TLS
    """

    def __init__(self, settings: Settings, identity: Watched[Identity] | None) -> None:
        self._settings = settings
        self.identity = identity
        self.settings_changed()

    def settings_changed(self) -> None:
        """What is made of the settings, at the start and after a reload."""
        networks = self._settings.proxy_networks
        self._proxies = [ipaddress.ip_network(each) for each in networks if each != checks.UNIX]
        self._proxies_on_unix = checks.UNIX in networks

    def receive(self, caller: Caller) -> messages.Startup | messages.Cancel:
        """The startup packet or CancelRequest of a connection, within auth_timeout.

        raises   PoolError to be told to the frontend on `caller.stream`; tls.HandshakeFailed, when it cannot be told;
                 EOFError when it is gone
        """
        if caller.host == "":
            raise EOFError("the frontend is gone")
        late = LoginTimeout("canceling authentication due to timeout")
        with gevent.Timeout(self._settings.auth_timeout, late):
            first = self._first_packet(caller)
        if self._settings.client_tls_sslmode in _MUST_ENCRYPT and isinstance(first, messages.Startup):
            self._refuse_plain(caller)
        return first

    def _first_packet(self, caller: Caller) -> messages.Startup | messages.Cancel:
        if self._is_proxy(caller):
            caller.stands_for(self._header(caller.stream))
        asked: set[int] = set()
        first_byte = caller.stream.recv_exactly(1)
        caller.stream.unread(first_byte)
        if first_byte == tls.HANDSHAKE and self._offered(caller) is not None:
            self._encrypt(caller, is_direct=True)
        while True:
            head = caller.stream.recv_exactly(4)
            if proxy.might_be(head):
                log.warning("a PROXY header from %s, which is not in proxy_networks", caller)
                raise ProtocolViolation("a PROXY header from an address that is not in proxy_networks")
            length = struct.unpack("!I", head)[0]
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
                raise ProtocolViolation(
                    f"received unencrypted data after {_REQUESTS[first]}",
                    detail="This could be either a client-software bug or evidence of an attempted man-in-the-middle "
                    "attack.",
                )
            if first == messages.SSL_CODE and self._offered(caller) is not None:
                caller.stream.write(b"S")
                self._encrypt(caller)
            else:
                caller.stream.write(b"N")

    # --- proxies -----------------------------------------------------------------------------------------------------

    def _is_proxy(self, caller: Caller) -> bool:
        if caller.host is None:
            return self._proxies_on_unix
        if not self._proxies or not caller.host:
            return False
        address = ipaddress.ip_address(caller.host.partition("%")[0])
        return any(address in network for network in self._proxies)

    def _header(self, stream: net.Stream) -> proxy.Origin:
        header = stream.recv_exactly(proxy.BEGINNING_BYTES)
        if proxy.is_binary(header):
            header += stream.recv_exactly(proxy.FIXED_BYTES - len(header))
            header += stream.recv_exactly(proxy.rest_of(header))
        elif proxy.is_line(header):
            while not header.endswith(b"\n"):
                if len(header) == proxy.MAX_LINE_BYTES:
                    raise proxy.malformed("it is too long")
                header += stream.recv_exactly(1)
        else:
            raise ProtocolViolation(
                "a PROXY header is missing", hint="The pool's proxy_networks says that this address sends one."
            )
        return proxy.read(header)

    # --- encryption --------------------------------------------------------------------------------------------------

    def _offered(self, caller: Caller) -> Identity | None:
        # On a Unix socket there is no TLS, as in PostgreSQL.
        return self.identity.made if self.identity is not None and caller.host is not None else None

    def _encrypt(self, caller: Caller, is_direct: bool = False) -> None:
        identity = self._offered(caller)
        assert identity is not None
        caller.stream = tls.accept(caller.stream, identity, is_direct=is_direct)

    def _refuse_plain(self, caller: Caller) -> None:
        if not caller.stream.is_encrypted and caller.host is not None:
            raise NotAuthorized("SSL required", hint="Connect with sslmode=require, or a stronger one.")
