"""SCRAM-SHA-256: the numbers of RFC 7677, PostgreSQL's verifiers, and the key that a proof gives away."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.auth import scram

# RFC 7677, section 3
SALT = scram.decode64(b"W22ZaJ0SNY7soEsUEjb6gQ==")
AUTH_MESSAGE = (
    b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
)
PROOF = b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SIGNATURE = b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def secret_of(password, salt=SALT, iterations=4096):
    """What PostgreSQL would write into pg_authid."""
    verifier = scram.verifier_of(scram.keys_of_password(password, salt, iterations))
    parts = [scram.encode64(part).decode() for part in (salt, verifier.stored_key, verifier.server_key)]
    return f"SCRAM-SHA-256${iterations}:{parts[0]}${parts[1]}:{parts[2]}"


def test_proof_and_signature_are_those_of_rfc_7677():
    keys = scram.keys_of_password(b"pencil", SALT, 4096)
    assert scram.encode64(scram.proof(keys, AUTH_MESSAGE)) == PROOF
    assert scram.encode64(scram.server_signature(keys.server_key, AUTH_MESSAGE)) == SIGNATURE


def test_the_client_key_comes_out_of_a_proof():
    keys = scram.keys_of_password(b"pencil", SALT, 4096)
    verifier = scram.verifier_of(keys)
    assert scram.keys_of_proof(verifier, AUTH_MESSAGE, scram.decode64(PROOF)) == keys


@given(st.binary(max_size=40))
def test_no_other_proof_is_taken(proof):
    verifier = scram.verifier_of(scram.keys_of_password(b"pencil", SALT, 1))
    assert scram.keys_of_proof(verifier, AUTH_MESSAGE, proof) is None


def test_keys_fit_their_own_verifier_only():
    keys = scram.keys_of_password(b"pencil", SALT, 1)
    assert keys.fits(scram.verifier_of(keys))
    assert not keys.fits(scram.verifier_of(scram.keys_of_password(b"pen", SALT, 1)))


@given(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20), st.integers(1, 5))
@settings(max_examples=50)
def test_a_verifier_is_read_as_it_is_written(password, salt, iterations):
    verifier = scram.parse_verifier(secret_of(password, salt, iterations))
    assert verifier is not None and (verifier.salt, verifier.iterations) == (salt, iterations)
    assert scram.password_fits(password, verifier)
    assert not scram.password_fits(password + b"x", verifier)


GOOD = secret_of(b"x", iterations=1)


@pytest.mark.parametrize(
    "secret",
    [None, "", "md5" + "0" * 32, "plain", GOOD + "x", GOOD[:-1], GOOD.replace("$1:", "$x:"), GOOD.replace("$1:", "$0:"),
     GOOD.replace("SHA-256", "SHA-512"), "SCRAM-SHA-256$1:QQ==$QQ==:QQ==", GOOD.replace(":", "$")],
)  # fmt: skip
def test_what_is_no_verifier_is_none(secret):
    assert scram.parse_verifier(secret) is None


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("plain \x01 ascii", "plain \x01 ascii"),
        ("I\u00adX", "IX"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u00aa", "a"),
        ("é", "é"),
        ("e\u0301", "é"),
        ("x\u0007é", "x\u0007é"),
        ("\u00ad", "\u00ad"),
        ("\u0627\u0031", "\u0627\u0031"),
        ("\u06271\u0628", "\u06271\u0628"),
        ("a\u0627", "a\u0627"),
        ("é\u0221", "é\u0221"),
        ("e\u0301\u0007", "e\u0301\u0007"),
    ],
)
def test_a_password_is_prepared_as_postgresql_prepares_it(password, prepared):
    assert scram.saslprep(password.encode()) == prepared.encode()


@given(st.binary())
def test_no_password_breaks_the_preparation(password):
    scram.saslprep(password)


def test_a_password_that_is_not_utf8_stays_as_it_is():
    assert scram.saslprep(b"caf\xe9") == b"caf\xe9"


def test_an_unknown_role_has_the_same_salt_each_time_and_another_one_in_another_cluster():
    first, again = scram.mock_verifier(b"bob", b"n1"), scram.mock_verifier(b"bob", b"n1")
    assert first == again and len(first.salt) == scram.SALT_BYTES and first.iterations == 4096
    assert first.salt != scram.mock_verifier(b"bob", b"n2").salt != scram.mock_verifier(b"eve", b"n2").salt


def test_md5_is_what_pg_authid_has():
    # select 'md5' || md5('secret' || 'bob')
    assert scram.md5_secret(b"secret", b"bob") == "md521f3163f8f86fa10bdefbfbd502a8f06"
    assert scram.is_md5(scram.md5_secret(b"secret", b"bob")) and not scram.is_md5("md5") and not scram.is_md5(None)


def test_nothing_secret_is_shown():
    keys = scram.keys_of_password(b"pencil", SALT, 1)
    assert repr(keys) == "<Keys ***>" and repr(scram.verifier_of(keys)) == "<Verifier ***>"
