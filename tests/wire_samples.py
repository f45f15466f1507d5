"""One message of every type, built by hand from the documentation, with nothing of lib in it.

source: protocol-message-formats.html
"""

from __future__ import annotations

import struct


def built(tag: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return tag.encode() + struct.pack("!I", len(body) + 4) + body


def i16(*values: int) -> bytes:
    return struct.pack(f"!{len(values)}h", *values)


def i32(*values: int) -> bytes:
    return struct.pack(f"!{len(values)}i", *values)


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def row(*values: str | None) -> bytes:
    """DataRow"""
    columns = (i32(-1) if value is None else i32(len(value.encode())) + value.encode() for value in values)
    return built("D", i16(len(values)), *columns)


def description(*names: str) -> bytes:
    """RowDescription of text columns"""
    fields = (text(name) + i32(0) + i16(0) + i32(25) + i16(-1) + i32(-1) + i16(0) for name in names)
    return built("T", i16(len(names)), *fields)


def complaint(severity: str, code: str, message: str, tag: str = "E") -> bytes:
    """ErrorResponse, or NoticeResponse with another tag"""
    fields = (("S", severity), ("V", severity), ("C", code), ("M", message), ("F", "fake.c"), ("L", "1"), ("R", "say"))
    return built(tag, *(name.encode() + text(value) for name, value in fields), b"\0")


def notice(severity: str, code: str, message: str) -> bytes:
    return complaint(severity, code, message, "N")


def parameter(name: str, value: str) -> bytes:
    """ParameterStatus"""
    return built("S", text(name), text(value))


def complete(tag: str) -> bytes:
    """CommandComplete"""
    return built("C", text(tag))


def ready(status: str = "I") -> bytes:
    return built("Z", status.encode())


BACKEND = {
    "AuthenticationOk": built("R", i32(0)),
    "AuthenticationMD5Password": built("R", i32(5), b"salt"),
    "AuthenticationSASL": built("R", i32(10), text("SCRAM-SHA-256"), b"\0"),
    "BackendKeyData": built("K", i32(4711, 815)),
    "BackendKeyData of 3.2": built("K", i32(4711), bytes(range(32))),
    "BindComplete": built("2"),
    "CloseComplete": built("3"),
    "CommandComplete": complete("SELECT 1"),
    "CopyData": built("d", b"1\ta\n"),
    "CopyDone": built("c"),
    "CopyInResponse": built("G", b"\0", i16(2, 0, 0)),
    "CopyOutResponse": built("H", b"\0", i16(2, 0, 0)),
    "CopyBothResponse": built("W", b"\0", i16(0)),
    "DataRow": row("1", None, "Zwölf"),
    "DataRow of no columns": row(),
    "EmptyQueryResponse": built("I"),
    "ErrorResponse": complaint("ERROR", "42P01", 'relation "nowhere" does not exist'),
    "FunctionCallResponse": built("V", i32(4), b"done"),
    "FunctionCallResponse of NULL": built("V", i32(-1)),
    "NegotiateProtocolVersion": built("v", i32(196610, 1), text("_pq_.unheard_of")),
    "NoData": built("n"),
    "NoticeResponse": notice("WARNING", "25001", "there is already a transaction in progress"),
    "NotificationResponse": built("A", i32(4711), text("channel"), text("payload")),
    "ParameterDescription": built("t", i16(2), i32(23, 25)),
    "ParameterStatus": parameter("application_name", "psql"),
    "ParseComplete": built("1"),
    "PortalSuspended": built("s"),
    "RowDescription": description("id", "name"),
    "ReadyForQuery": ready(),
    "ReadyForQuery in a transaction": ready("T"),
    "ReadyForQuery in a failed transaction": ready("E"),
}


def parse(statement: str, name: str = "", types: tuple[int, ...] = ()) -> bytes:
    return built("P", text(name), text(statement), i16(len(types)), i32(*types))


def bind(*values: str, portal: str = "", name: str = "") -> bytes:
    given = (i32(len(value.encode())) + value.encode() for value in values)
    return built("B", text(portal), text(name), i16(0), i16(len(values)), *given, i16(0))


def describe(what: str = "P", name: str = "") -> bytes:
    return built("D", what.encode(), text(name))


def execute(portal: str = "", rows: int = 0) -> bytes:
    return built("E", text(portal), i32(rows))


def close(what: str = "S", name: str = "") -> bytes:
    return built("C", what.encode(), text(name))


def query(statement: str) -> bytes:
    return built("Q", text(statement))


SYNC, FLUSH, TERMINATE = built("S"), built("H"), built("X")
COPY_DONE = built("c")


def copy_data(data: bytes) -> bytes:
    return built("d", data)


FRONTEND = {
    "Bind": bind("1", "two"),
    "Close": close(name="s1"),
    "CopyData": copy_data(b"1\ta\n"),
    "CopyDone": COPY_DONE,
    "CopyFail": built("f", text("no more")),
    "Describe": describe("S", "s1"),
    "Execute": execute(rows=100),
    "Flush": FLUSH,
    "FunctionCall": built("F", i32(1598), i16(0), i16(0), i16(0)),
    "Parse": parse("select $1", types=(23,)),
    "Query": query("select 1"),
    "Sync": SYNC,
    "Terminate": TERMINATE,
}
