"""What a certificate says: whose it is, which host it is for, and what SCRAM is bound to when it was shown.

Pure. Certificates come as `ssl.SSLObject.getpeercert()` gives them, verified already, or as DER. Where PostgreSQL and
the usual rules of the web differ, this is PostgreSQL: names are compared as libpq compares them, a distinguished name
is written as the server writes it. What cannot be written so for certain is None, which fits nothing.

source: auth-cert.html, libpq-ssl.html#LIBQ-SSL-CERTIFICATES, RFC 2253, RFC 5929 section 4
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from typing import Any, NamedTuple

# OpenSSL's short names of the attributes that distinguished names are made of, by its long ones.
_SHORT = {
    "commonName": "CN", "surname": "SN", "serialNumber": "serialNumber", "countryName": "C", "localityName": "L",
    "stateOrProvinceName": "ST", "streetAddress": "street", "organizationName": "O", "organizationalUnitName": "OU",
    "title": "title", "description": "description", "businessCategory": "businessCategory",
    "postalCode": "postalCode", "telephoneNumber": "telephoneNumber", "name": "name", "givenName": "GN",
    "initials": "initials", "generationQualifier": "generationQualifier", "dnQualifier": "dnQualifier",
    "pseudonym": "pseudonym", "organizationIdentifier": "organizationIdentifier", "role": "role",
    "userId": "UID", "domainComponent": "DC", "emailAddress": "emailAddress",
    "unstructuredName": "unstructuredName", "unstructuredAddress": "unstructuredAddress",
}  # fmt: skip
_ESCAPED = ',+"\\<>;'

# The hash function of each signature algorithm; what is weaker than SHA-256 is bound by SHA-256.
_HASHES = {
    "1.2.840.113549.1.1.4": "sha256", "1.2.840.113549.1.1.5": "sha256", "1.2.840.113549.1.1.14": "sha224",
    "1.2.840.113549.1.1.11": "sha256", "1.2.840.113549.1.1.12": "sha384", "1.2.840.113549.1.1.13": "sha512",
    "1.2.840.10045.4.1": "sha256", "1.2.840.10045.4.3.1": "sha224", "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384", "1.2.840.10045.4.3.4": "sha512",
}  # fmt: skip
_PSS = "1.2.840.113549.1.1.10"
_PSS_HASHES = {
    "1.3.14.3.2.26": "sha256", "2.16.840.1.101.3.4.2.4": "sha224", "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512",
}  # fmt: skip
_SEQUENCE, _OID, _FIRST_IN_CONTEXT = 0x30, 0x06, 0xA0


class Names(NamedTuple):
    """Whose a client certificate is.

    common_name          its first CN; None when there is none
    distinguished_name   its whole subject, as RFC 2253 writes it; None when it holds what cannot be written for certain
    """

    common_name: str | None
    distinguished_name: str | None


def names(certificate: Mapping[str, Any]) -> Names:
    """From a verified certificate as getpeercert() gives it."""
    subject = certificate.get("subject", ())
    common = next((value for rdn in subject for name, value in rdn if name == "commonName"), None)
    if common is not None and "\0" in common:  # who reads it in C would take it for a shorter one
        return Names(None, None)
    return Names(common or None, _distinguished(subject))


def _distinguished(subject: tuple[tuple[tuple[str, str], ...], ...]) -> str | None:
    parts = []
    for rdn in reversed(subject):
        if any(name not in _SHORT or "\0" in value for name, value in rdn):
            return None
        parts.append("+".join(f"{_SHORT[name]}={_escaped(value)}" for name, value in reversed(rdn)))
    return ",".join(parts) or None


def _escaped(value: str) -> str:
    shown = []
    for index, char in enumerate(value):
        is_edge = (char in " #" and index == 0) or (char == " " and index == len(value) - 1)
        if char in _ESCAPED or is_edge:
            shown.append("\\" + char)
        elif char < " " or char >= "\x7f":
            shown.append("".join(f"\\{byte:02X}" for byte in char.encode()))
        else:
            shown.append(char)
    return "".join(shown)


def fits_host(certificate: Mapping[str, Any], host: str) -> bool:
    """Whether a server may show this certificate under this name or address.

    source   pgtls_verify_peer_name_matches_certificate_guts()
    """
    others = certificate.get("subjectAltName", ())
    address = _address(host)
    if any(kind == "DNS" and _name_fits(name, host) for kind, name in others):
        return True
    if address is not None and any(kind == "IP Address" and _address(name) == address for kind, name in others):
        return True
    if any(kind == ("DNS" if address is None else "IP Address") for kind, _ in others):
        return False
    common = names(certificate).common_name
    return common is not None and _name_fits(common, host)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip())
    except ValueError:
        return None


def _name_fits(pattern: str, host: str) -> bool:
    pattern, host = pattern.lower(), host.lower()
    if pattern == host:
        return "\0" not in pattern
    if len(pattern) < 3 or not pattern.startswith("*.") or len(pattern) > len(host):
        return False
    label, dot, rest = host.partition(".")
    return bool(label and dot) and "." + rest == pattern[1:]


# --- channel binding -------------------------------------------------------------------------------------------------


def binding(der: bytes) -> bytes | None:
    """What `tls-server-end-point` binds to: the certificate's hash, by the function that it was signed with.

    returns  None when it was signed without one that the standard knows (Ed25519)
    """
    try:
        _, whole, _ = _element(der)
        _, _, rest = _element(whole)  # tbsCertificate
        _, algorithm, _ = _element(rest)
        tag, oid, parameters = _element(algorithm)
        function = _HASHES.get(_dotted(oid)) if tag == _OID else None
        if _dotted(oid) == _PSS:
            function = _pss_hash(parameters)
    except (IndexError, ValueError):
        return None
    return hashlib.new(function, der).digest() if function else None


def _pss_hash(parameters: bytes) -> str | None:
    tag, inner, _ = _element(parameters)
    if tag != _SEQUENCE:
        return None
    if not inner or inner[0] != _FIRST_IN_CONTEXT:
        return "sha256"  # the default is SHA-1
    _, hash_algorithm, _ = _element(_element(inner)[1])
    return _PSS_HASHES.get(_dotted(_element(hash_algorithm)[1]))


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """The first element of DER: (tag, content, what comes behind it)."""
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("cut")
    return tag, data[start : start + length], data[start + length :]


def _dotted(oid: bytes) -> str:
    first = min(oid[0] // 40, 2)
    numbers, number = [first, oid[0] - 40 * first], 0
    for byte in oid[1:]:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    return ".".join(map(str, numbers))
