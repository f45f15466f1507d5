"""SCRAM-SHA-256 without its messages' journey: verifiers, proofs and signatures, for both ends of the dialogue.

Pure. Everything is bytes, for PostgreSQL takes passwords as bytes in whatever encoding. PBKDF2 is the only thing here
that takes time (about 1 ms for 4,096 rounds); all that needs it is in salted_password() and what says so.

source: RFC 5802, RFC 7677, sasl-authentication.html#SASL-SCRAM-SHA-256, catalog-pg-authid.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import stringprep
import unicodedata
from typing import NamedTuple

MECHANISM = b"SCRAM-SHA-256"
MECHANISM_PLUS = b"SCRAM-SHA-256-PLUS"
DEFAULT_ITERATIONS = 4096
SALT_BYTES = 16
NONCE_BYTES = 18
KEY_BYTES = 32

_VERIFIER = re.compile(r"SCRAM-SHA-256\$([0-9]{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
_MD5 = re.compile(r"md5[0-9a-f]{32}")


class Verifier(NamedTuple):
    """A role's secret as pg_authid keeps it. Shows nothing."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        return "<Verifier ***>"


class Keys(NamedTuple):
    """What a client needs instead of the password, and the salt and rounds for which it holds. Shows nothing."""

    client_key: bytes
    server_key: bytes
    salt: bytes
    iterations: int

    def __repr__(self) -> str:
        return "<Keys ***>"

    def fits(self, verifier: Verifier) -> bool:
        """Whether the role's secret is still the one that these keys belong to."""
        return hmac.compare_digest(_hash(self.client_key), verifier.stored_key) and hmac.compare_digest(
            self.server_key, verifier.server_key
        )


def parse_verifier(secret: str | None) -> Verifier | None:
    """Read `SCRAM-SHA-256$rounds:salt$StoredKey:ServerKey`; None when the secret is something else."""
    match = _VERIFIER.fullmatch(secret or "")
    if not match:
        return None
    try:
        salt, stored_key, server_key = (decode64(text.encode()) for text in match.groups()[1:])
    except ValueError:
        return None
    if len(stored_key) != KEY_BYTES or len(server_key) != KEY_BYTES or int(match[1]) < 1:
        return None
    return Verifier(int(match[1]), salt, stored_key, server_key)


def is_md5(secret: str | None) -> bool:
    return bool(secret and _MD5.fullmatch(secret))


def encode64(raw: bytes) -> bytes:
    return base64.b64encode(raw)


def decode64(text: bytes) -> bytes:
    """Raises ValueError for anything but whole, padded base64, and never shows it."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None


def saslprep(password: bytes) -> bytes:
    """The password as PostgreSQL prepares it: when it is not UTF-8 or has prohibited characters, it stays as it is.

    source   RFC 4013; as pg_saslprep(), which takes ASCII as it is and looks for prohibited characters before NFKC
    """
    try:
        text = password.decode()
    except UnicodeDecodeError:
        return password
    if text.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char) or
        stringprep.in_table_c12(char)
    )  # fmt: skip
    if not mapped or any(_is_prohibited(char) for char in mapped) or not _is_bidi_clean(mapped):
        return password
    return unicodedata.normalize("NFKC", mapped).encode()


def _is_prohibited(char: str) -> bool:
    return (
        stringprep.in_table_a1(char)
        or stringprep.in_table_c12(char)
        or stringprep.in_table_c21_c22(char)
        or stringprep.in_table_c3(char)
        or stringprep.in_table_c4(char)
        or stringprep.in_table_c5(char)
        or stringprep.in_table_c6(char)
        or stringprep.in_table_c7(char)
        or stringprep.in_table_c8(char)
        or stringprep.in_table_c9(char)
    )


def _is_bidi_clean(text: str) -> bool:
    right_to_left = [stringprep.in_table_d1(char) for char in text]
    if not any(right_to_left):
        return True
    return right_to_left[0] and right_to_left[-1] and not any(stringprep.in_table_d2(char) for char in text)


def salted_password(password: bytes, salt: bytes, iterations: int) -> bytes:
    """Takes about 1 ms per 4,096 rounds."""
    return hashlib.pbkdf2_hmac("sha256", saslprep(password), salt, iterations)


def keys_of_password(password: bytes, salt: bytes, iterations: int) -> Keys:
    """Takes the time of salted_password()."""
    salted = salted_password(password, salt, iterations)
    return Keys(_hmac(salted, b"Client Key"), _hmac(salted, b"Server Key"), salt, iterations)


def verifier_of(keys: Keys) -> Verifier:
    return Verifier(keys.iterations, keys.salt, _hash(keys.client_key), keys.server_key)


def password_fits(password: bytes, verifier: Verifier) -> bool:
    """Takes the time of salted_password()."""
    keys = keys_of_password(password, verifier.salt, verifier.iterations)
    return hmac.compare_digest(keys.server_key, verifier.server_key)


def proof(keys: Keys, auth_message: bytes) -> bytes:
    """ClientProof, raw."""
    return _xor(keys.client_key, _hmac(_hash(keys.client_key), auth_message))


def keys_of_proof(verifier: Verifier, auth_message: bytes, client_proof: bytes) -> Keys | None:
    """The client's keys, recovered from its proof with the StoredKey; None when the proof is wrong."""
    if len(client_proof) != KEY_BYTES:
        return None
    client_key = _xor(client_proof, _hmac(verifier.stored_key, auth_message))
    if not hmac.compare_digest(_hash(client_key), verifier.stored_key):
        return None
    return Keys(client_key, verifier.server_key, verifier.salt, verifier.iterations)


def server_signature(server_key: bytes, auth_message: bytes) -> bytes:
    return _hmac(server_key, auth_message)


def mock_verifier(user: bytes, nonce: bytes) -> Verifier:
    """What an unknown role is asked with: the same salt each time, and keys that nothing fits."""
    salt = hashlib.sha256(user + nonce).digest()[:SALT_BYTES]
    return Verifier(DEFAULT_ITERATIONS, salt, bytes(KEY_BYTES), bytes(KEY_BYTES))


def md5_secret(password: bytes, user: bytes) -> str:
    """The secret of pg_authid for password_encryption = md5: 'md5' and 32 digits."""
    return "md5" + hashlib.md5(password + user, usedforsecurity=False).hexdigest()


def md5_answer(secret: str, salt: bytes) -> bytes:
    """What answers AuthenticationMD5Password, from the secret of pg_authid."""
    return b"md5" + hashlib.md5(secret[3:].encode() + salt, usedforsecurity=False).hexdigest().encode()


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
