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
from lib.auth.scramtext import BINDING, attribute, malformed, read_client_final, read_client_first, text_of
from lib.errors import AuthenticationFailed, CredentialUnfit, ProtocolViolation
from lib.wire.messages import encode, message

OK, CLEARTEXT, MD5, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 5, 10, 11, 12
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
    method: str, user: str, secret: str | None, mock_nonce: bytes, password_encryption: str = "scram-sha-256",
    binding: bytes | None = None,
) -> Dialogue:  # fmt: skip
    """Authenticate a frontend as PostgreSQL would, with a rule of this method.

    method                password, md5 or scram-sha-256
    secret                rolpassword, or None for an unknown role, one without password and one that has expired
    mock_nonce            a secret of the cluster, from which unknown roles get their salt
    password_encryption   the server's setting: what an unknown role is asked for under an md5 rule
    binding               what SCRAM-SHA-256-PLUS is bound to, on TLS
    returns               Credential
    raises                AuthenticationFailed (28P01), ProtocolViolation (08P01)
    """
    if method == "password":
        return _ask_cleartext(user, secret)
    kind = password_encryption if secret is None else "md5" if scram.is_md5(secret) else "scram-sha-256"
    if method == "md5" and kind != "scram-sha-256":
        return _ask_md5(user, secret)
    return _ask_scram(user, secret, mock_nonce, binding)


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


def _ask_scram(user: str, secret: str | None, mock_nonce: bytes, binding: bytes | None) -> Dialogue:
    offered = [scram.MECHANISM] if binding is None else [scram.MECHANISM_PLUS, scram.MECHANISM]
    initial = yield authentication(SASL, b"".join(each + b"\0" for each in offered) + b"\0")
    mechanism, client_first = _sasl_initial(initial, user, offered)
    if client_first is None:
        client_first = _sasl_body((yield authentication(SASL_CONTINUE)), user)
    is_bound = mechanism == scram.MECHANISM_PLUS
    header, bare, client_nonce = read_client_first(client_first, is_bound=is_bound, could_bind=binding is not None)
    verifier = scram.parse_verifier(secret)
    doomed = verifier is None
    if verifier is None:
        verifier = scram.mock_verifier(encode(user), mock_nonce)
    nonce = client_nonce + scram.encode64(secrets.token_bytes(scram.NONCE_BYTES))
    server_first = b"r=%b,s=%b,i=%d" % (nonce, scram.encode64(verifier.salt), verifier.iterations)
    client_final = _sasl_body((yield authentication(SASL_CONTINUE, server_first)), user)
    without_proof, proof = read_client_final(client_final, header, binding or b"" if is_bound else b"", nonce)
    auth_message = b",".join([bare, server_first, without_proof])
    keys = scram.keys_of_proof(verifier, auth_message, proof)
    if keys is None or doomed:
        raise failure(user)
    signature = scram.server_signature(keys.server_key, auth_message)
    yield Say(authentication(SASL_FINAL, b"v=" + scram.encode64(signature)))
    return Credential.of_keys(keys)


def _sasl_initial(raw: bytes, user: str, offered: list[bytes]) -> tuple[bytes, bytes | None]:
    """Mechanism and client-first-message of a SASLInitialResponse; None when it came without one."""
    body = _sasl_message(raw, user)
    mechanism, end, rest = body.partition(b"\0")
    if not end:
        raise ProtocolViolation("invalid string in message")
    if mechanism not in offered:
        raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
    if len(rest) < 4:
        raise ProtocolViolation("insufficient data left in message")
    length = _int32.unpack_from(rest)[0]
    if length == -1 and len(rest) == 4:
        return mechanism, None
    if length < 0 or length > len(rest) - 4:
        raise ProtocolViolation("insufficient data left in message")
    if length < len(rest) - 4:
        raise ProtocolViolation("invalid message format")
    return mechanism, text_of(rest[4:])


def _sasl_body(raw: bytes, user: str) -> bytes:
    return text_of(_sasl_message(raw, user))


def _sasl_message(raw: bytes, user: str) -> bytes:
    if raw[:1] != b"p":
        raise ProtocolViolation(f"expected SASL response, got message type {raw[0]}")
    if len(raw) - 5 > MAX_SASL_BYTES:
        raise failure(user)
    return raw[5:]


# --- the pool as a client -------------------------------------------------------------------------------------------


def respond(user: str, credential: Credential | None) -> Dialogue:
    """Log in to a server: is sent its 'R' messages one by one, and yields what answers each.

    What comes by TLS that SCRAM can be bound to is a pair of such a message and of that.
    Yields None first (to be primed) and whenever there is nothing to answer; else a whole 'p' message, or Work.
    Ends with AuthenticationOk.
    raises   CredentialUnfit when the credential cannot answer, or when the server's signature is wrong
    """
    given = yield None
    while True:
        raw, binding = given if isinstance(given, tuple) else (given, None)
        code = code_of(raw)
        if code == OK:
            return
        if code == CLEARTEXT:
            given = yield _password(_cleartext(user, credential))
        elif code == MD5:
            given = yield _password(scram.md5_answer(_md5_hash(user, credential), raw[9:13]))
        elif code == SASL:
            given = yield from _respond_scram(user, credential, raw, binding)
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


def _respond_scram(user: str, credential: Credential | None, raw: bytes, binding: bytes | None) -> Dialogue:
    offered = raw[9:].split(b"\0")
    is_bound = binding is not None and scram.MECHANISM_PLUS in offered
    mechanism = scram.MECHANISM_PLUS if is_bound else scram.MECHANISM
    if mechanism not in offered:
        raise unfit(user, "a SASL mechanism other than SCRAM-SHA-256")
    if credential is None or (credential.password is None and credential.keys is None):
        raise unfit(user, "a SCRAM proof")
    client_nonce = scram.encode64(secrets.token_bytes(scram.NONCE_BYTES))
    bare = b"n=,r=" + client_nonce
    header = b"p=" + BINDING + b",," if is_bound else b"n,," if binding is None else b"y,,"
    first = header + bare
    raw = _alone((yield message(b"p", mechanism + b"\0" + _int32.pack(len(first)) + first)))
    server_first = raw[9:]
    nonce, salt, iterations = _read_server_first(raw, client_nonce)
    keys = credential.keys
    if credential.password is not None:
        password = credential.password
        keys = yield Work(lambda: scram.keys_of_password(password, salt, iterations))
    elif keys is None or (keys.salt, keys.iterations) != (salt, iterations):
        raise unfit(user, "a proof of a password that was changed since")
    bound = header + binding if is_bound and binding is not None else header
    without_proof = b"c=" + scram.encode64(bound) + b",r=" + nonce
    auth_message = b",".join([bare, server_first, without_proof])
    raw = _alone((yield message(b"p", without_proof + b",p=" + scram.encode64(scram.proof(keys, auth_message)))))
    expected = b"v=" + scram.encode64(scram.server_signature(keys.server_key, auth_message))
    if code_of(raw) != SASL_FINAL or not hmac.compare_digest(raw[9:].partition(b",")[0], expected):
        raise CredentialUnfit("the server could not prove that it knows the role's secret")
    return (yield None)


def _alone(given: bytes | tuple[bytes, bytes]) -> bytes:
    return given[0] if isinstance(given, tuple) else given


def _read_server_first(raw: bytes, client_nonce: bytes) -> tuple[bytes, bytes, int]:
    """(whole nonce, salt, rounds) of an AuthenticationSASLContinue"""
    try:
        if code_of(raw) != SASL_CONTINUE:
            raise malformed("Expected the server's first message.")
        nonce, rest = attribute(raw[9:], b"r")
        encoded, rest = attribute(rest, b"s")
        rounds, rest = attribute(rest, b"i")
        salt = scram.decode64(encoded)
        if not nonce.startswith(client_nonce) or nonce == client_nonce or not rounds.isdigit() or not salt:
            raise malformed("Nonce, salt or rounds are not what they should be.")
        return nonce, salt, int(rounds)
    except (ProtocolViolation, ValueError):
        raise CredentialUnfit("malformed SCRAM message from the server") from None
