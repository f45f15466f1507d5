"""Certificates for tests, made when they are needed: an authority, what it signs, and their files."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

_OIDS = {
    "CN": NameOID.COMMON_NAME, "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "C": NameOID.COUNTRY_NAME, "DC": NameOID.DOMAIN_COMPONENT, "emailAddress": NameOID.EMAIL_ADDRESS,
    "UID": NameOID.USER_ID, "ST": NameOID.STATE_OR_PROVINCE_NAME,
}  # fmt: skip


class Pair(NamedTuple):
    """A certificate and its key, in files that only their owner may read."""

    cert: Path
    key: Path

    @property
    def libpq(self) -> dict[str, str]:
        """To show it as a client."""
        return {"sslcert": str(self.cert), "sslkey": str(self.key)}


def new_key(kind: str = "ec") -> Any:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


class Authority:
    """Signs certificates, and has its own in the file `cert`.

    where   the directory for everything that it makes
    """

    def __init__(self, where: Path, name: str = "authority", kind: str = "ec") -> None:
        self.where = where
        self.name = name
        self._key = new_key(kind)
        self._count = 0
        self.cert = where / f"{name}.crt"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = self._sign(self._name, self._key, [], is_authority=True)
        self.cert.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, subject: str = "localhost", *, hosts: tuple[str, ...] = (), kind: str = "ec", expired: bool = False,
        hash_with: Any = None, pss: bool = False, name: str = "",
    ) -> Pair:  # fmt: skip
        """A certificate for a subject ('alice', or 'C=DE;O=Some people;CN=alice', '+' within one part of the name) and
        its subjectAltNames."""
        key = new_key(kind)
        words = subject if "=" in subject else f"CN={subject}"
        rdns = [
            x509.RelativeDistinguishedName(
                [x509.NameAttribute(_OIDS[word.partition("=")[0]], word.partition("=")[2]) for word in part.split("+")]
            )
            for part in words.split(";")
        ]
        made = self._sign(x509.Name(rdns), key, list(hosts), expired=expired, hash_with=hash_with, pss=pss)
        self._count += 1
        pair = Pair(*(self.where / f"{name or f'{self.name}-{self._count}'}.{end}" for end in ("crt", "key")))
        pair.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        pair.key.touch(0o600)
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def revokes(self, *pairs: Pair) -> bytes:
        """A list of revoked certificates (PEM) with these in it."""
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        made = x509.CertificateRevocationListBuilder().issuer_name(self._name).last_update(now - day)
        made = made.next_update(now + day)
        for pair in pairs:
            number = x509.load_pem_x509_certificate(pair.cert.read_bytes()).serial_number
            one = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now - day).build()
            made = made.add_revoked_certificate(one)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _sign(
        self, subject: x509.Name, key: Any, hosts: list[str], *, is_authority: bool = False, expired: bool = False,
        hash_with: Any = None, pss: bool = False,
    ) -> x509.Certificate:  # fmt: skip
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * day)
            .not_valid_after(now - day if expired else now + day)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        if hosts:
            names = [_general_name(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return builder.sign(self._key, None)
        function = hash_with or hashes.SHA256()
        how = {"rsa_padding": padding.PSS(padding.MGF1(function), function.digest_size)} if pss else {}
        return builder.sign(self._key, function, **how)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
