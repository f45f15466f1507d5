"""TLS on a stream: handshakes that do not stop the loop, and a stream that encrypts what is written to it.

Green. OpenSSL only ever sees memory: `TlsStream` is a `net.Stream` that opens what it reads and seals what it writes,
and all waiting stays where it is for plain streams. A handshake runs on the plain stream, its steps in gevent's
threadpool, for a signature takes as long as a hundred statements; the socket changes hands when it is done, so that
no `TlsStream` is ever half open. TLS 1.2 and newer; no compression, no renegotiation, no resumption, as in PostgreSQL.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

import gevent

from lib import connecting, net
from lib.auth import certificate
from lib.errors import ServerUnreachable
from lib.net import MORE_RECV_BYTES, RECV_BYTES, Stream
from lib.wire import messages

if TYPE_CHECKING:
    from lib.tlsfiles import Approach, Identity

log = logging.getLogger(__name__)

HANDSHAKE = b"\x16"  # the first byte of a TLS connection
ALPN = "postgresql"
_RECORD_BYTES = 16_384  # the longest that one holds: reading so much takes a whole one, and leaves nothing inside


class HandshakeFailed(Exception):
    """The other side and we did not come to terms, or it went away. Nobody can be told but by TLS's own alert."""


class TlsStream(Stream):
    """A stream whose handshake is done. `pending` counts encrypted bytes.

    certificate   names of the other side's certificate if that was verified, else None
    binding       what SCRAM-SHA-256-PLUS is bound to, None when it cannot be
    """

    __slots__ = (
        "_incoming", "_later", "_open", "_outgoing", "_recv_sealed", "_seal", "_sealed_bytes", "_tls", "binding",
        "certificate",
    )  # fmt: skip

    is_encrypted = True

    def __init__(
        self, stream: Stream, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO,
        binding: bytes | None,
    ) -> None:  # fmt: skip
        verified = tls.getpeercert()
        names = certificate.names(verified) if verified else None
        super().__init__(stream.detach())
        self._tls = tls
        self._incoming, self._outgoing = incoming, outgoing
        self._open, self._seal = tls.read, tls.write
        self._recv_sealed, self._recv = self._recv, self._recv_opened
        self._sealed_bytes = RECV_BYTES
        self._later: list[bytes] = []
        self.certificate = names
        self.binding = binding
        if incoming.pending:  # what came together with the last step of the handshake
            self._rest = self._opened() or b""

    def __repr__(self) -> str:
        return super().__repr__().replace("<Stream", f"<TlsStream {self._tls.version()}", 1)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _recv_opened(self, _: int) -> bytes:
        """In the place of the socket's recv: what the whole records hold that have arrived."""
        sealed = self._recv_sealed(self._sealed_bytes)
        if not sealed:
            return b""
        self._sealed_bytes = MORE_RECV_BYTES if len(sealed) >= RECV_BYTES else RECV_BYTES
        self._incoming.write(sealed)
        data = self._opened()
        if data is None or self.is_closed:
            raise BlockingIOError
        return data

    def _opened(self) -> bytes | None:
        """What the whole records hold that have arrived; None when there is nothing in them, b"" at the end."""
        incoming = self._incoming
        whole = b""
        try:
            data = self._open(_RECORD_BYTES)
            while incoming.pending and data:
                whole += data
                data = self._open(_RECORD_BYTES)
            if not data:
                self._ended()
            whole += data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            log.info("TLS with %r failed: %s", self, error.reason or error)
            self._ended()
            return whole
        else:
            if not whole:
                return b""
        if self._outgoing.pending:  # an answer of TLS itself
            super().write(self._outgoing.read())
        return whole or None

    def _ended(self) -> None:
        # Goodbye was said, or nothing can be read any more: whoever reads on is at the end.
        if self._outgoing.pending:
            super().write(self._outgoing.read())
        self.stop_reading()

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """As Stream.write, behind what was to be written later."""
        if self.is_closed:
            return
        if self._later:
            self._later.append(data)
            return
        try:
            self._seal(data)
        except ssl.SSLError:
            self._break()
            return
        super().write(self._outgoing.read())

    def write_later(self, data: bytes) -> None:
        """As Stream.write_later; what is collected goes out in as few records as it takes."""
        if self.is_closed:
            return
        if not self._later:
            self._hub.loop.run_callback(self._write_now)
        self._later.append(data)

    def _write_now(self) -> None:
        later = self._later
        if later:
            self._later = []
            self.write(later[0] if len(later) == 1 else b"".join(later))

    # --- ending ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """As Stream.close, with a goodbye of TLS (close_notify) unless it would come behind what is lost."""
        if self.is_closed:
            return
        self._later = []
        if not self.pending:
            try:
                self._tls.unwrap()
            except (ssl.SSLError, ValueError):  # that the other side has not said it yet, or that it is too late
                pass
            try:
                self._send(self._outgoing.read())
            except OSError:
                pass
        self._recv = self._recv_sealed  # so that nothing here points to itself
        super().close()


def accept(stream: Stream, identity: Identity, *, is_direct: bool = False) -> TlsStream:
    """Take a frontend's handshake, and its stream from then on; parks. `stream` is not to be used any more.

    is_direct   it begins without an SSLRequest, so it must name the protocol (ALPN)
    raises      HandshakeFailed, and what a timer around it raises; the connection is closed then
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = identity.context.wrap_bio(incoming, outgoing, server_side=True)
    try:
        _shake_hands(stream, tls, incoming, outgoing)
        if is_direct and tls.selected_alpn_protocol() != ALPN:
            raise HandshakeFailed(
                "received direct SSL connection request without ALPN protocol negotiation extension"
            )
        return TlsStream(stream, tls, incoming, outgoing, identity.binding)
    except (ssl.SSLError, ValueError) as error:  # a certificate whose names are in no known encoding
        stream.close()
        raise HandshakeFailed(str(error)) from None
    except BaseException:
        stream.close()
        raise


def connect(address: net.Address, timeout_s: float, approach: Approach | None = None, *, must: bool = True) -> Stream:
    """A stream to a server, encrypted if that is agreed on.

    timeout_s   for the connection, and again for the handshake
    approach    how to encrypt; None: not at all, nor on a Unix socket
    must        a server that does without TLS will not do
    raises      ServerUnreachable, naming the address and the reason; HandshakeFailed
    """
    stream = connecting.connect(address, timeout_s)
    if approach is None or address[0].startswith("/"):
        return stream
    where = net.show_address(address)
    late = ServerUnreachable(f"the server {where} did not go on with TLS within {timeout_s:g} s")
    try:
        with gevent.Timeout(timeout_s or None, late):
            stream.write(messages.SSL_REQUEST)
            answer = stream.recv_exactly(1)
            if stream.has_rest:
                # What came unencrypted in front of the handshake could pass for encrypted (CVE-2021-23222).
                raise ServerUnreachable(f"the server {where} sent unencrypted data after its answer to the SSL request")
            if answer == b"S":
                return _encrypt(stream, address[0], approach)
        if answer != b"N":  # an ErrorResponse, which anybody could have sent
            raise ServerUnreachable(f"the server {where} did not answer the SSL request")
        if must:
            raise ServerUnreachable(f"the server {where} does not support SSL, but SSL was required")
        return stream
    except EOFError:
        stream.close()
        raise ServerUnreachable(f"the server {where} closed the connection instead of answering") from None
    except BaseException:
        stream.close()
        raise


def _encrypt(stream: Stream, host: str, approach: Approach) -> TlsStream:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        tls = approach.context.wrap_bio(incoming, outgoing, server_hostname=host)
    except ValueError:  # a host that cannot be named to the server (SNI)
        tls = approach.context.wrap_bio(incoming, outgoing)
    _shake_hands(stream, tls, incoming, outgoing)
    try:
        if approach.mode == "verify-full" and not certificate.fits_host(tls.getpeercert() or {}, host):
            raise HandshakeFailed(f'the server certificate is not for host name "{host}"')
        shown = tls.getpeercert(binary_form=True)
        return TlsStream(stream, tls, incoming, outgoing, certificate.binding(shown) if shown else None)
    except (ssl.SSLError, ValueError) as error:  # as above
        raise HandshakeFailed(str(error)) from None


def _shake_hands(stream: Stream, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
    threadpool = gevent.get_hub().threadpool
    while True:
        outcome = threadpool.apply(_step, (tls,))
        if outgoing.pending:
            stream.write(outgoing.read())
        if outcome is None:
            return
        if not isinstance(outcome, ssl.SSLWantReadError):
            raise HandshakeFailed(_reason(outcome))
        data = stream.recv()
        if not data:
            raise HandshakeFailed("the other side has closed the connection")
        incoming.write(data)


def _step(tls: ssl.SSLObject) -> ssl.SSLError | None:
    # Errors come back as results, for gevent prints the traceback of whatever a thread raises.
    try:
        tls.do_handshake()
    except ssl.SSLError as error:
        return error
    return None


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's words in lower case, and why a certificate was not taken."""
    why = getattr(error, "verify_message", None)
    words = (error.reason or "unknown error").lower().replace("_", " ")
    return f"{words}: {why}" if why else words
