"""The protocol by hand: a socket that says exactly what a test tells it to, and hears every message.

For what no driver says or shows: odd orders of messages, cancel keys, bytes to compare. It logs in where no password is
asked (the trust role), so that nothing stands between a test and the bytes.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple, Self

from tests import roles

PROTOCOL_3_0, PROTOCOL_3_2 = 3 << 16, 3 << 16 | 2
TIMEOUT_S = 30.0


def message(tag: bytes, body: bytes = b"") -> bytes:
    return tag + struct.pack("!I", len(body) + 4) + body


def query(sql: str) -> bytes:
    return message(b"Q", sql.encode() + b"\0")


def parse(sql: str, name: str = "", types: tuple[int, ...] = ()) -> bytes:
    body = name.encode() + b"\0" + sql.encode() + b"\0" + struct.pack("!H", len(types))
    return message(b"P", body + b"".join(struct.pack("!I", oid) for oid in types))


def bind(*values: str | None, name: str = "", portal: str = "") -> bytes:
    """Parameters and results as text."""
    body = portal.encode() + b"\0" + name.encode() + b"\0" + struct.pack("!HH", 0, len(values))
    for value in values:
        raw = b"" if value is None else value.encode()
        body += struct.pack("!i", -1 if value is None else len(raw)) + raw
    return message(b"B", body + struct.pack("!H", 0))


def bind_as(formats: list[int], values: list[bytes | None], results: list[int], name: str = "") -> bytes:
    """Parameters as they are given, with their formats and those of the result's columns (0 text, 1 binary)."""
    body = b"\0" + name.encode() + b"\0" + struct.pack(f"!{len(formats) + 1}H", len(formats), *formats)
    body += struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!i", -1 if value is None else len(value)) + (value or b"")
    return message(b"B", body + struct.pack(f"!{len(results) + 1}H", len(results), *results))


def describe(what: str = "P", name: str = "") -> bytes:
    return message(b"D", what.encode() + name.encode() + b"\0")


def execute(portal: str = "", rows: int = 0) -> bytes:
    return message(b"E", portal.encode() + b"\0" + struct.pack("!I", rows))


def close(what: str = "S", name: str = "") -> bytes:
    return message(b"C", what.encode() + name.encode() + b"\0")


def call(oid: int, *values: str) -> bytes:
    """FunctionCall with arguments and result as text."""
    body = struct.pack("!IHHH", oid, 1, 0, len(values))
    for value in values:
        body += struct.pack("!I", len(value)) + value.encode()
    return message(b"F", body + struct.pack("!H", 0))


def copy_data(text: str) -> bytes:
    return message(b"d", text.encode())


SYNC, FLUSH, COPY_DONE, TERMINATE = message(b"S"), message(b"H"), message(b"c"), message(b"X")


def copy_fail(reason: str) -> bytes:
    return message(b"f", reason.encode() + b"\0")


def once(sql: str, *values: str | None) -> bytes:
    """A whole unit of the extended protocol."""
    return parse(sql) + bind(*values) + describe() + execute() + SYNC


class Message(NamedTuple):
    """One message of the server."""

    tag: str
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        """Of an ErrorResponse or a NoticeResponse, by their letters."""
        return {part[:1].decode(): part[1:].decode() for part in self.body.split(b"\0") if part}

    @property
    def columns(self) -> tuple[int, ...]:
        """Of a RowDescription: the types."""
        types = []
        at = 2
        for _ in range(struct.unpack_from("!H", self.body)[0]):
            at = self.body.index(b"\0", at) + 19
            types.append(struct.unpack_from("!I", self.body, at - 12)[0])
        return tuple(types)

    @property
    def raw(self) -> list[bytes | None]:
        """Of a DataRow."""
        row: list[bytes | None] = []
        at = 2
        for _ in range(struct.unpack_from("!H", self.body)[0]):
            size = struct.unpack_from("!i", self.body, at)[0]
            at += 4
            row.append(None if size < 0 else self.body[at : at + size])
            at += max(size, 0)
        return row

    @property
    def values(self) -> list[str | None]:
        """Of a DataRow, as text."""
        return [None if value is None else value.decode() for value in self.raw]


class Wire:
    """A connection that has logged in, unless `login` is False.

    greeting     what came between AuthenticationOk and the first ReadyForQuery
    parameters   the ParameterStatus values as they were told last
    key          of BackendKeyData: (pid, secret)
    """

    def __init__(
        self, where: object, *, version: int = PROTOCOL_3_0, login: bool = True, user: str = roles.TRUST.name,
        database: str = roles.DATABASE, timeout_s: float | None = TIMEOUT_S, **parameters: str,
    ) -> None:  # fmt: skip
        host, port = where if isinstance(where, tuple) else (where.host, where.port)  # type: ignore[attr-defined]
        if host.startswith("/"):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(f"{host}/.s.PGSQL.{port}")
        else:
            self.sock = socket.create_connection((host, port))
        self.sock.settimeout(timeout_s)
        self.address = self.sock.getpeername()
        self._rest = b""
        self.parameters: dict[str, str] = {}
        self.greeting: list[Message] = []
        self.key = (0, b"")
        if login:
            self.send(startup(version, {"user": user, "database": database, **parameters}))
            self.greeting = self.until_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def read(self, size: int) -> bytes:
        """Exactly so many bytes; EOFError at the end."""
        while len(self._rest) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._rest += data
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def receive(self) -> Message:
        head = self.read(5)
        found = Message(head[:1].decode("latin-1"), self.read(struct.unpack("!I", head[1:])[0] - 4))
        if found.tag == "S":
            name, value = found.body.split(b"\0")[:2]
            self.parameters[name.decode()] = value.decode()
        elif found.tag == "K":
            self.key = (struct.unpack_from("!I", found.body)[0], found.body[4:])
        return found

    def until(self, tags: str) -> list[Message]:
        """All messages up to one of these types; up to the end when there is none."""
        found = []
        while not found or found[-1].tag not in tags:
            try:
                found.append(self.receive())
            except (EOFError, ConnectionResetError):
                break
        return found

    def until_ready(self) -> list[Message]:
        return self.until("Z")

    def until_closed(self) -> list[Message]:
        return self.until("")

    def ask(self, *parts: bytes) -> list[Message]:
        self.send(*parts)
        return self.until_ready()

    def rows(self, sql: str) -> list[list[str | None]]:
        """Rows of a simple query; an AssertionError with its fields when it fails."""
        found = self.ask(query(sql))
        errors = [each.fields for each in found if each.tag == "E"]
        assert not errors, errors
        return [each.values for each in found if each.tag == "D"]

    def value(self, sql: str) -> str | None:
        return self.rows(sql)[0][0]

    def error(self, sql: str) -> dict[str, str]:
        """The fields of the error that a simple query must end with."""
        errors = [each.fields for each in self.ask(query(sql)) if each.tag == "E"]
        assert len(errors) == 1, f"{sql}: {errors}"
        return errors[0]

    def cancel(self) -> None:
        """A CancelRequest with this connection's key; returns when the server has closed that connection."""
        pid, secret = self.key
        with socket.socket(self.sock.family) as other:
            other.settimeout(TIMEOUT_S)
            other.connect(self.address)
            other.sendall(struct.pack("!III", 12 + len(secret), 1234 << 16 | 5678, pid) + secret)
            while other.recv(1):
                pass


def startup(version: int, parameters: dict[str, str]) -> bytes:
    body = b"".join(name.encode() + b"\0" + value.encode() + b"\0" for name, value in parameters.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, version) + body


def refusal(where: object, **parameters: str) -> dict[str, str]:
    """The fields of the FATAL with which a login must end."""
    with Wire(where, login=False) as wire:
        wire.send(startup(PROTOCOL_3_0, {"user": roles.TRUST.name, "database": roles.DATABASE, **parameters}))
        last = wire.until_closed()[-1]
    assert last.tag == "E", last
    assert last.fields["S"] == last.fields["V"] == "FATAL", last.fields
    return last.fields
