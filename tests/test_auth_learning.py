"""What a login teaches, be it conducted by the server or by the pool, and how long that is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.auth.credential import Credential, Secrets
from lib.auth.exchange import CLEARTEXT, MD5, OK, SASL, SASL_CONTINUE, Say, Work, authentication
from lib.auth.relay import Relay
from lib.errors import PoolError
from tests.test_auth_exchange import MD5_SECRET, PASSWORD, SCRAM_SECRET, ask, client_of, login, p
from tests.test_auth_scram import secret_of

# --- relayed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "secret", "kind"),
    [
        ("password", SCRAM_SECRET, "password"),
        ("md5", MD5_SECRET, "md5"),
        ("scram-sha-256", SCRAM_SECRET, "scram-sha-256"),
    ],
)
def test_a_relayed_login_teaches_what_logs_in_again(method, secret, kind):
    relay = Relay(method, secret)
    login(method, secret, PASSWORD, watch=relay)
    assert relay.has_counted
    learned = relay.credential()
    assert learned.kind == kind and login(method, secret, learned).kind == kind


@pytest.mark.parametrize("variant", [{}, {"flag": b"y"}, {"late": True}, {"extension": b",x=y"}])
def test_the_client_key_is_found_in_every_correct_way_to_speak_scram(variant):
    keys = login("scram-sha-256", SCRAM_SECRET, PASSWORD).keys
    relay = Relay("scram-sha-256", SCRAM_SECRET)

    def watched(answer):
        def give(raw):
            relay.from_server(raw)
            said = answer(raw) if callable(answer) else answer
            relay.from_frontend(said)
            return said

        return give

    ask("scram-sha-256", SCRAM_SECRET, *map(watched, client_of(keys, **variant)))
    relay.from_server(authentication(OK))
    assert relay.credential().keys == keys


def test_a_server_that_lets_the_pool_in_without_asking_proves_nothing_about_the_frontend():
    relay = Relay("md5", MD5_SECRET)
    assert not relay.fits(authentication(OK))
    relay.from_server(authentication(OK))
    assert not relay.has_counted and relay.credential() is None


@pytest.mark.parametrize(
    ("method", "code", "fits"),
    [("scram-sha-256", SASL, True), ("scram-sha-256", CLEARTEXT, False), ("scram-sha-256", MD5, False),
     ("md5", MD5, True), ("md5", SASL, True), ("md5", CLEARTEXT, False), ("password", CLEARTEXT, True),
     ("password", MD5, False), ("ldap", CLEARTEXT, True), ("ldap", OK, False), ("gss", 7, True), ("trust", OK, False)],
)  # fmt: skip
def test_a_server_may_ask_only_what_its_rule_says(method, code, fits):
    assert Relay(method, None).fits(authentication(code)) is fits


def test_a_relayed_login_that_is_not_over_teaches_nothing():
    relay = Relay("password", None)
    relay.from_server(authentication(CLEARTEXT))
    relay.from_frontend(p(b"secret\0"))
    assert not relay.has_counted and relay.credential() is None


def test_an_answer_that_does_not_fit_what_is_known_teaches_nothing():
    relay = Relay("md5", MD5_SECRET)
    relay.from_server(authentication(MD5, b"salt"))
    relay.from_frontend(p(b"md5" + b"0" * 32 + b"\0"))
    relay.from_server(authentication(OK))
    assert relay.has_counted and relay.credential() is None


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4), st.lists(st.binary(max_size=50), max_size=4))
def test_no_relayed_dialogue_breaks_the_watching(answers, requests):
    relay = Relay("scram-sha-256", SCRAM_SECRET)
    relay.from_server(authentication(SASL, b"SCRAM-SHA-256\0\0"))
    for request in requests:
        relay.from_server(authentication(SASL_CONTINUE, request))
    for answer in answers:
        relay.from_frontend(p(answer))
    relay.from_server(authentication(OK))
    assert relay.credential() is None


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_nothing_secret_is_shown_anywhere():
    learned = login("scram-sha-256", SCRAM_SECRET, PASSWORD)
    shown = " ".join(map(repr, [PASSWORD, learned, Credential.of_md5(MD5_SECRET), Say(b"secret"), Work(lambda: 0)]))
    assert "secret" not in shown and MD5_SECRET[3:] not in shown and shown.count("***") == 4
    for method in ("password", "md5", "scram-sha-256"):
        with pytest.raises(PoolError) as failed:
            login(method, SCRAM_SECRET, Credential.of_password("hunter2"))
        assert "hunter2" not in f"{failed.value!r} {failed.value} {failed.value.detail} {failed.value.hint}"


def test_what_a_role_proved_is_kept_until_its_secret_changes():
    secrets = Secrets()
    learned = login("scram-sha-256", SCRAM_SECRET, PASSWORD)
    secrets.remember("bob", learned, SCRAM_SECRET)
    assert secrets.of("bob", "shop", SCRAM_SECRET) is learned
    assert secrets.of("bob", "shop") is learned
    assert secrets.of("eve", "shop") is None
    assert secrets.of("bob", "shop", secret_of(b"new")) is None
    assert secrets.of("bob", "shop", SCRAM_SECRET) is None


def test_clear_text_is_dropped_too_when_the_secret_changes():
    secrets = Secrets()
    secrets.remember("bob", PASSWORD, SCRAM_SECRET)
    assert secrets.of("bob", "shop", SCRAM_SECRET) is PASSWORD
    assert secrets.of("bob", "shop", MD5_SECRET) is None


def test_clear_text_is_not_given_up_for_less_while_the_secret_is_the_same():
    secrets = Secrets()
    learned = login("scram-sha-256", SCRAM_SECRET, PASSWORD)
    secrets.remember("bob", PASSWORD, SCRAM_SECRET)
    secrets.remember("bob", learned, SCRAM_SECRET)
    assert secrets.of("bob", "shop") is PASSWORD
    secrets.remember("bob", learned, MD5_SECRET)
    assert secrets.of("bob", "shop") is learned


def test_a_login_without_proof_leaves_what_is_kept():
    secrets = Secrets()
    secrets.remember("bob", PASSWORD, None)
    secrets.remember("bob", None, None)
    assert secrets.of("bob", "shop", SCRAM_SECRET) is PASSWORD
    secrets.forget("bob")
    assert secrets.of("bob", "shop") is None


def test_what_a_role_has_proved_is_dropped_with_the_role_and_not_with_the_one_before_it():
    """A role was dropped and made anew, and proved its password at its next login; when the roles were looked at after
    that, the change was held against what it had proved since, and it could have no further worker."""
    secrets = Secrets()
    secrets.remember("bob", PASSWORD, None, "first")
    secrets.keep("bob", "first")
    assert secrets.of("bob", "shop") is PASSWORD
    secrets.remember("bob", Credential.of_password("new"), None, "second")
    secrets.keep("bob", "second")
    assert secrets.of("bob", "shop").password == b"new"
    secrets.keep("bob", None)
    assert secrets.of("bob", "shop") is None


def test_clear_text_that_is_not_given_up_for_less_is_known_to_be_that_of_the_role_as_it_is_now():
    secrets = Secrets()
    secrets.remember("bob", PASSWORD, SCRAM_SECRET, "first")
    secrets.remember("bob", Credential.of_md5(MD5_SECRET), SCRAM_SECRET, "second")
    secrets.keep("bob", "second")
    assert secrets.of("bob", "shop") is PASSWORD


def test_conn_params_win_where_an_entry_matches():
    entries = [
        {"user": "bob", "database": "shop", "password": "p1"}, {"user": "bob", "password": "p2"},
        {"user": "eve", "database": "shop"}, {"password": "p4"},
    ]  # fmt: skip
    secrets = Secrets(entries)
    secrets.remember("bob", PASSWORD, None)
    secrets.remember("eve", PASSWORD, None)
    assert secrets.of("bob", "shop").password == b"p1"
    assert secrets.of("bob", "other").password == b"p2"
    assert secrets.of("eve", "shop") is PASSWORD
    assert secrets.of("carol", "shop") is None
    assert repr(secrets) == "<Secrets of 2 roles, 3 configured>"
