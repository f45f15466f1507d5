"""The only module that touches a socket: blocking-looking streams of bytes on gevent's loop.

Green. A `Stream` belongs to one green thread, which alone reads from it; anybody may write. Reading waits first and
reads after, so that a system call is never spent on EAGAIN. Writing never blocks: what the kernel does not take waits
for a write watcher, which runs beside the reading. `write` does not put off either: the other side then works while we
do, which is worth more than a send that is saved (measured: a fifth at 1 and 8 clients). `write_later` collects what is
written in one turn of the loop, for those who write often in one turn while the other side has work already.
There are no timers here; whoever needs a limit closes the stream.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub, getcurrent
from gevent.event import Event
from greenlet import greenlet

from lib.auth.certificate import Names
from lib.errors import ProtocolViolation, ServerUnreachable

log = logging.getLogger(__name__)

Address = tuple[str, int]

RECV_BYTES = 16_384
# After a read that was filled. Larger ones make the C library map and unmap memory each time.
MORE_RECV_BYTES = 65_536
ACCEPTS_PER_TURN = 64
_BACKLOG_PAUSE_S = 0.01
_WAITED_S = 0.00002  # what a look at the sockets takes when there is something at once
_READ, _WRITE = 1, 2
_switch = greenlet.switch  # without gevent's wrapper around the hub's, which asks for hooks that nobody has
# What a peer that vanished without a word looks like after about 90 s instead of two hours.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))

class Stream:
    """A connected socket as a stream of bytes.

    pending      bytes written that the kernel has not taken yet
    is_closed    closed here, or broken: what is written goes nowhere

    is_encrypted, certificate, binding   see lib.tls: a plain stream has nothing of that
    """

    is_encrypted: bool = False
    certificate: Names | None = None
    binding: bytes | None = None

    __slots__ = (
        "_arrived",
        "_at_once",
        "_drained",
        "_failure",
        "_hub",
        "_low_water",
        "_outbox",
        "_owner",
        "_read_watcher",
        "_reading",
        "_recv",
        "_recv_bytes",
        "_rest",
        "_send",
        "_write_watcher",
        "is_closed",
        "pending",
        "sock",
    )

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self.sock = sock
        self._hub = get_hub()
        self._recv: Callable[[int], bytes] = sock.recv
        self._send = sock.send
        self._recv_bytes = RECV_BYTES
        self._read_watcher = self._hub.loop.io(sock.fileno(), _READ)
        self._write_watcher: Any = None
        self._reading = False  # the read watcher is started
        self._owner: Any = None  # the green thread parked in recv
        self._at_once: Callable[[bytes], bytes | None] | None = None
        self._arrived: bytes | None = None  # for that thread
        self._failure: Exception | None = None
        self._outbox: list[bytes | memoryview] = []
        self._rest = b""
        self._drained: Event | None = None
        self._low_water = 0
        self.pending = 0
        self.is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else f"fd={self.sock.fileno()}"
        return f"<Stream {state} pending={self.pending}>"

    # --- reading -----------------------------------------------------------------------------------------------------

    def recv(self, at_once: Callable[[bytes], bytes | None] | None = None) -> bytes:
        """What has arrived, at most MORE_RECV_BYTES; b"" at the end, however the end came. Parks the green thread.

        at_once   is shown what arrives before the thread is woken for it, and returns None when that is dealt with, or
                  what the thread is to get. It must not park: waking a thread costs as much as passing on a short
                  message does, and most of them can be passed on without it.
        """
        if self._rest:
            rest, self._rest = self._rest, b""
            left = at_once(rest) if at_once is not None else rest
            if left is not None:
                return left
        self._at_once = at_once
        if not self._reading and not self.is_closed:
            self._read_watcher.start(self._on_readable)
            self._reading = True
        while not self.is_closed:
            self._owner = getcurrent()
            try:
                _switch(self._hub)
            finally:
                self._owner = None
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            data, self._arrived = self._arrived, None
            if data is not None:
                return data
        return b""

    def _on_readable(self) -> None:
        # Started once and left running, for it is nearly always wanted; if nobody is parked here it stops itself.
        owner = self._owner
        if owner is None:
            self._read_watcher.stop()
            self._reading = False
            return
        try:
            data: bytes | None = self._recv(self._recv_bytes)
        except BlockingIOError:
            return
        except OSError:
            self._break()
            return
        if data:
            self._recv_bytes = MORE_RECV_BYTES if len(data) >= RECV_BYTES else RECV_BYTES
            if self._at_once is not None:
                try:
                    data = self._at_once(data)
                except Exception as error:
                    self._failure = error
                if data is None or self.is_closed:  # what has closed it lets the thread go
                    return
        self._arrived = data
        owner.switch()

    def recv_exactly(self, size: int) -> bytes:
        """Exactly `size` bytes, for the fixed dialogues before the relay begins. Raises EOFError at the end."""
        parts = b""
        while len(parts) < size:
            data = self.recv()
            if not data:
                raise EOFError
            parts += data
        self._rest = parts[size:]
        return parts[:size]

    def recv_message(self, max_bytes: int = 1_000_000) -> bytes:
        """One whole message with its type byte. Raises EOFError at the end, ProtocolViolation when it is too long."""
        head = self.recv_exactly(5)
        length = struct.unpack_from("!I", head, 1)[0]
        if not 4 <= length <= max_bytes:
            raise ProtocolViolation("invalid message length")
        return head + self.recv_exactly(length - 4) if length > 4 else head

    def is_readable(self) -> bool:
        """Whether bytes, or the end, have arrived that nobody has read yet."""
        if self._rest or self.is_closed:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def has_ended(self) -> bool:
        """Whether the peer has closed, as far as is known without reading what it has sent before."""
        if self.is_closed:
            return True
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def has_rest(self) -> bool:
        """Whether bytes have been read that nobody has taken yet."""
        return bool(self._rest)

    def unread(self, data: bytes) -> None:
        """Have whoever reads next read this first."""
        self._rest = data + self._rest

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send `data`, or as much as the kernel takes now and the rest when it does. Never blocks; see `pending`."""
        if self.pending:
            self._outbox.append(data)
            self.pending += len(data)
        elif not self.is_closed:
            try:
                sent = self._send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._break()
                return
            if sent < len(data):
                self._outbox.append(memoryview(data)[sent:])
                self.pending = len(data) - sent
                self._await_writable()

    def write_later(self, data: bytes) -> None:
        """Send `data` at the end of this turn of the loop, together with what else is written until then."""
        if self.is_closed:
            return
        if not self.pending:
            # A callback of the loop, not a prepare watcher of our own: that would run before callbacks which write.
            self._hub.loop.run_callback(self._flush)
        self._outbox.append(data)
        self.pending += len(data)

    def _flush(self) -> None:
        if self.pending:
            self._on_writable()
            if self.pending:
                self._await_writable()

    def _await_writable(self) -> None:
        if self._write_watcher is None:
            self._write_watcher = self._hub.loop.io(self.sock.fileno(), _WRITE)
        self._write_watcher.start(self._on_writable)

    def _on_writable(self) -> None:
        outbox = self._outbox
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        try:
            sent = self._send(data)
        except BlockingIOError:
            return
        except OSError:
            self._break()
            return
        outbox.clear()
        self.pending -= sent
        if self.pending:
            outbox.append(memoryview(data)[sent:])
        elif self._write_watcher is not None:
            self._write_watcher.stop()
        if self._drained is not None and self.pending <= self._low_water:
            self._let_go()

    def wait_drained(self, low_water: int = 0) -> None:
        """Park until no more than `low_water` bytes are pending, or the stream is closed."""
        while self.pending > low_water and not self.is_closed:
            if self._drained is None:
                self._drained, self._low_water = Event(), low_water
            self._low_water = max(self._low_water, low_water)
            self._drained.wait()

    def _let_go(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.set()

    # --- ending ------------------------------------------------------------------------------------------------------

    def stop_reading(self) -> None:
        """Whoever reads is at the end; what was written is still sent."""
        try:
            self.sock.shutdown(socket.SHUT_RD)
        except OSError:
            self._break()

    def detach(self) -> socket.socket:
        """Give the socket up to a stream of another kind; this one is closed, and closing it again does nothing."""
        self.is_closed = True
        self._close_watchers()
        return self.sock

    def _close_watchers(self) -> None:
        self._read_watcher.stop()
        self._read_watcher.close()
        if self._write_watcher is not None:
            self._write_watcher.stop()
            self._write_watcher.close()

    def _break(self) -> None:
        # The peer is gone: nothing can be sent any more, and whoever waits for that is let go.
        self.pending = 0
        self._outbox.clear()
        self.close()

    def close(self) -> None:
        """Close; what the kernel has not taken yet is lost. A green thread parked in recv gets b""."""
        if self.is_closed:
            return
        self.is_closed = True
        self.pending = 0
        self._outbox.clear()
        self._close_watchers()
        self.sock.close()
        self._let_go()
        owner, self._owner = self._owner, None
        if owner is not None and owner is not getcurrent():
            get_hub().loop.run_callback(owner.switch)


# --- the loop --------------------------------------------------------------------------------------------------------


class Turns:
    """Tells bytes that have just arrived from those that have lain in the kernel while this process was busy."""

    def __init__(self) -> None:
        self._loop = get_hub().loop
        # After gevent's own, which runs the callbacks: what they do is not waiting.
        self._watcher = self._loop.prepare(priority=self._loop.MINPRI)
        self._ended_at = 0.0  # when all was done, and the loop went to see what there is next

    def start(self) -> None:
        self._watcher.start(self._ends)

    def stop(self) -> None:
        self._watcher.stop()
        self._ended_at = 0.0

    def _ends(self) -> None:
        self._ended_at = time.time()

    def had_to_wait(self) -> bool:
        """Whether the loop was waiting when what it now deals with arrived. Always, while this is not started."""
        return self._loop.now() - self._ended_at > _WAITED_S


# --- addresses -------------------------------------------------------------------------------------------------------


def unix_path(address: Address) -> str:
    """The path of the Unix socket that (directory, port) means, as libpq makes it."""
    return os.path.join(address[0], f".s.PGSQL.{address[1]}")


def show_address(address: Address) -> str:
    """The address as one writes it in psql, a log line or a URI."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _candidates(address: Address) -> list[tuple[int, Any]]:
    if address[0].startswith("/"):
        return [(socket.AF_UNIX, unix_path(address))]
    found = get_hub().resolver.getaddrinfo(*address, 0, socket.SOCK_STREAM)
    return [(family, target) for family, _, _, _, target in found]


def connect(address: Address, timeout_s: float) -> Stream:
    """A stream to a server. Raises ServerUnreachable, naming the address and the system's reason."""
    reason: OSError | str = "no address found"
    with gevent.Timeout(timeout_s or None, False):
        try:
            targets = _candidates(address)
        except OSError as error:
            raise ServerUnreachable(f"could not connect to server {show_address(address)}: {error}") from None
        for family, target in targets:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # out of file descriptors
                reason = error
                continue
            try:
                _connect(sock, target)
                return Stream(sock)
            except OSError as error:
                sock.close()
                reason = error
            except BaseException:
                sock.close()
                raise
        raise ServerUnreachable(f"could not connect to server {show_address(address)}: {reason}")
    raise ServerUnreachable(f"could not connect to server {show_address(address)}: no answer within {timeout_s:g} s")


def _connect(sock: socket.socket, target: Any) -> None:
    sock.setblocking(False)
    # A Unix socket whose backlog is full says EAGAIN, and nothing is under way then.
    while (code := sock.connect_ex(target)) == errno.EAGAIN:
        gevent.sleep(_BACKLOG_PAUSE_S)
    if code == errno.EINPROGRESS:
        watcher = get_hub().loop.io(sock.fileno(), _WRITE)
        try:
            get_hub().wait(watcher)
        finally:
            watcher.close()
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def peer_address(stream: Stream) -> tuple[str | None, int | None, int | None]:
    """(host, port, None) of a TCP peer; (None, None, uid) of one on a Unix socket."""
    sock = stream.sock
    if sock.family == socket.AF_UNIX:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return None, None, struct.unpack("3i", credentials)[1]
    try:
        host, port = sock.getpeername()[:2]
    except OSError:  # gone already
        return "", 0, None
    return host, port, None


# --- listening -------------------------------------------------------------------------------------------------------


class Listener:
    """Accepts connections and gives each to `handler(stream)` in a green thread of its own."""

    def __init__(self, sock: socket.socket, handler: Callable[[Stream], None]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._handler = handler
        self._watcher = get_hub().loop.io(sock.fileno(), _READ)
        self._watcher.start(self._accept)

    def _accept(self) -> None:
        # A burst of connections must not keep those that are there already from their answers.
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _ = self.sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:  # out of file descriptors or memory: those that wait in the backlog wait on
                log.error("could not accept a connection: %s", error)
                self._watcher.stop()
                gevent.spawn_later(0.2, self._resume)
                return
            gevent.spawn(self._handler, Stream(sock))

    def _resume(self) -> None:
        if self.sock.fileno() >= 0:
            self._watcher.start(self._accept)

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        stop_listening(self.sock)


def stop_listening(sock: socket.socket) -> None:
    """Close a listening socket, and leave no path of a Unix socket behind."""
    path = sock.getsockname() if sock.family == socket.AF_UNIX else None
    sock.close()
    if path:
        try:
            os.unlink(path)
        except OSError:
            pass


def listen(address: Address, unix_socket_mode: int, backlog: int = 4096) -> list[socket.socket]:
    """Bound and listening sockets for one address: '' or '*' is every interface, a directory is a Unix socket.

    raises   OSError when the address is taken or not ours
    """
    host, port = address
    if host.startswith("/"):
        return [_listen_unix(unix_path(address), unix_socket_mode, backlog)]
    if host in ("", "*"):
        sockets = [_listen_tcp(socket.AF_INET, ("0.0.0.0", port), backlog)]
        try:
            sockets.append(_listen_tcp(socket.AF_INET6, ("::", port), backlog))
        except OSError as error:  # a machine without IPv6
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
        return sockets
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [_listen_tcp(family, target, backlog) for family, _, _, _, target in found]


def _listen_tcp(family: int, target: Any, backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _listen_unix(path: str, mode: int, backlog: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or _answers(path):
                raise
            os.unlink(path)  # left behind by a process that is gone
            sock.bind(path)
        os.chmod(path, mode)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0
