"""The dialogues of a login as generators that read like the protocol chapter: the pool as server, as client, between.

Pure. A generator yields what shall be done next and is sent the result:
  bytes            a whole message for the other side; sent back is the other side's whole answer (tag, length, body)
  Say(message)     a whole message that is not answered; sent back is None
  Work(function)   something that takes CPU time; sent back is what function() returned
Nothing secret is ever in an exception's text or in a repr.

source: protocol-flow.html#PROTOCOL-FLOW-START-UP, sasl-authentication.html, protocol-message-formats.html
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from lib.auth import scram
from lib.auth.credential import Credential
from lib.errors import AuthenticationFailed, CredentialUnfit, PoolError, ProtocolViolation
from lib.wire.messages import encode, message

OK, CLEARTEXT, MD5, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 5, 10, 11, 12
METHOD_OF_CODE = {CLEARTEXT: "password", MD5: "md5", SASL: "scram-sha-256"}
MAX_PASSWORD_BYTES = 65_535
MAX_SASL_BYTES = 1_024

_int32 = struct.Struct("!i")


class Say(NamedTuple):
    """A message that the other side does not answer."""

    message: bytes

    def __repr__(self) -> str:
        return "<Say ***>"


class Work(NamedTuple):
    """A call that takes CPU time, for a thread."""

    function: Callable[[], Any]

    def __repr__(self) -> str:
        return "<Work>"


Step = bytes | Say | Work
Dialogue = Generator[Any, Any, Any]


def authentication(code: int, payload: bytes = b"") -> bytes:
    """One of the Authentication* messages."""
    return message(b"R", _int32.pack(code) + payload)


def code_of(raw: bytes) -> int:
    """Which of the Authentication* messages this is; raises ProtocolViolation when it is too short for one."""
    if len(raw) < 9 or raw[:1] != b"R":
        raise ProtocolViolation("malformed authentication request from the server")
    return int(_int32.unpack_from(raw, 5)[0])


def failure(user: str) -> AuthenticationFailed:
    """PostgreSQL's words for every wrong, missing or expired password."""
    return AuthenticationFailed(f'password authentication failed for user "{user}"')


# --- the pool as the server -----------------------------------------------------------------------------------------


def challenge(
    method: str, user: str, secret: str | None, mock_nonce: bytes, password_encryption: str = "scram-sha-256"
) -> Dialogue:
    """Authenticate a frontend as PostgreSQL would, with a rule of this method.

    method                password, md5 or scram-sha-256
    secret                rolpassword, or None for an unknown role, one without password and one that has expired
    mock_nonce            a secret of the cluster, from which unknown roles get their salt
    password_encryption   the server's setting: what an unknown role is asked for under an md5 rule
    returns               Credential
    raises                AuthenticationFailed (28P01), ProtocolViolation (08P01)
    """
    if method == "password":
        return _ask_cleartext(user, secret)
    kind = password_encryption if secret is None else "md5" if scram.is_md5(secret) else "scram-sha-256"
    if method == "md5" and kind != "scram-sha-256":
        return _ask_md5(user, secret)
    return _ask_scram(user, secret, mock_nonce)


def _ask_cleartext(user: str, secret: str | None) -> Dialogue:
    password = _password_of((yield authentication(CLEARTEXT)))
    verifier = scram.parse_verifier(secret)
    if verifier is not None:
        fits = yield Work(lambda: scram.password_fits(password, verifier))
    elif secret is not None and scram.is_md5(secret):
        fits = hmac.compare_digest(scram.md5_secret(password, encode(user)), secret)
    else:
        fits = False
    if not fits:
        raise failure(user)
    return Credential.of_password(password)


def _ask_md5(user: str, secret: str | None) -> Dialogue:
    salt = secrets.token_bytes(4)
    answer = _password_of((yield authentication(MD5, salt)))
    if secret is None or not hmac.compare_digest(answer, scram.md5_answer(secret, salt)):
        raise failure(user)
    return Credential.of_md5(secret)


def _password_of(raw: bytes) -> bytes:
    if raw[:1] != b"p":
        raise ProtocolViolation(f"expected password response, got message type {raw[0]}")
    if len(raw) - 5 > MAX_PASSWORD_BYTES:
        raise ProtocolViolation("invalid message length")
    body = raw[5:]
    if not body or body.find(b"\0") + 1 != len(body):
        raise ProtocolViolation("invalid password packet size")
    if len(body) == 1:
        raise AuthenticationFailed("empty password returned by client")
    return body[:-1]


def _ask_scram(user: str, secret: str | None, mock_nonce: bytes) -> Dialogue:
    initial = yield authentication(SASL, scram.MECHANISM + b"\0\0")
    client_first = _sasl_initial(initial, user)
    if client_first is None:
        client_first = _sasl_body((yield authentication(SASL_CONTINUE)), user)
    flag, bare, client_nonce = _read_client_first(client_first)
    verifier = scram.parse_verifier(secret)
    doomed = verifier is None
    if verifier is None:
        verifier = scram.mock_verifier(encode(user), mock_nonce)
    nonce = client_nonce + scram.encode64(secrets.token_bytes(scram.NONCE_BYTES))
    server_first = b"r=%b,s=%b,i=%d" % (nonce, scram.encode64(verifier.salt), verifier.iterations)
    client_final = _sasl_body((yield authentication(SASL_CONTINUE, server_first)), user)
    without_proof, proof = _read_client_final(client_final, flag, nonce)
    auth_message = b",".join([bare, server_first, without_proof])
    keys = scram.keys_of_proof(verifier, auth_message, proof)
    if keys is None or doomed:
        raise failure(user)
    signature = scram.server_signature(keys.server_key, auth_message)
    yield Say(authentication(SASL_FINAL, b"v=" + scram.encode64(signature)))
    return Credential.of_keys(keys)


def _sasl_initial(raw: bytes, user: str) -> bytes | None:
    """The client-first-message of a SASLInitialResponse; None when it came without one."""
    body = _sasl_message(raw, user)
    mechanism, end, rest = body.partition(b"\0")
    if not end:
        raise ProtocolViolation("invalid string in message")
    if mechanism != scram.MECHANISM:
        raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
    if len(rest) < 4:
        raise ProtocolViolation("insufficient data left in message")
    length = _int32.unpack_from(rest)[0]
    if length == -1 and len(rest) == 4:
        return None
    if length < 0 or length > len(rest) - 4:
        raise ProtocolViolation("insufficient data left in message")
    if length < len(rest) - 4:
        raise ProtocolViolation("invalid message format")
    return _sasl_text(rest[4:])


def _sasl_body(raw: bytes, user: str) -> bytes:
    return _sasl_text(_sasl_message(raw, user))


def _sasl_message(raw: bytes, user: str) -> bytes:
    if raw[:1] != b"p":
        raise ProtocolViolation(f"expected SASL response, got message type {raw[0]}")
    if len(raw) - 5 > MAX_SASL_BYTES:
        raise failure(user)
    return raw[5:]


def _sasl_text(text: bytes) -> bytes:
    if not text:
        raise malformed("The message is empty.")
    if 0 in text:
        raise malformed("Message length does not match input length.")
    return text


def malformed(detail: str) -> ProtocolViolation:
    return ProtocolViolation("malformed SCRAM message", detail=detail)


def _shown(text: bytes) -> str:
    """The first character as PostgreSQL shows it in these errors."""
    byte = text[0] if text else 0
    return f"'{chr(byte)}'" if 0x21 <= byte <= 0x7E else f"0x{byte:02x}"


def _attribute(text: bytes, name: bytes) -> tuple[bytes, bytes]:
    """Read `name=value` from the front: (value, rest)."""
    if text[:1] != name:
        raise malformed(f'Expected attribute "{name.decode()}" but found "{_shown(text)}".')
    return _any_attribute(text)[1:]


def _any_attribute(text: bytes) -> tuple[bytes, bytes, bytes]:
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


def _read_client_first(text: bytes) -> tuple[bytes, bytes, bytes]:
    """(channel-binding flag, client-first-message-bare, client nonce)"""
    flag = text[:1]
    if flag == b"p":
        raise malformed(
            "The client selected SCRAM-SHA-256 without channel binding, "
            "but the SCRAM message includes channel binding data."
        )
    if flag not in (b"n", b"y"):
        raise malformed(f'Unexpected channel-binding flag "{_shown(text)}".')
    if text[1:2] != b",":
        raise malformed(f'Comma expected, but found character "{_shown(text[1:])}".')
    if text[2:3] == b"a":
        raise _Unsupported("client uses authorization identity, but it is not supported")
    if text[2:3] != b",":
        raise malformed(f'Unexpected attribute "{_shown(text[2:])}" in client-first-message.')
    bare = text[3:]
    if bare[:1] == b"m":
        raise _Unsupported("client requires an unsupported SCRAM extension")
    _, rest = _attribute(bare, b"n")
    nonce, rest = _attribute(rest, b"r")
    if any(not 0x21 <= byte <= 0x7E for byte in nonce):
        raise ProtocolViolation("non-printable characters in SCRAM nonce")
    while rest:
        rest = _any_attribute(rest)[2]
    return flag, bare, nonce


class _Unsupported(PoolError, sqlstate="0A000", severity="FATAL"):
    """A part of SCRAM that PostgreSQL does not have either."""


def _read_client_final(text: bytes, flag: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """(client-final-message-without-proof, proof); the nonce and the channel-binding flag are checked."""
    binding, rest = _attribute(text, b"c")
    if (flag, binding) not in ((b"n", b"biws"), (b"y", b"eSws")):
        raise ProtocolViolation("unexpected SCRAM channel-binding attribute in client-final-message")
    final_nonce, rest = _attribute(rest, b"r")
    while True:
        start = len(text) - len(rest) - 1
        name, value, rest = _any_attribute(rest)
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


# --- the pool as a client -------------------------------------------------------------------------------------------


def respond(user: str, credential: Credential | None) -> Dialogue:
    """Log in to a server: is sent its 'R' messages one by one, and yields what answers each.

    Yields None first (to be primed) and whenever there is nothing to answer; else a whole 'p' message, or Work.
    Ends with AuthenticationOk.
    raises   CredentialUnfit when the credential cannot answer, or when the server's signature is wrong
    """
    raw = yield None
    while True:
        code = code_of(raw)
        if code == OK:
            return
        if code == CLEARTEXT:
            raw = yield _password(_cleartext(user, credential))
        elif code == MD5:
            raw = yield _password(scram.md5_answer(_md5_hash(user, credential), raw[9:13]))
        elif code == SASL:
            raw = yield from _respond_scram(user, credential, raw)
        else:
            raise unfit(user, "an authentication method that needs more than a password")


def unfit(user: str, wanted: str) -> CredentialUnfit:
    return CredentialUnfit(
        f'the pool cannot log in to the server as user "{user}"',
        detail=f"The server asks for {wanted}, and what the pool has of this role cannot answer that.",
        hint="Give the password in conn_params, or let pg_hba.conf ask the pool and its clients for the same method.",
    )


def _password(text: bytes) -> bytes:
    return message(b"p", text + b"\0")


def _cleartext(user: str, credential: Credential | None) -> bytes:
    if credential is None or credential.password is None:
        raise unfit(user, "the password in clear text")
    return credential.password


def _md5_hash(user: str, credential: Credential | None) -> str:
    if credential is not None and credential.md5 is not None:
        return credential.md5
    if credential is not None and credential.password is not None:
        return scram.md5_secret(credential.password, encode(user))
    raise unfit(user, "an MD5 answer")


def _respond_scram(user: str, credential: Credential | None, raw: bytes) -> Dialogue:
    if scram.MECHANISM not in raw[9:].split(b"\0"):
        raise unfit(user, "a SASL mechanism other than SCRAM-SHA-256")
    if credential is None or (credential.password is None and credential.keys is None):
        raise unfit(user, "a SCRAM proof")
    client_nonce = scram.encode64(secrets.token_bytes(scram.NONCE_BYTES))
    bare = b"n=,r=" + client_nonce
    first = b"n,," + bare
    raw = yield message(b"p", scram.MECHANISM + b"\0" + _int32.pack(len(first)) + first)
    server_first = raw[9:]
    nonce, salt, iterations = _read_server_first(raw, client_nonce)
    keys = credential.keys
    if credential.password is not None:
        password = credential.password
        keys = yield Work(lambda: scram.keys_of_password(password, salt, iterations))
    elif keys is None or (keys.salt, keys.iterations) != (salt, iterations):
        raise unfit(user, "a proof of a password that was changed since")
    without_proof = b"c=biws,r=" + nonce
    auth_message = b",".join([bare, server_first, without_proof])
    raw = yield message(b"p", without_proof + b",p=" + scram.encode64(scram.proof(keys, auth_message)))
    expected = b"v=" + scram.encode64(scram.server_signature(keys.server_key, auth_message))
    if code_of(raw) != SASL_FINAL or not hmac.compare_digest(raw[9:].partition(b",")[0], expected):
        raise CredentialUnfit("the server could not prove that it knows the role's secret")
    return (yield None)


def _read_server_first(raw: bytes, client_nonce: bytes) -> tuple[bytes, bytes, int]:
    """(whole nonce, salt, rounds) of an AuthenticationSASLContinue"""
    try:
        if code_of(raw) != SASL_CONTINUE:
            raise malformed("Expected the server's first message.")
        nonce, rest = _attribute(raw[9:], b"r")
        encoded, rest = _attribute(rest, b"s")
        rounds, rest = _attribute(rest, b"i")
        salt = scram.decode64(encoded)
        if not nonce.startswith(client_nonce) or nonce == client_nonce or not rounds.isdigit() or not salt:
            raise malformed("Nonce, salt or rounds are not what they should be.")
        return nonce, salt, int(rounds)
    except (ProtocolViolation, ValueError):
        raise CredentialUnfit("malformed SCRAM message from the server") from None
