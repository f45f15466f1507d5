"""What a frontend of the pseudo database has prepared and bound, and the messages that say so.

Pure. Parameters stand for arguments of commands; whatever type a driver gives them, they are read as text.

source: protocol-message-formats.html (Parse, Bind)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lib.console.commands import Column
from lib.console.encoding import BINARY
from lib.errors import ProtocolViolation, ValueUnfit
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
