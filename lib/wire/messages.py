"""Single messages: built from values, read into values. Names are the protocol's own.

Pure. Text of the protocol is bytes in the frontend's encoding; what the pool itself says is ASCII, so it is right in
every encoding. Names that a startup packet carries are decoded as UTF-8 with surrogateescape, and so come back as they
were.

source: protocol-message-formats.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from lib.errors import NoUserName, PoolError, ProtocolViolation, UnsupportedProtocol

PROTOCOL_3_0 = 3 << 16
PROTOCOL_3_2 = (3 << 16) | 2
CANCEL_CODE = (1234 << 16) | 5678
SSL_CODE = (1234 << 16) | 5679
GSSENC_CODE = (1234 << 16) | 5680

SSL_REQUEST = struct.pack("!II", 8, SSL_CODE)
SYNC = b"S\0\0\0\4"
TERMINATE = b"X\0\0\0\4"
AUTHENTICATION_OK = b"R\0\0\0\x08\0\0\0\0"
READY = {status: b"Z\0\0\0\5" + status for status in (b"I", b"T", b"E")}
EMPTY_QUERY_RESPONSE = b"I\0\0\0\4"
PARSE_COMPLETE = b"1\0\0\0\4"
BIND_COMPLETE = b"2\0\0\0\4"
CLOSE_COMPLETE = b"3\0\0\0\4"
NO_DATA = b"n\0\0\0\4"
PARAMETER_DESCRIPTION_NONE = b"t\0\0\0\6\0\0"
CLOSE_UNNAMED = b"C\0\0\0\6S\0"

_int32 = struct.Struct("!I")


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def message(tag: bytes, body: bytes) -> bytes:
    return tag + _int32.pack(len(body) + 4) + body


def query(text: str) -> bytes:
    return message(b"Q", encode(text) + b"\0")


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", encode(name) + b"\0" + encode(value) + b"\0")


def backend_key_data(pid: int, secret: bytes) -> bytes:
    return message(b"K", _int32.pack(pid) + secret)


def command_complete(tag: bytes) -> bytes:
    return message(b"C", tag + b"\0")


def negotiate_protocol_version(version: int, unknown_options: list[str]) -> bytes:
    """NegotiateProtocolVersion: the newest version that we speak and the `_pq_.` options that we do not know."""
    body = _int32.pack(version) + _int32.pack(len(unknown_options))
    return message(b"v", body + b"".join(encode(name) + b"\0" for name in unknown_options))


def error_response(error: PoolError, severity: str | None = None) -> bytes:
    """ErrorResponse with the fields S V C M D H R (protocol-error-fields.html) of a PoolError.

    severity   in the place of the error's own: FATAL when the frontend is closed after it
    """
    shown = severity or error.severity
    fields = [("S", shown), ("V", shown), ("C", error.sqlstate), ("M", error.message)]
    if error.detail:
        fields.append(("D", error.detail))
    if error.hint:
        fields.append(("H", error.hint))
    if error.routine:
        fields.append(("R", error.routine))
    return message(b"E", b"".join(code.encode() + encode(value) + b"\0" for code, value in fields) + b"\0")


def notice_response(message_: str, detail: str, hint: str, sqlstate: str) -> bytes:
    """NoticeResponse of severity NOTICE."""
    fields = (("S", "NOTICE"), ("V", "NOTICE"), ("C", sqlstate), ("M", message_), ("D", detail), ("H", hint))
    return message(b"N", b"".join(code.encode() + encode(value) + b"\0" for code, value in fields) + b"\0")


def late_notice(limit_s: float) -> bytes:
    """What goes before the cancel of a statement that has run for too long."""
    return notice_response(
        "this statement is canceled: it has run for longer than query_timeout",
        f"The pool's query_timeout is {limit_s:g} s.", "Have it raised, or run the statement directly.", "01000",
    )  # fmt: skip


def with_severity(raw: bytes, severity: str) -> bytes:
    """The ErrorResponse `raw` with another severity and all else as it was: FATAL at login becomes ERROR later."""
    kept = [part for part in raw[5:].split(b"\0") if part and part[:1] not in b"SV"]
    shown = severity.encode()
    return message(b"E", b"\0".join([b"S" + shown, b"V" + shown, *kept]) + b"\0\0")


def error_fields(raw: bytes) -> dict[str, str]:
    """The fields of a whole ErrorResponse or NoticeResponse by their one-letter code."""
    return {decode(part[:1]): decode(part[1:]) for part in raw[5:].split(b"\0") if part}


def severity(fields: dict[str, str]) -> str:
    """The severity that is not localised; servers before 9.6 have only the localised one."""
    return fields.get("V") or fields.get("S", "")


def read_parameter_status(raw: bytes) -> tuple[str, str]:
    name, value = raw[5:].split(b"\0")[:2]
    return decode(name), decode(value)


def read_data_row(raw: bytes) -> list[str | None]:
    """The values of a whole DataRow in text format."""
    row: list[str | None] = []
    position = 7
    for _ in range(int.from_bytes(raw[5:7], "big")):
        size = int.from_bytes(raw[position : position + 4], "big", signed=True)
        position += 4
        row.append(None if size < 0 else decode(raw[position : position + size]))
        position += max(size, 0)
    return row


def read_backend_key_data(raw: bytes) -> tuple[int, bytes]:
    """(pid, secret); the secret has four bytes in protocol 3.0 and up to 256 since 3.2."""
    return _int32.unpack_from(raw, 5)[0], raw[9:]


def startup_packet(parameters: dict[str, str], version: int = PROTOCOL_3_0) -> bytes:
    body = b"".join(encode(name) + b"\0" + encode(value) + b"\0" for name, value in parameters.items()) + b"\0"
    return _int32.pack(len(body) + 8) + _int32.pack(version) + body


def cancel_request(pid: int, secret: bytes) -> bytes:
    return _int32.pack(12 + len(secret)) + _int32.pack(CANCEL_CODE) + _int32.pack(pid) + secret


@dataclass(frozen=True, slots=True)
class Startup:
    """A startup packet: who, where to, and every other parameter in the order in which it came.

    version      protocol version as sent (major in the upper 16 bits)
    options      names of `_pq_.` options, none of which we know
    """

    version: int
    user: str
    database: str
    parameters: tuple[tuple[str, str], ...]
    options: list[str] = field(default_factory=list)

    @property
    def replication(self) -> bool:
        """Whether a walsender is asked for; the boolean spellings are those of parse_bool()."""
        value = dict(self.parameters).get("replication", "").lower()
        return value not in ("", "0", "of", "off", "n", "no", "f", "fa", "fal", "fals", "false")


@dataclass(frozen=True, slots=True)
class Cancel:
    """A CancelRequest: whose statement, and the proof that the sender is the one who was told the key."""

    pid: int
    secret: bytes


def read_startup(packet: bytes) -> Startup | Cancel | int:
    """Read the first packet of a connection, without its length word.

    packet   bytes from the protocol version on
    returns  Startup, Cancel, or SSL_CODE / GSSENC_CODE
    raises   ProtocolViolation, UnsupportedProtocol, NoUserName
    source   protocol-flow.html#PROTOCOL-FLOW-START-UP
    """
    if len(packet) < 4:
        raise ProtocolViolation("invalid length of startup packet")
    code = _int32.unpack_from(packet)[0]
    if code in (SSL_CODE, GSSENC_CODE):
        return code
    if code == CANCEL_CODE:
        if len(packet) < 9:
            raise ProtocolViolation("invalid length of cancel request")
        return Cancel(_int32.unpack_from(packet, 4)[0], packet[8:])
    if code >> 16 != 3:
        raise UnsupportedProtocol(
            f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: server supports 3.0 to 3.2"
        )
    return _read_parameters(code, packet[4:])


def _read_parameters(version: int, body: bytes) -> Startup:
    # Names and values alternate, each with its NUL; an empty name ends them and must be the last byte.
    if body[-1:] != b"\0":
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    words = body.split(b"\0")
    parameters: dict[str, str] = {}
    position = 0
    while words[position]:
        if position + 1 >= len(words) - 1:
            raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
        parameters[decode(words[position])] = decode(words[position + 1])
        position += 2
    if position != len(words) - 2:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    unknown = [name for name in parameters if name.startswith("_pq_.")]
    for name in unknown:
        del parameters[name]
    user = parameters.pop("user", "")
    if not user:
        raise NoUserName("no PostgreSQL user name specified in startup packet")
    database = parameters.pop("database", "") or user
    return Startup(version, user, database, tuple(parameters.items()), unknown)
