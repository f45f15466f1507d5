"""The extended protocol of the pseudo database: what a frontend has prepared and bound there, and in which messages.

Pure: answers are handed on, and who runs commands is told when. Parameters stand for arguments of commands; whatever
type a driver gives them, they are read as text.

source: protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY, protocol-message-formats.html (Parse, Bind)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lib.console.commands import Column
from lib.console.courtesy import Courtesy
from lib.console.encoding import BINARY, check_formats, parameter_description, row_description
from lib.console.parsing import find, parameters_of, split
from lib.errors import CommandInvalid, ProtocolViolation, UnknownPortal, UnknownStatement, ValueUnfit
from lib.wire import messages
from lib.wire.messages import decode

_TEXT_OID = 25
_BINARY: dict[int, Callable[[bytes], str]] = {
    16: lambda raw: "true" if raw != b"\0" else "false",
    20: lambda raw: str(struct.unpack("!q", raw)[0]),
    21: lambda raw: str(struct.unpack("!h", raw)[0]),
    23: lambda raw: str(struct.unpack("!i", raw)[0]),
    700: lambda raw: repr(struct.unpack("!f", raw)[0]),
    701: lambda raw: repr(struct.unpack("!d", raw)[0]),
}


class Bind(NamedTuple):
    portal: bytes
    statement: bytes
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """A statement. `count` is the number of its parameters, `oids` the types that the driver gave them."""

    text: str
    columns: tuple[Column, ...]
    count: int
    oids: tuple[int, ...]

    @property
    def types(self) -> tuple[int, ...]:
        """What its parameters are said to be."""
        given = self.oids[: self.count]
        return tuple(oid or _TEXT_OID for oid in given) + (_TEXT_OID,) * (self.count - len(given))

    def given(self, bind: Bind) -> tuple[str | None, ...]:
        """The values of its parameters as text.

        raises   ProtocolViolation for another number of them, ValueUnfit for a binary form that is not known
        """
        if len(bind.values) != self.count:
            raise ProtocolViolation(
                f"bind message supplies {len(bind.values)} parameters, but the command requires {self.count}"
            )
        formats = bind.formats if len(bind.formats) == self.count else (*bind.formats, *(0,) * self.count)
        if len(bind.formats) == 1:
            formats = bind.formats * self.count
        return tuple(map(_as_text, bind.values, formats, self.types))


def _as_text(raw: bytes | None, form: int, oid: int) -> str | None:
    if raw is None:
        return None
    if form == BINARY and oid in _BINARY:
        return _BINARY[oid](raw)
    if form == BINARY and oid not in (_TEXT_OID, 18, 19, 705, 1042, 1043):
        raise ValueUnfit(f"a parameter of type {oid} in binary form", hint="Give arguments of commands as text.")
    return decode(raw)


class Portal:
    """A command that is ready to run, or is running: None for an empty one. `rows` once it has begun."""

    def __init__(self, command: Any, formats: Sequence[int]) -> None:
        self.command = command
        self.formats = formats
        self.rows: Iterator[tuple[Any, ...]] | None = None
        self.sent = 0

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.command.columns if self.command is not None else ()


def read_parse(body: bytes) -> tuple[bytes, str, tuple[int, ...]]:
    """(name, text, oids of parameters) of a Parse message."""
    name, _, rest = body.partition(b"\0")
    text, _, rest = rest.partition(b"\0")
    (count,) = struct.unpack_from("!H", rest)
    return name, decode(text), struct.unpack_from(f"!{count}I", rest, 2)


def read_bind(body: bytes) -> Bind:
    """A Bind message."""
    portal, _, rest = body.partition(b"\0")
    statement, _, rest = rest.partition(b"\0")
    formats, position = _int16s(rest, 0)
    (count,) = struct.unpack_from("!H", rest, position)
    position += 2
    values: list[bytes | None] = []
    for _ in range(count):
        (size,) = struct.unpack_from("!i", rest, position)
        position += 4
        if size < -1 or position + max(size, 0) > len(rest):
            raise ProtocolViolation("invalid message format")
        values.append(None if size < 0 else rest[position : position + size])
        position += max(size, 0)
    result_formats, _ = _int16s(rest, position)
    return Bind(portal, statement, formats, tuple(values), result_formats)


def _int16s(raw: bytes, position: int) -> tuple[tuple[int, ...], int]:
    (count,) = struct.unpack_from("!H", raw, position)
    return struct.unpack_from(f"!{count}H", raw, position + 2), position + 2 + 2 * count


class Extended:
    """Takes messages of one frontend.

    write      where answers go
    courtesy   of a statement's tokens: what a driver's own is answered with, None for what is none
    read       of a statement, its tokens, the whole text and the values of its parameters: a command that may be run
    run        sends the rows of a portal, at most so many (0: all), and what ends them
    """

    def __init__(
        self, write: Callable[[bytes], None], courtesy: Callable[[Sequence[Any]], Courtesy | None],
        read: Callable[..., Any], run: Callable[[Portal, int], None],
    ) -> None:  # fmt: skip
        self._write = write
        self._courtesy = courtesy
        self._read = read
        self._run = run
        self._prepared: dict[bytes, Prepared] = {}
        self._portals: dict[bytes, Portal] = {}

    def __repr__(self) -> str:
        return f"<Extended prepared={len(self._prepared)} portals={len(self._portals)}>"

    def take(self, tag: bytes, body: bytes) -> None:
        """One of EXTENDED.

        raises   PoolError to be told to the frontend; struct.error, IndexError, UnicodeDecodeError: no such message
        """
        _TAKEN_BY[tag](self, body)

    def close_portals(self) -> None:
        """The transaction, or the frontend, is over."""
        self._portals.clear()

    def forget_unnamed(self) -> None:
        """A Query takes the place of the statement without a name."""
        self._prepared.pop(b"", None)

    def _parse(self, body: bytes) -> None:
        name, text, oids = read_parse(body)
        if name and name in self._prepared:
            raise CommandInvalid(f'prepared statement "{decode(name)}" already exists')
        statements = split(text)
        if len(statements) > 1:
            raise CommandInvalid("cannot insert multiple commands into a prepared statement")
        columns: tuple[Column, ...] = ()
        count = 0
        for statement, tokens in statements:
            courtesy = self._courtesy(tokens)
            if courtesy is None:
                columns = find(statement, tokens)[0].columns
                count = parameters_of(text)
                if not count:
                    self._read(statement, tokens, text)
            else:
                columns = courtesy.columns
        self._prepared[name] = Prepared(text, columns, count, oids)
        self._write(messages.PARSE_COMPLETE)

    def _bind(self, body: bytes) -> None:
        bind = read_bind(body)
        prepared = self._statement(bind.statement)
        given = prepared.given(bind)
        command: Any = None
        for statement, tokens in split(prepared.text):
            command = self._read(statement, tokens, prepared.text, given)
        check_formats(prepared.columns, bind.result_formats)
        self._portals[bind.portal] = Portal(command, bind.result_formats)
        self._write(messages.BIND_COMPLETE)

    def _describe(self, body: bytes) -> None:
        name = body[1:].rstrip(b"\0")
        if body[:1] == b"S":
            prepared = self._statement(name)
            self._write(parameter_description(prepared.types))
            self._tell_columns(prepared.columns, ())
        else:
            portal = self._portal(name)
            self._tell_columns(portal.columns, portal.formats)

    def _tell_columns(self, columns: Sequence[Column], formats: Sequence[int]) -> None:
        self._write(row_description(columns, formats) if columns else messages.NO_DATA)

    def _execute(self, body: bytes) -> None:
        name, _, rest = body.partition(b"\0")
        portal = self._portal(name)
        if portal.command is None:
            self._write(messages.EMPTY_QUERY_RESPONSE)
        else:
            self._run(portal, struct.unpack("!i", rest)[0])

    def _close(self, body: bytes) -> None:
        which: dict[bytes, Any] = self._prepared if body[:1] == b"S" else self._portals
        which.pop(body[1:].rstrip(b"\0"), None)
        self._write(messages.CLOSE_COMPLETE)

    def _statement(self, name: bytes) -> Prepared:
        prepared = self._prepared.get(name)
        if prepared is None:
            raise UnknownStatement(f'prepared statement "{decode(name)}" does not exist')
        return prepared

    def _portal(self, name: bytes) -> Portal:
        portal = self._portals.get(name)
        if portal is None:
            raise UnknownPortal(f'portal "{decode(name)}" does not exist')
        return portal


_TAKEN_BY: dict[bytes, Callable[[Extended, bytes], None]] = {
    b"P": Extended._parse,
    b"B": Extended._bind,
    b"D": Extended._describe,
    b"E": Extended._execute,
    b"C": Extended._close,
}
EXTENDED = frozenset(_TAKEN_BY)  # tags of messages that `Extended.take` takes
