"""A client so thin that what is measured is the pooler: a blocking socket, trust authentication, simple queries.

It logs in, sends one text, and reads to ReadyForQuery without looking at rows. psql and the drivers spend more on a
row than the pooler does, and would hide the difference between two poolers. Not a driver: one answer at a time.

source: protocol-flow.html, protocol-message-formats.html
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

USER, DATABASE = "postgres", "bench"

READY = b"Z\0\0\0\x05I"  # the only ReadyForQuery that a benchmark may see: idle, in no transaction
COPY_DONE = b"c\0\0\0\x04"


@dataclass(frozen=True)
class Endpoint:
    """Where PostgreSQL, or a pooler in front of it, is listening."""

    host: str
    port: int


class Refused(Exception):
    """The other side answered with an ErrorResponse, or closed the connection; its text is the message."""


def connect(at: Endpoint, database: str = DATABASE, timeout_s: float = 30.0) -> socket.socket:
    """A logged-in connection, ready for a query. Raises Refused, OSError."""
    sock = socket.create_connection((at.host, at.port), timeout=timeout_s)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = b"user\0%b\0database\0%b\0\0" % (USER.encode(), database.encode())
        sock.sendall(struct.pack("!II", len(body) + 8, 196608) + body)
        read_to_ready(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def read_to_ready(sock: socket.socket, until: bytes = READY) -> int:
    """Read until what has come ends with `until`; how many bytes that was.

    The messages are not parsed: no row of the benchmark holds those bytes, so they can only be the end of the answer.
    """
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    total = 0
    tail = b""
    while not tail.endswith(until):
        count = sock.recv_into(view)
        if count == 0:
            raise Refused("the connection was closed in the middle of an answer")
        if total == 0 and buffer[0] == ord("E"):
            raise Refused(error_text(bytes(view[:count])))
        total += count
        tail = bytes(view[:count]) if count >= len(until) else (tail + bytes(view[:count]))[-len(until) :]
        tail = tail[-len(until) :]
    return total


def error_text(message: bytes) -> str:
    """The M field of an ErrorResponse. source: protocol-error-fields.html"""
    for field in message[5:].split(b"\0"):
        if field[:1] == b"M":
            return field[1:].decode("utf-8", "replace")
    return "an ErrorResponse without a message"


def query(sock: socket.socket, text: str) -> int:
    """Run one simple query; how many bytes its whole answer had. Raises Refused."""
    sock.sendall(message(b"Q", text.encode() + b"\0"))
    return read_to_ready(sock)


def copy_in(sock: socket.socket, text: str, messages: Iterable[bytes]) -> int:
    """Run a COPY … FROM STDIN with CopyData messages made beforehand; how many bytes were sent. Raises Refused."""
    sock.sendall(message(b"Q", text.encode() + b"\0"))
    answer = sock.recv(65536)
    if answer[:1] != b"G":  # protocol-flow.html#PROTOCOL-COPY
        raise Refused(error_text(answer))
    total = 0
    for data in messages:
        sock.sendall(data)
        total += len(data)
    sock.sendall(COPY_DONE)
    read_to_ready(sock)
    return total


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def answers(at: Endpoint) -> bool:
    """Whether a `select 1` is answered there."""
    try:
        with connect(at, timeout_s=5.0) as sock:
            query(sock, "select 1")
    except (OSError, Refused):
        return False
    return True
