"""What a login teaches that the server itself conducts, with the pool passing the messages between both.

Pure. The messages go on as they are; here they are only watched, to know whether the server really asked and the
frontend really answered, and to distil what starts further workers for this role. A server that asks for something
other than the rule says is found out at its first message, before the frontend has seen anything of it.
"""

from __future__ import annotations

import hmac

from lib.auth import scram
from lib.auth.credential import Credential
from lib.auth.exchange import CLEARTEXT, MD5, OK, SASL, authentication, code_of

GSS, GSS_CONTINUE = 7, 8

# What a server may ask for first, by the method of its rule (auth-methods.html).
_ASKED_FIRST = {
    "password": (CLEARTEXT,),
    "ldap": (CLEARTEXT,),
    "pam": (CLEARTEXT,),
    "radius": (CLEARTEXT,),
    "bsd": (CLEARTEXT,),
    "md5": (MD5, SASL),
    "scram-sha-256": (SASL,),
    "oauth": (SASL,),
    "gss": (GSS,),
}


def without_binding(raw: bytes) -> bytes:
    """An AuthenticationSASL without what binds it to the server's TLS, which the frontend has no part in."""
    mechanisms = [each for each in raw[9:].split(b"\0") if each and not each.endswith(b"-PLUS")]
    return authentication(SASL, b"".join(each + b"\0" for each in mechanisms) + b"\0")


class Relay:
    """One relayed login under a rule of this method.

    secret       rolpassword, or None where the role's password is kept elsewhere
    has_counted  the server asked, the frontend answered, and the server said that it was right
    """

    def __init__(self, method: str, secret: str | None) -> None:
        self.method = method
        self.asked: int | None = None  # the server's first Authentication* code
        self.is_accepted = False
        self._secret = secret
        self._requests: list[bytes] = []
        self._answers: list[bytes] = []

    def __repr__(self) -> str:
        return f"<Relay {self.method} asked={self.asked} answers={len(self._answers)} accepted={self.is_accepted}>"

    def fits(self, raw: bytes) -> bool:
        """Whether this first message of the server is one that its rule would send; to be asked before from_server."""
        return code_of(raw) in _ASKED_FIRST.get(self.method, ())

    def from_server(self, raw: bytes) -> None:
        code = code_of(raw)
        if self.asked is None:
            self.asked = code
        if code == OK:
            self.is_accepted = True
        else:
            self._requests.append(raw[9:])

    def from_frontend(self, raw: bytes) -> None:
        self._answers.append(raw[5:])

    def is_last(self, code: int) -> bool:
        """Whether no answer comes to this: Kerberos ends with a token of the server's."""
        return code == GSS_CONTINUE

    @property
    def has_counted(self) -> bool:
        return self.is_accepted and self.asked != OK and bool(self._answers)

    def credential(self) -> Credential | None:
        """What the frontend has proved to the server; None when nothing in it starts another worker."""
        if not self.has_counted:
            return None
        if self.asked == CLEARTEXT:
            return Credential.of_password(self._answers[0][:-1])
        if self.asked == MD5:
            return self._of_md5()
        if self.asked == SASL:
            return self._of_scram()
        return None

    def _of_md5(self) -> Credential | None:
        if self._secret is None or not scram.is_md5(self._secret):
            return None
        expected = scram.md5_answer(self._secret, self._requests[0][:4])
        return Credential.of_md5(self._secret) if hmac.compare_digest(expected, self._answers[0][:-1]) else None

    def _of_scram(self) -> Credential | None:
        verifier = scram.parse_verifier(self._secret)
        if verifier is None or len(self._answers) < 2:
            return None
        mechanism, _, initial = self._answers[0].partition(b"\0")
        # An initial answer may come one message late (length -1); the server's first message is then the third.
        client_first = initial[4:] if len(initial) > 4 else self._answers[1]
        client_final, server_first = self._answers[-1], self._server_first()
        without_proof, _, proof = client_final.rpartition(b",p=")
        bare = client_first.split(b",", 2)[-1]
        if mechanism != scram.MECHANISM or server_first is None:
            return None
        try:
            keys = scram.keys_of_proof(verifier, b",".join([bare, server_first, without_proof]), scram.decode64(proof))
        except ValueError:
            return None
        return Credential.of_keys(keys) if keys else None

    def _server_first(self) -> bytes | None:
        return next((request for request in self._requests if request.startswith(b"r=")), None)
