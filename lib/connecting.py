"""How to reach a server: from its address to a stream.

Green. Beside `net`, which has the streams, and `listening` the only module that touches a socket.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import gevent
from gevent import get_hub

from lib import addresses
from lib.errors import ServerUnreachable
from lib.net import WRITE, Address, Stream, show_address

_BACKLOG_PAUSE_S = 0.01


def _candidates(address: Address) -> list[tuple[int, Any]]:
    if address[0].startswith("/"):
        return [(socket.AF_UNIX, addresses.Address(*address).unix_path)]
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
        watcher = get_hub().loop.io(sock.fileno(), WRITE)
        try:
            get_hub().wait(watcher)
        finally:
            watcher.close()
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
