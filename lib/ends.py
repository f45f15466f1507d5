"""What the kernel knows of a stream's two ends: where they are, and how long they have been quiet."""

from __future__ import annotations

import socket
import struct

from lib.net import Stream

_TCP_INFO = struct.Struct("=44xI4xI")  # tcpi_last_data_sent and tcpi_last_data_recv of Linux's struct tcp_info


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


def own_address(stream: Stream) -> tuple[str, int] | tuple[None, None]:
    """(host, port) of our end of a TCP connection; None for both of one that is on a Unix socket, or closed."""
    if stream.sock.family == socket.AF_UNIX:
        return None, None
    try:
        host, port = stream.sock.getsockname()[:2]
    except OSError:
        return None, None
    return host, port


def quiet_s(stream: Stream) -> tuple[float, float] | tuple[None, None]:
    """Seconds since something was sent to the peer of a TCP connection, and since something came from it, as the kernel
    keeps them; None for both where it does not tell."""
    if stream.sock.family == socket.AF_UNIX:
        return None, None
    try:
        found = stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:  # closed
        return None, None
    if len(found) < _TCP_INFO.size:
        return None, None
    sent_ms, received_ms = _TCP_INFO.unpack(found)
    return sent_ms / 1000, received_ms / 1000
