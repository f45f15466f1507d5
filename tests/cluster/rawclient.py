"""A frontend on a bare socket: it sends whatever bytes a test wants, in whatever pieces, and reads whole messages."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple, Self

from lib.wire import messages
from tests import roles

BUFFER = 1 << 20


class Message(NamedTuple):
    """One message of a backend."""

    tag: str
    body: bytes


class Answer(list):
    """The messages up to and with a ReadyForQuery (or to the end of the connection)."""

    @property
    def tags(self) -> str:
        return "".join(message.tag for message in self)

    @property
    def errors(self) -> list[dict[str, str]]:
        return [messages.error_fields(b"E0000" + message.body) for message in self if message.tag == "E"]

    @property
    def error(self) -> dict[str, str]:
        """The fields of the only ErrorResponse."""
        (error,) = self.errors
        return error

    @property
    def code(self) -> str | None:
        """SQLSTATE of the only ErrorResponse, None when there is none."""
        return self.error["C"] if self.errors else None

    @property
    def rows(self) -> list[tuple[str | None, ...]]:
        return [_columns(message.body) for message in self if message.tag == "D"]

    @property
    def commands(self) -> list[str]:
        """Command tags."""
        return [message.body[:-1].decode() for message in self if message.tag == "C"]

    @property
    def status(self) -> str | None:
        """The transaction status, None when the connection ended instead."""
        return self[-1].body.decode() if self and self[-1].tag == "Z" else None


def _columns(body: bytes) -> tuple[str | None, ...]:
    (count,) = struct.unpack_from("!H", body)
    position = 2
    columns: list[str | None] = []
    for _ in range(count):
        (size,) = struct.unpack_from("!i", body, position)
        position += 4
        columns.append(None if size < 0 else body[position : position + size].decode())
        position += max(size, 0)
    return tuple(columns)


class Raw:
    """A connection that has logged in (as the trust role, unless told otherwise).

    key     (pid, secret) of its BackendKeyData
    """

    def __init__(
        self, host: str, port: int, *, user: str = roles.TRUST.name, database: str = roles.DATABASE,
        version: int = messages.PROTOCOL_3_0, timeout_s: float = 60.0, rcvbuf: int = 0, **params: str,
    ) -> None:  # fmt: skip
        self.address = (host, port)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(timeout_s)
        self.sock.connect(self.address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self.key = (0, b"")
        self.greeting = Answer()
        if user:
            self.send(messages.startup_packet({"user": user, "database": database, **params}, version))
            self.greeting = self.answer()
            for tag, body in self.greeting:
                if tag == "K":
                    self.key = struct.unpack_from("!I", body)[0], body[4:]

    def __repr__(self) -> str:
        return f"<Raw {self.sock}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def message(self) -> Message | None:
        """The next message; None at the end of the connection."""
        while len(self._buffer) < 5 or len(self._buffer) <= (size := struct.unpack_from("!I", self._buffer, 1)[0]):
            if not self._more():
                return None
        tag, body = chr(self._buffer[0]), bytes(self._buffer[5 : size + 1])
        del self._buffer[: size + 1]
        return Message(tag, body)

    def _more(self) -> bool:
        try:
            data = self.sock.recv(BUFFER)
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)

    def until(self, tags: str) -> Answer:
        """The messages up to and with the first whose type is in `tags`, or to the end of the connection."""
        found = Answer()
        while (message := self.message()) is not None:
            found.append(message)
            if message.tag in tags:
                break
        return found

    def answer(self) -> Answer:
        return self.until("Z")

    def query(self, text: str) -> Answer:
        self.send(messages.query(text))
        return self.answer()

    def value(self, text: str) -> Any:
        """The first column of the only row."""
        ((value, *_),) = self.query(text).rows
        return value

    def says_nothing(self, for_s: float = 0.0) -> bool:
        return not self._buffer and not select.select([self.sock], [], [], for_s)[0]

    def is_closed(self) -> bool:
        """Whether the peer has closed; waits for it, and fails on anything else that comes."""
        message = self.message()
        assert message is None, f"{message} came instead of the end"
        return True

    def cancel(self, key: tuple[int, bytes] | None = None) -> None:
        """Send a CancelRequest and wait until that connection was closed."""
        cancel(self.address, key or self.key)

    def vanish(self) -> None:
        """Go without a word, by a reset where bytes are unread."""
        self.sock.close()

    def close(self) -> None:
        with suppress(OSError):
            self.sock.sendall(messages.TERMINATE)
        self.sock.close()


def cancel(address: tuple[str, int], key: tuple[int, bytes]) -> None:
    with socket.create_connection(address, 60) as sock:
        sock.sendall(messages.cancel_request(*key))
        with suppress(ConnectionError):
            sock.recv(1)


def parse(text: str, name: str = "") -> bytes:
    return messages.message(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0")


def bind(name: str = "", portal: str = "") -> bytes:
    return messages.message(b"B", portal.encode() + b"\0" + name.encode() + b"\0" + b"\0\0\0\0\0\0")


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    return messages.message(b"E", portal.encode() + b"\0" + struct.pack("!I", max_rows))


DESCRIBE = messages.message(b"D", b"P\0")
FLUSH = b"H\0\0\0\4"
COPY_DONE = b"c\0\0\0\4"


def copy_data(data: bytes) -> bytes:
    return messages.message(b"d", data)


def extended(text: str) -> bytes:
    """One statement as a unit of the extended protocol, as drivers send it."""
    return parse(text) + bind() + DESCRIBE + execute() + messages.SYNC


def simple(text: str) -> bytes:
    return messages.query(text)


def closed_all(frontends: Iterable[Raw]) -> None:
    for each in frontends:
        each.close()
