"""The dialogues of a login: the pool as server against the pool as client, and what a relayed one teaches."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.auth import scram
from lib.auth.credential import Credential, Secrets
from lib.auth.exchange import (
    CLEARTEXT,
    MD5,
    OK,
    SASL,
    SASL_CONTINUE,
    SASL_FINAL,
    Say,
    Work,
    authentication,
    challenge,
    code_of,
    respond,
)
from lib.auth.relay import Relay
from lib.errors import AuthenticationFailed, CredentialUnfit, PoolError, ProtocolViolation
from lib.wire.messages import message
from tests.test_auth_scram import secret_of

SCRAM_SECRET = secret_of(b"secret", iterations=1)
MD5_SECRET = scram.md5_secret(b"secret", b"bob")
NONCE = b"nonce of the cluster"
WRONG = 'password authentication failed for user "bob"'


def advance(dialogue, value=None):
    """Send one value and do the work that is asked for; the next step, or ("done", result)."""
    try:
        step = dialogue.send(value)
        while isinstance(step, Work):
            step = dialogue.send(step.function())
        return step
    except StopIteration as end:
        return "done", end.value


def ask(method, secret, *answers, password_encryption="scram-sha-256"):
    """Play a frontend that gives these answers, bytes or functions of the server's message."""
    dialogue = challenge(method, "bob", secret, NONCE, password_encryption)
    step, given_answers = advance(dialogue), list(answers)
    while not isinstance(step, tuple) or isinstance(step, Say):
        if isinstance(step, Say):
            step = advance(dialogue)
            continue
        answer = given_answers.pop(0)
        step = advance(dialogue, answer(step) if callable(answer) else answer)
    return step[1]


def login(method, secret, credential, user="bob", watch=None, **options):
    """Let respond() log in to challenge(); what challenge() returned. `watch` is a Relay between them."""
    server, client = challenge(method, user, secret, NONCE, **options), respond(user, credential)
    assert advance(client) is None
    step = advance(server)
    while isinstance(step, (bytes, Say)):
        raw = step.message if isinstance(step, Say) else step
        if watch:
            watch.from_server(raw)
        answer = advance(client, raw)
        if watch and answer is not None:
            watch.from_frontend(answer)
        step = advance(server, answer)
    if watch:
        watch.from_server(authentication(OK))
    assert advance(client, authentication(OK)) == ("done", None)
    return step[1]


def p(body):
    return message(b"p", body)


def initial(text, mechanism=b"SCRAM-SHA-256"):
    return p(mechanism + b"\0" + struct.pack("!i", len(text)) + text)


# --- who is let in --------------------------------------------------------------------------------------------------

PASSWORD = Credential.of_password("secret")


@pytest.mark.parametrize(
    ("method", "secret", "kind"),
    [
        ("password", SCRAM_SECRET, "password"), ("password", MD5_SECRET, "password"), ("md5", MD5_SECRET, "md5"),
        ("md5", SCRAM_SECRET, "scram-sha-256"), ("scram-sha-256", SCRAM_SECRET, "scram-sha-256"),
    ],
)  # fmt: skip
def test_a_right_password_is_taken_and_what_is_learned_logs_in_again(method, secret, kind):
    learned = login(method, secret, PASSWORD)
    assert learned.kind == kind
    assert login(method, secret, learned).kind == kind
    assert learned.still_fits(secret)


@pytest.mark.parametrize("method", ["password", "md5", "scram-sha-256"])
@pytest.mark.parametrize("secret", [SCRAM_SECRET, MD5_SECRET, None, "no secret at all", "SCRAM-SHA-256$broken"])
def test_a_wrong_password_gets_postgresqls_words_whatever_the_secret_is(method, secret):
    with pytest.raises(AuthenticationFailed) as failed:
        login(method, secret, Credential.of_password("wrong"))
    assert (failed.value.message, failed.value.sqlstate, failed.value.severity) == (WRONG, "28P01", "FATAL")
    assert failed.value.detail is None and failed.value.hint is None


def test_an_md5_secret_cannot_do_scram():
    with pytest.raises(AuthenticationFailed, match="password authentication failed"):
        login("scram-sha-256", MD5_SECRET, PASSWORD)


@pytest.mark.parametrize(("setting", "code"), [("md5", MD5), ("on", MD5), ("scram-sha-256", SASL)])
def test_an_unknown_role_under_an_md5_rule_is_asked_as_most_roles_are(setting, code):
    assert code_of(advance(challenge("md5", "bob", None, NONCE, setting))) == code


def test_an_unknown_role_cannot_be_told_from_a_wrong_password():
    """Same questions, same number of them, the same salt at each try."""

    def questions(secret):
        asked = []

        def first(raw):
            asked.append(raw)
            return initial(b"n,,n=,r=abc")

        def second(raw):
            asked.append(raw[raw.index(b",s=") :])
            return p(b"c=biws,r=" + raw[11 : raw.index(b",s=")] + b",p=" + scram.encode64(bytes(32)))

        with pytest.raises(AuthenticationFailed, match=WRONG):
            ask("scram-sha-256", secret, first, second)
        return asked

    unknown = questions(None)
    assert unknown == questions(None)
    known = questions(secret_of(b"secret"))
    assert unknown[0] == known[0] and len(unknown[1]) == len(known[1])


# --- malformed answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["password", "md5"])
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (message(b"Q", b"select 1\0"), "expected password response, got message type 81"),
        (p(b""), "invalid password packet size"),
        (p(b"no end"), "invalid password packet size"),
        (p(b"two\0ends\0"), "invalid password packet size"),
        (p(b"x" * 70_000 + b"\0"), "invalid message length"),
    ],
)
def test_a_malformed_password_message_is_a_violation(method, answer, text):
    with pytest.raises(ProtocolViolation) as violation:
        ask(method, MD5_SECRET, answer)
    assert violation.value.message == text and violation.value.severity == "FATAL"


@pytest.mark.parametrize("method", ["password", "md5"])
def test_an_empty_password_is_refused_as_postgresql_refuses_it(method):
    with pytest.raises(AuthenticationFailed, match="empty password returned by client"):
        ask(method, MD5_SECRET, p(b"\0"))


@pytest.mark.parametrize(
    ("answer", "text", "detail"),
    [
        (message(b"X", b""), "expected SASL response, got message type 88", None),
        (p(b"SCRAM-SHA-256"), "invalid string in message", None),
        (initial(b"n,,n=,r=abc", b"PLAIN"), "client selected an invalid SASL authentication mechanism", None),
        (initial(b"p=tls-unique,,n=,r=abc", b"SCRAM-SHA-256-PLUS"),
         "client selected an invalid SASL authentication mechanism", None),
        (p(b"SCRAM-SHA-256\0\0\0"), "insufficient data left in message", None),
        (p(b"SCRAM-SHA-256\0" + struct.pack("!i", 99) + b"n,,"), "insufficient data left in message", None),
        (p(b"SCRAM-SHA-256\0" + struct.pack("!i", 1) + b"n,,"), "invalid message format", None),
        (initial(b""), "malformed SCRAM message", "The message is empty."),
        (initial(b"n,,\0"), "malformed SCRAM message", "Message length does not match input length."),
        (initial(b"x,,n=,r=a"), "malformed SCRAM message", "Unexpected channel-binding flag \"'x'\"."),
        (initial(b"n;,n=,r=a"), "malformed SCRAM message", "Comma expected, but found character \"';'\"."),
        (initial(b"n,x,n=,r=a"), "malformed SCRAM message", "Unexpected attribute \"'x'\" in client-first-message."),
        (initial(b"n,a=eve,n=,r=a"), "client uses authorization identity, but it is not supported", None),
        (initial(b"n,,m=x,n=,r=a"), "client requires an unsupported SCRAM extension", None),
        (initial(b"n,,x=,r=a"), "malformed SCRAM message", "Expected attribute \"n\" but found \"'x'\"."),
        (initial(b"n,,n"), "malformed SCRAM message", 'Expected character "=" for attribute "n".'),
        (initial(b"n,,n=,r=\x01"), "non-printable characters in SCRAM nonce", None),
        (initial(b"n,,n=,r=a,9=x"), "malformed SCRAM message",
         "Attribute expected, but found invalid character \"'9'\"."),
        (initial(b"p=x,,n=,r=a"), "malformed SCRAM message",
         "The client selected SCRAM-SHA-256 without channel binding, "
         "but the SCRAM message includes channel binding data."),
    ],
)  # fmt: skip
def test_a_malformed_first_scram_message_is_told_as_postgresql_tells_it(answer, text, detail):
    with pytest.raises(PoolError) as violation:
        ask("scram-sha-256", SCRAM_SECRET, answer)
    assert (violation.value.message, violation.value.detail) == (text, detail)
    assert violation.value.sqlstate in ("08P01", "0A000") and violation.value.severity == "FATAL"


@pytest.mark.parametrize(
    ("final", "text", "detail"),
    [
        (b"c=eSws,r=%N,p=%P", "unexpected SCRAM channel-binding attribute in client-final-message", None),
        (b"c=biws,r=other,p=%P", "invalid SCRAM response", "Nonce does not match."),
        (b"c=biws,r=%N", "malformed SCRAM message", "Attribute expected, but found end of string."),
        (b"c=biws,r=%N,p=QQ==", "malformed SCRAM message", "Malformed proof in client-final-message."),
        (b"c=biws,r=%N,p=!!!!", "malformed SCRAM message", "Malformed proof in client-final-message."),
        (b"c=biws,r=%N,p=%P,x=y", "malformed SCRAM message", "Garbage found at the end of client-final-message."),
    ],
)
def test_a_malformed_last_scram_message_is_told_as_postgresql_tells_it(final, text, detail):
    def last(raw):
        nonce = raw[11 : raw.index(b",s=")]
        return p(final.replace(b"%N", nonce).replace(b"%P", scram.encode64(bytes(32))))

    with pytest.raises(ProtocolViolation) as violation:
        ask("scram-sha-256", SCRAM_SECRET, initial(b"n,,n=,r=abc"), last)
    assert (violation.value.message, violation.value.detail) == (text, detail)


def test_a_sasl_message_that_is_too_long_fails_the_login():
    with pytest.raises(AuthenticationFailed, match=WRONG):
        ask("scram-sha-256", SCRAM_SECRET, initial(b"n,,n=,r=" + b"a" * 2000))


def client_of(keys, *, flag=b"n", late=False, extension=b""):
    """A frontend's answers, as some drivers give them: channel-binding flag y, no initial response, extensions."""
    bare = b"n=ignored,r=abc" + extension
    first = flag + b",," + bare

    def final(raw):
        server_first = raw[9:]
        nonce = server_first[2 : server_first.index(b",s=")]
        without = b"c=" + scram.encode64(flag + b",,") + b",r=" + nonce + extension
        proof = scram.proof(keys, b",".join([bare, server_first, without]))
        return p(without + b",p=" + scram.encode64(proof))

    if late:
        return [p(b"SCRAM-SHA-256\0\xff\xff\xff\xff"), p(first), final]
    return [initial(first), final]


@pytest.mark.parametrize("variant", [{}, {"flag": b"y"}, {"late": True}, {"extension": b",x=y"}])
def test_every_correct_way_to_speak_scram_is_understood(variant):
    keys = login("scram-sha-256", SCRAM_SECRET, PASSWORD).keys
    assert ask("scram-sha-256", SCRAM_SECRET, *client_of(keys, **variant)).keys == keys


@given(st.lists(st.binary(max_size=60), max_size=4), st.sampled_from(["password", "md5", "scram-sha-256"]))
def test_no_answer_gets_anything_but_a_pool_error(bodies, method):
    with pytest.raises(PoolError):
        ask(method, SCRAM_SECRET, *(p(body) for body in bodies), *[p(b"")] * 4)


# --- the pool as a client -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credential", "question"),
    [
        (None, authentication(CLEARTEXT)), (None, authentication(MD5, b"salt")),
        (None, authentication(SASL, b"SCRAM-SHA-256\0\0")),
        (Credential.of_md5(MD5_SECRET), authentication(CLEARTEXT)),
        (Credential.of_md5(MD5_SECRET), authentication(SASL, b"SCRAM-SHA-256\0\0")),
        (Credential.of_keys(scram.keys_of_password(b"x", b"s", 1)), authentication(MD5, b"salt")),
        (Credential.of_keys(scram.keys_of_password(b"x", b"s", 1)), authentication(CLEARTEXT)),
        (PASSWORD, authentication(SASL, b"OAUTHBEARER\0\0")), (PASSWORD, authentication(7)),
    ],
)  # fmt: skip
def test_a_credential_that_cannot_answer_says_so_with_a_hint(credential, question):
    client = respond("bob", credential)
    next(client)
    with pytest.raises(CredentialUnfit) as unfit:
        client.send(question)
    assert "conn_params" in unfit.value.hint and "secret" not in str(unfit.value)


def test_a_server_that_asks_nothing_is_answered_nothing():
    client = respond("bob", None)
    assert next(client) is None
    with pytest.raises(StopIteration):
        client.send(authentication(OK))


def scram_client(credential=PASSWORD):
    client = respond("bob", credential)
    next(client)
    first = client.send(authentication(SASL, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"))
    return client, first[first.index(b"r=") + 2 :]


@pytest.mark.parametrize(
    "server_first",
    [b"r=%Nx,s=QQ==,i=0x1", b"r=other,s=QQ==,i=1", b"r=%N,s=QQ==,i=1", b"r=%Nx,s=!,i=1", b"s=QQ==,i=1", b"", b"e=no"],
)
def test_a_malformed_first_message_of_the_server_is_refused(server_first):
    client, nonce = scram_client()
    with pytest.raises(CredentialUnfit, match="malformed SCRAM message from the server"):
        client.send(authentication(SASL_CONTINUE, server_first.replace(b"%N", nonce)))


@pytest.mark.parametrize(
    "last",
    [authentication(SASL_FINAL, b"v=" + scram.encode64(bytes(32))), authentication(OK), authentication(SASL_FINAL)],
)
def test_a_server_that_does_not_know_the_secret_itself_is_not_trusted(last):
    client, nonce = scram_client()
    assert isinstance(advance(client, authentication(SASL_CONTINUE, b"r=" + nonce + b"x,s=QQ==,i=1")), bytes)
    with pytest.raises(CredentialUnfit, match="could not prove"):
        client.send(last)


def test_keys_are_not_tried_on_another_salt():
    learned = login("scram-sha-256", SCRAM_SECRET, PASSWORD)
    client, nonce = scram_client(learned)
    with pytest.raises(CredentialUnfit) as unfit:
        client.send(authentication(SASL_CONTINUE, b"r=" + nonce + b"x,s=QQ==,i=1"))
    assert "changed" in unfit.value.detail


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
