"""The words of SCRAM's messages: what a client says is read here, and complained about as PostgreSQL does.

Pure.

source: RFC 5802 section 7, sasl-authentication.html#SASL-SCRAM-SHA-256; the messages are those of auth-scram.c
"""

from __future__ import annotations

import hmac

from lib.auth import scram
from lib.errors import NotAuthorized, PoolError, ProtocolViolation

BINDING = b"tls-server-end-point"


def malformed(detail: str) -> ProtocolViolation:
    return ProtocolViolation("malformed SCRAM message", detail=detail)


def _shown(text: bytes) -> str:
    """The first character as PostgreSQL shows it in these errors."""
    byte = text[0] if text else 0
    return f"'{chr(byte)}'" if 0x21 <= byte <= 0x7E else f"0x{byte:02x}"


def attribute(text: bytes, name: bytes) -> tuple[bytes, bytes]:
    """Read `name=value` from the front: (value, rest)."""
    if text[:1] != name:
        raise malformed(f'Expected attribute "{name.decode()}" but found "{_shown(text)}".')
    return any_attribute(text)[1:]


def any_attribute(text: bytes) -> tuple[bytes, bytes, bytes]:
    """Read one attribute from the front: (name, value, rest)."""
    if not text:
        raise malformed("Attribute expected, but found end of string.")
    name = text[:1]
    if not name.isalpha():
        raise malformed(f'Attribute expected, but found invalid character "{_shown(text)}".')
    if text[1:2] != b"=":
        raise malformed(f'Expected character "=" for attribute "{name.decode()}".')
    value, _, rest = text[2:].partition(b",")
    return name, value, rest


def text_of(text: bytes) -> bytes:
    if not text:
        raise malformed("The message is empty.")
    if 0 in text:
        raise malformed("Message length does not match input length.")
    return text


def read_client_first(text: bytes, *, is_bound: bool, could_bind: bool) -> tuple[bytes, bytes, bytes]:
    """Read the client-first-message.

    is_bound     the client has chosen SCRAM-SHA-256-PLUS
    could_bind   it was offered
    returns      (GS2 header, client-first-message-bare, client nonce)
    """
    flag = text[:1]
    if flag == b"p":
        if not is_bound:
            raise malformed(
                "The client selected SCRAM-SHA-256 without channel binding, "
                "but the SCRAM message includes channel binding data."
            )
        kind, rest = attribute(text, b"p")
        if kind != BINDING:
            shown = "".join(chr(byte) if 0x21 <= byte <= 0x7E else "?" for byte in kind[:30])
            raise ProtocolViolation(f'unsupported SCRAM channel-binding type "{shown}"')
    elif flag in (b"n", b"y"):
        if is_bound:
            raise malformed(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."
            )
        if flag == b"y" and could_bind:
            # Somebody between us has taken the other mechanism off the list.
            raise NotAuthorized(
                "SCRAM channel binding negotiation error",
                detail="The client supports SCRAM channel binding but thinks the server does not.  "
                "However, this server does support channel binding.",
            )
        if text[1:2] != b",":
            raise malformed(f'Comma expected, but found character "{_shown(text[1:])}".')
        rest = text[2:]
    else:
        raise malformed(f'Unexpected channel-binding flag "{_shown(text)}".')
    if rest[:1] == b"a":
        raise _Unsupported("client uses authorization identity, but it is not supported")
    if rest[:1] != b",":
        raise malformed(f'Unexpected attribute "{_shown(rest)}" in client-first-message.')
    bare = rest[1:]
    if bare[:1] == b"m":
        raise _Unsupported("client requires an unsupported SCRAM extension")
    _, rest = attribute(bare, b"n")
    nonce, rest = attribute(rest, b"r")
    if any(not 0x21 <= byte <= 0x7E for byte in nonce):
        raise ProtocolViolation("non-printable characters in SCRAM nonce")
    while rest:
        rest = any_attribute(rest)[2]
    return text[: len(text) - len(bare)], bare, nonce


class _Unsupported(PoolError, sqlstate="0A000", severity="FATAL"):
    """A part of SCRAM that PostgreSQL does not have either."""


def read_client_final(text: bytes, header: bytes, binding: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """Read the client-final-message; the nonce and the channel binding are checked.

    header    the GS2 header of the client-first-message
    binding   what the channel is bound to, b"" when it is not
    returns   (client-final-message-without-proof, proof)
    """
    bound, rest = attribute(text, b"c")
    if not hmac.compare_digest(bound, scram.encode64(header + binding)):
        if binding:
            raise NotAuthorized("SCRAM channel binding check failed")
        raise ProtocolViolation("unexpected SCRAM channel-binding attribute in client-final-message")
    final_nonce, rest = attribute(rest, b"r")
    while True:
        start = len(text) - len(rest) - 1
        name, value, rest = any_attribute(rest)
        if name == b"p":
            break
    try:
        proof = scram.decode64(value)
    except ValueError:
        proof = b""
    if len(proof) != scram.KEY_BYTES:
        raise malformed("Malformed proof in client-final-message.")
    if rest:
        raise malformed("Garbage found at the end of client-final-message.")
    if not hmac.compare_digest(final_nonce, nonce):
        raise ProtocolViolation("invalid SCRAM response", detail="Nonce does not match.")
    return text[:start], proof
