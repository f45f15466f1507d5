"""Where frontends come in: sockets that listen, and connections that are accepted.

Green. Beside `net`, which has the streams, and `connecting` the only module that touches a socket. A burst of
connections is taken in a few at a time, so that those that are there already get their answers; when there is no room
for one more it waits in the kernel's backlog. A Unix socket's path is ours while we listen, and goes with us.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub

from lib import addresses
from lib.net import READ, Address, Stream

log = logging.getLogger(__name__)

ACCEPTS_PER_TURN = 64


class Listener:
    """Accepts connections and gives each to `handler(stream)` in a green thread of its own."""

    def __init__(self, sock: socket.socket, handler: Callable[[Stream], None]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._handler = handler
        self._watcher = get_hub().loop.io(sock.fileno(), READ)
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
        return [_listen_unix(addresses.Address(*address).unix_path, unix_socket_mode, backlog)]
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
