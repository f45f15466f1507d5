"""Values of commands as rows of the protocol, in text or binary form.

Pure. Moments are seconds since 1970; they are shown in UTC, as the pseudo database says that its time zone is.

source: protocol-message-formats.html; the binary forms are those of the types' send functions
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from math import inf, isinf, isnan
from typing import Any

from lib.console.commands import Column
from lib.errors import ProtocolViolation
from lib.wire.messages import encode, message

TEXT, BINARY = 0, 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_2000 = 946_684_800  # of PostgreSQL's own epoch
_NULL = struct.pack("!i", -1)
_int16 = struct.Struct("!H").pack
_int32 = struct.Struct("!i").pack
_int64 = struct.Struct("!q").pack
_double = struct.Struct("!d").pack

Encoder = Callable[[Any], bytes]


def _float_text(value: float) -> bytes:
    if isnan(value):
        return b"NaN"
    if isinf(value):
        return b"Infinity" if value > 0 else b"-Infinity"
    return repr(round(float(value), 6)).removesuffix(".0").encode()


def _moment_text(value: float) -> bytes:
    if abs(value) == inf:
        return b"infinity" if value > 0 else b"-infinity"
    return (_EPOCH + timedelta(seconds=value)).isoformat(" ", "milliseconds").replace("+00:00", "+00").encode()


_TEXT: dict[str, Encoder] = {
    "bool": lambda value: b"t" if value else b"f",
    "int8": lambda value: b"%d" % value,
    "float8": _float_text,
    "text": lambda value: str(value).replace("\0", "").encode("utf-8", "replace"),
    "timestamptz": _moment_text,
}
_BINARY: dict[str, Encoder] = {
    "bool": lambda value: b"\1" if value else b"\0",
    "int8": lambda value: _int64(int(value)),
    "float8": lambda value: _double(value),
    "text": _TEXT["text"],
    "timestamptz": lambda value: _int64(round((value - _2000) * 1_000_000)),
}


def encoders(columns: Sequence[Column], formats: Sequence[int]) -> list[Encoder]:
    """How the values of each column are written.

    formats   as in Bind: none (text), one for all, or one for each
    """
    each = list(formats) if len(formats) == len(columns) else list(formats or [TEXT]) * len(columns)
    return [(_BINARY if form else _TEXT)[column.type.name] for column, form in zip(columns, each, strict=True)]


def check_formats(columns: Sequence[Column], formats: Sequence[int]) -> None:
    """Raises ProtocolViolation when there is another number of them than there may be, or an unknown one."""
    if len(formats) not in (0, 1, len(columns)) or not set(formats) <= {TEXT, BINARY}:
        raise ProtocolViolation(f"bind message has {len(formats)} result formats but query has {len(columns)} columns")


def data_row(row: Sequence[Any], write: Sequence[Encoder]) -> bytes:
    """DataRow."""
    parts = [_int16(len(row))]
    for value, encoder in zip(row, write, strict=True):
        if value is None:
            parts.append(_NULL)
        else:
            raw = encoder(value)
            parts += (_int32(len(raw)), raw)
    return message(b"D", b"".join(parts))


def row_description(columns: Sequence[Column], formats: Sequence[int] = ()) -> bytes:
    """RowDescription."""
    each = list(formats) if len(formats) == len(columns) else list(formats or [TEXT]) * len(columns)
    parts = [_int16(len(columns))]
    for column, form in zip(columns, each, strict=True):
        kind = column.type
        parts += (encode(column.name), b"\0", struct.pack("!IHIhih", 0, 0, kind.oid, kind.size, -1, form))
    return message(b"T", b"".join(parts))


def parameter_description(oids: Sequence[int]) -> bytes:
    """ParameterDescription."""
    return message(b"t", _int16(len(oids)) + b"".join(struct.pack("!I", oid) for oid in oids))
