"""What certificates say, as PostgreSQL reads them."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from lib.auth.certificate import Names, binding, fits_host, names
from tests.certificates import Authority


def subject(*rdns: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {"subject": rdns}


def cn(name: str) -> tuple[tuple[str, str], ...]:
    return (("commonName", name),)


@pytest.mark.parametrize(
    ("rdns", "expected"),
    [
        ((cn("alice"),), Names("alice", "CN=alice")),
        (
            ((("countryName", "DE"),), (("organizationName", "Some, people"),), cn("alice")),
            Names("alice", r"CN=alice,O=Some\, people,C=DE"),
        ),
        ((cn("first"), cn("second")), Names("first", "CN=second,CN=first")),
        (((("commonName", "bob"), ("userId", "b")),), Names("bob", "UID=b+CN=bob")),
        ((cn('#a"b\\c<d>;+ '),), Names('#a"b\\c<d>;+ ', r'CN=\#a\"b\\c\<d\>\;\+\ ')),
        ((cn(" ä\n"),), Names(" ä\n", r"CN=\ \C3\A4\0A")),
        (((("domainComponent", "org"),),), Names(None, "DC=org")),
        (((("1.2.3.4", "x"),), cn("alice")), Names("alice", None)),
        ((cn("alice\0.example.org"),), Names(None, None)),
        ((), Names(None, None)),
    ],
)
def test_names_are_written_as_the_server_writes_them(rdns, expected):
    assert names(subject(*rdns)) == expected


DNS, IP = "DNS", "IP Address"


@pytest.mark.parametrize(
    ("common", "others", "host", "fits"),
    [
        ("db.example.org", (), "db.example.org", True),
        ("db.example.org", (), "DB.example.ORG", True),
        ("db.example.org", ((DNS, "other"),), "db.example.org", False),
        ("x", ((DNS, "one"), (DNS, "db.example.org")), "db.example.org", True),
        ("x", ((DNS, "*.example.org"),), "db.example.org", True),
        ("x", ((DNS, "*.example.org"),), "a.db.example.org", False),
        ("x", ((DNS, "*.example.org"),), "example.org", False),
        ("x", ((DNS, "*.example.org"),), ".example.org", False),
        ("x", ((DNS, "d*.example.org"),), "db.example.org", False),
        ("x", ((DNS, "*"),), "db", False),
        ("x", ((DNS, "*."),), "db.", False),
        ("db.example.org", ((IP, "10.0.0.1"),), "db.example.org", True),
        ("x", ((IP, "10.0.0.1"),), "10.0.0.1", True),
        ("x", ((IP, "10.0.0.1"),), "10.0.0.2", False),
        ("10.0.0.1", ((IP, "10.0.0.2"),), "10.0.0.1", False),
        ("10.0.0.1", ((DNS, "elsewhere"),), "10.0.0.1", True),
        ("10.0.0.1", (), "10.0.0.1", True),
        ("x", ((DNS, "10.0.0.1"),), "10.0.0.1", True),
        ("x", ((IP, "FD00:0:0:0:0:0:0:1"),), "fd00::1", True),
        ("x", ((IP, "FD00:0:0:0:0:0:0:1\n"),), "fd00::2", False),
        ("db\0.evil.org", (), "db", False),
    ],
)
def test_a_host_is_looked_for_as_libpq_does(common, others, host, fits):
    assert fits_host({**subject(cn(common)), "subjectAltName": others}, host) is fits


@pytest.mark.parametrize(
    ("kind", "function", "pss", "expected"),
    [
        ("ec", None, False, "sha256"), ("ec", hashes.SHA384(), False, "sha384"),
        ("ec", hashes.SHA224(), False, "sha224"),
        ("rsa", None, False, "sha256"), ("rsa", hashes.SHA512(), False, "sha512"),
        ("rsa", hashes.SHA384(), True, "sha384"),
        ("rsa", hashes.SHA256(), True, "sha256"), ("ed25519", None, False, None),
    ],
)  # fmt: skip
def test_what_scram_is_bound_to_is_hashed_as_the_certificate_was_signed(tmp_path, kind, function, pss, expected):
    pair = Authority(tmp_path, kind=kind).issue(hash_with=function, pss=pss)
    der = ssl.PEM_cert_to_DER_cert(pair.cert.read_text())
    assert binding(der) == (hashlib.new(expected, der).digest() if expected else None)
    for end in range(0, 300, 7):
        assert binding(der[:end]) is None
