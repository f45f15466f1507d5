"""What is kept of a role after its login, so that further workers can be started for it: as little as that takes.

Pure. A Credential holds one of: the password in clear text (only when the server asked for that), the MD5 secret of
pg_authid, or SCRAM's client key. Nothing here shows any of it, be it in a repr, a str or an exception.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lib.auth import scram
from lib.wire.messages import encode


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Credential:
    """Exactly one of the three is there.

    password   clear text, in the bytes that the frontend sent
    md5        rolpassword as pg_authid has it: 'md5' and 32 digits
    keys       SCRAM-SHA-256
    """

    password: bytes | None = None
    md5: str | None = None
    keys: scram.Keys | None = None

    @classmethod
    def of_password(cls, password: str | bytes) -> Credential:
        return cls(password=encode(password) if isinstance(password, str) else password)

    @classmethod
    def of_md5(cls, secret: str) -> Credential:
        return cls(md5=secret)

    @classmethod
    def of_keys(cls, keys: scram.Keys) -> Credential:
        return cls(keys=keys)

    @property
    def kind(self) -> str:
        return "password" if self.password is not None else "md5" if self.md5 is not None else "scram-sha-256"

    def __repr__(self) -> str:
        return f"<Credential {self.kind} ***>"

    def still_fits(self, secret: str) -> bool:
        """Whether rolpassword is still the one that this belongs to. Clear text is known to only by its Secrets."""
        if self.keys is not None:
            verifier = scram.parse_verifier(secret)
            return verifier is not None and self.keys.fits(verifier)
        return self.md5 is None or hmac.compare_digest(encode(self.md5), encode(secret))


def digest(secret: str | None) -> bytes:
    """Stands for a rolpassword without being one, to see that it changed."""
    return hashlib.sha256(encode(secret or "")).digest()


class _Learned(NamedTuple):
    """What a role has proved.

    belongs_to    digest of the rolpassword that it was checked against; None: of none
    fingerprint   of the role, as it was then
    """

    credential: Credential
    belongs_to: bytes | None
    fingerprint: str | None

    def __repr__(self) -> str:
        return f"<Learned {self.credential!r}>"


class Secrets:
    """What is known of each role, from its own last login, and from conn_params, which wins where an entry matches.

    conn_params   mappings of startup parameters, with a password; one without a database is for every database
    """

    def __init__(self, conn_params: Iterable[Mapping[str, str]] = ()) -> None:
        self.configure(conn_params)
        self._learned: dict[str, _Learned] = {}

    def __repr__(self) -> str:
        return f"<Secrets of {len(self._learned)} roles, {len(self._configured)} configured>"

    def configure(self, conn_params: Iterable[Mapping[str, str]]) -> None:
        """These are the conn_params from now on."""
        self._configured = [dict(entry) for entry in conn_params if entry.get("password")]

    def remember(
        self, user: str, credential: Credential | None, secret: str | None, fingerprint: str | None = None
    ) -> None:
        """After a login: what the frontend proved, the rolpassword it was checked against (None: not by one), and the
        role's fingerprint before that (`Access.fingerprint`)."""
        if credential is None:
            return
        known = self._learned.get(user)
        belongs_to = digest(secret) if secret is not None else None
        # Clear text answers every question, so for the same secret it is not given up for less.
        if known and known.belongs_to == belongs_to and known.credential.kind == "password" != credential.kind:
            credential = known.credential
        self._learned[user] = _Learned(credential, belongs_to, fingerprint)

    def keep(self, user: str, fingerprint: str | None) -> None:
        """The role is this one now (None: it is gone): what one proved that was another is dropped, and what was proved
        since is not."""
        known = self._learned.get(user)
        if known is not None and known.fingerprint != fingerprint:
            self.forget(user)

    def forget(self, user: str) -> None:
        self._learned.pop(user, None)

    def of(self, user: str, database: str, secret: str | None = None) -> Credential | None:
        """What a worker for this user and database logs in with, or None.

        secret   the role's rolpassword of now, if it is known: what does not fit it any more is dropped
        """
        for entry in self._configured:
            if entry.get("user") == user and entry.get("database", entry.get("dbname", database)) == database:
                return Credential.of_password(entry["password"])
        known = self._learned.get(user)
        if known is None:
            return None
        credential, belongs_to = known.credential, known.belongs_to
        if secret is not None and (belongs_to not in (None, digest(secret)) or not credential.still_fits(secret)):
            self.forget(user)
            return None
        return credential
