"""The dialogues of a login: the pool as server against the pool as client, and what a relayed one teaches."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.auth import scram
from lib.auth.credential import Credential
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
from lib.auth.relay import without_binding
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


# --- channel binding -------------------------------------------------------------------------------------------------

BOUND = b"hash of a certificate"
PLUS, PLAIN = b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"
NEGOTIATION = "SCRAM channel binding negotiation error"


def chosen(mechanism, text):
    return message(b"p", mechanism + b"\0" + struct.pack("!i", len(text)) + text)


def log_in_bound(server_binding, client_binding):
    """respond() against challenge(), each with what it believes to be the channel; the mechanism that was chosen."""
    server = challenge("scram-sha-256", "bob", SCRAM_SECRET, NONCE, "scram-sha-256", server_binding)
    client = respond("bob", PASSWORD)
    advance(client)
    step, chosen = advance(server), None
    while isinstance(step, (bytes, Say)):
        raw = step.message if isinstance(step, Say) else step
        answer = advance(client, raw if client_binding is None else (raw, client_binding))
        chosen = chosen or answer[5:].partition(b"\0")[0]
        step = advance(server, answer)
    return chosen


def test_who_sees_the_same_certificate_is_bound_to_it():
    assert log_in_bound(BOUND, BOUND) == PLUS
    assert log_in_bound(None, BOUND) == PLAIN
    assert log_in_bound(BOUND, None) == PLAIN


def test_who_sees_another_certificate_is_refused():
    with pytest.raises(PoolError, match="SCRAM channel binding check failed") as raised:
        log_in_bound(BOUND, b"hash of somebody in between")
    assert raised.value.sqlstate == "28000"


@pytest.mark.parametrize(
    ("mechanism", "text", "words", "sqlstate"),
    [
        (PLAIN, b"y,,n=,r=abc", NEGOTIATION, "28000"),
        (PLUS, b"n,,n=,r=abc", "does not include channel binding data", "08P01"),
        (PLUS, b"y,,n=,r=abc", "does not include channel binding data", "08P01"),
        (PLAIN, b"p=tls-server-end-point,,n=,r=abc", "but the SCRAM message includes channel binding data", "08P01"),
        (PLUS, b"p=tls-unique,,n=,r=abc", 'unsupported SCRAM channel-binding type "tls-unique"', "08P01"),
        (PLUS, b"p=tls-server-end-point,a=x,n=,r=abc", "authorization identity", "0A000"),
        (PLUS, b"p=tls-server-end-point", "Unexpected attribute", "08P01"),
        (b"SCRAM-SHA-512", b"n,,n=,r=abc", "invalid SASL authentication mechanism", "08P01"),
    ],
)
def test_what_does_not_fit_a_bound_channel_is_told_as_postgresql_tells_it(mechanism, text, words, sqlstate):
    dialogue = challenge("scram-sha-256", "bob", SCRAM_SECRET, NONCE, "scram-sha-256", BOUND)
    assert advance(dialogue)[9:] == PLUS + b"\0" + PLAIN + b"\0\0"
    with pytest.raises(PoolError) as raised:
        advance(dialogue, chosen(mechanism, text))
    assert words in f"{raised.value.message} {raised.value.detail}"
    assert raised.value.sqlstate == sqlstate


def test_a_relay_offers_nothing_that_is_bound_to_the_servers_certificate():
    raw = authentication(SASL, PLUS + b"\0" + PLAIN + b"\0\0")
    assert without_binding(raw) == authentication(SASL, PLAIN + b"\0\0")
