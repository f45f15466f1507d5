"""Blocking-looking streams of bytes on gevent's loop.

Green. With `connecting`, `listening` and `ends` the only module that touches a socket. A `Stream` belongs to one green
thread, which alone reads from it; anybody may write. Reading waits first and reads after, so that a system call is
never spent on EAGAIN. Writing never blocks: what the kernel does not take waits for a write watcher, which runs beside
the reading. `write` does not put off either: the other side then works while we do, which is worth more than a send
that is saved (measured: a fifth at 1 and 8 clients). `write_later` collects what is written in one turn of the loop,
for those who write often in one turn while the other side has work already. There are no timers here; whoever needs a
limit closes the stream.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from gevent import get_hub, getcurrent
from gevent.event import Event
from greenlet import greenlet

from lib.auth.certificate import Names
from lib.errors import ProtocolViolation

Address = tuple[str, int]

RECV_BYTES = 16_384
# After a read that was filled. Larger ones make the C library map and unmap memory each time.
MORE_RECV_BYTES = 65_536
READ, WRITE = 1, 2  # of gevent's loop
_switch = greenlet.switch  # without gevent's wrapper around the hub's, which asks for hooks that nobody has
# What a peer that vanished without a word looks like after about 90 s instead of two hours.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class Stream:
    """A connected socket as a stream of bytes.

    pending      bytes written that the kernel has not taken yet
    received     bytes that were read
    sent         bytes that were written at once, those that are pending included
    wakes_at     how many bytes have to arrive before anybody is woken for them
    is_closed    closed here, or broken: what is written goes nowhere
    is_corked    what is written is kept here

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
        "_uncorked_send",
        "_write_watcher",
        "is_closed",
        "is_corked",
        "pending",
        "received",
        "sent",
        "sock",
        "wakes_at",
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
        self._send: Callable[[bytes | memoryview], int] = sock.send
        self.is_corked = False
        self._recv_bytes = RECV_BYTES
        self._read_watcher = self._hub.loop.io(sock.fileno(), READ)
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
        self.pending = self.received = self.sent = 0
        self.wakes_at = 1
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

    def hear(self, at_once: Callable[[bytes], bytes | None]) -> None:
        """Have whoever is parked in recv go on as if it had called it with `at_once`."""
        self._at_once = at_once

    def _on_readable(self) -> None:
        # Started once and left running, for it is nearly always wanted; if nobody is parked here it stops itself.
        owner, recv, at_once = self._owner, self._recv, self._at_once  # a slot that is called is looked up slowly
        if owner is None:
            self._read_watcher.stop()
            self._reading = False
            return
        try:
            data: bytes | None = recv(self._recv_bytes)
        except BlockingIOError:
            return
        except OSError:
            self._break()
            return
        if data:
            size = len(data)
            self.received += size
            self._recv_bytes = MORE_RECV_BYTES if size >= RECV_BYTES else RECV_BYTES
            if at_once is not None:
                try:
                    data = at_once(data)
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

    def wake_at(self, size: int) -> None:
        """Wake nobody before so many bytes have arrived, or the end. (Where the kernel has no such thing, as for Unix
        sockets, all goes on as before.)"""
        self.wakes_at = size
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        except OSError:  # closed, or reset: all wake at once then
            pass

    def is_readable(self) -> bool:
        """Whether bytes, or the end, have arrived that nobody has read yet, be they enough to wake anybody or not."""
        if self._rest or self.is_closed:
            return True
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def has_ended(self) -> bool:
        """Whether the peer has closed its side; what it has sent before need not be read for that."""
        return self.is_closed or self._polls(select.POLLRDHUP)

    def has_hung_up(self) -> bool:
        """Whether nothing reaches the peer any more. One that has only closed its side may still read.

        That a TCP peer has closed both is known when something was sent to it since.
        """
        return self.is_closed or self._polls(0)

    def _polls(self, event: int) -> bool:
        poll = select.poll()
        poll.register(self.sock, event)
        return bool(poll.poll(0))

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
        size = len(data)
        self.sent += size
        if self.pending:
            self._outbox.append(data)
            self.pending += size
        elif not self.is_closed:
            send = self._send
            try:
                sent = send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._break()
                return
            if sent < size:
                self._outbox.append(memoryview(data)[sent:])
                self.pending = size - sent
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

    def cork(self) -> None:
        """Send nothing more until `uncork`, neither what is written from now on nor what is pending."""
        if not (self.is_corked or self.is_closed):
            self.is_corked = True
            self._uncorked_send, self._send = self._send, _take_nothing
            if self._write_watcher is not None:
                self._write_watcher.stop()

    def uncork(self) -> None:
        if self.is_corked:
            self.is_corked = False
            self._send = self._uncorked_send
            if self.pending:
                self._await_writable()

    def _await_writable(self) -> None:
        if self.is_corked:
            return
        if self._write_watcher is None:
            self._write_watcher = self._hub.loop.io(self.sock.fileno(), WRITE)
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


def _take_nothing(data: bytes | memoryview) -> int:
    raise BlockingIOError


# --- addresses -------------------------------------------------------------------------------------------------------


def show_address(address: Address) -> str:
    """The address as one writes it in psql, a log line or a URI."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
