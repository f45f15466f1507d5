"""Who may come in and who may not, with PostgreSQL's words, and nobody told more than PostgreSQL would tell."""

from __future__ import annotations

import pytest

from lib.auth import access as rules
from lib.auth import ident
from lib.auth.access import Access, Challenge, Counts, Reject, RelayOnly, Trust, decide, refusal
from lib.auth.certificate import Names
from lib.auth.hba import Peer, Rule
from lib.auth.hbatext import Word

BOB = Access(
    secret="md5" + "0" * 32, role_exists=True, can_login=True, roles=frozenset({"bob"}), database_exists=True,
    allows_connections=True, may_connect=True,
)  # fmt: skip
PEER = Peer.at("10.1.2.3")
LOCAL = Peer("unix", None, 1000)


def changed(**fields):
    return Access(**{**{name: getattr(BOB, name) for name in Access.__dataclass_fields__}, **fields})


def rule(method, type="host", **options):
    all_ = (Word("all"),)
    return Rule(3, type, all_, all_, None if type == "local" else Word("all"), None, method, options)


def plan_for(method, access=BOB, peer=PEER, version=160000, **more):
    found = rule(method) if isinstance(method, str) else method
    return decide(found, access, peer, "bob", "shop", version=version, **more)


def error_of(plan):
    assert isinstance(plan, Reject)
    return plan.error.sqlstate, plan.error.message


@pytest.mark.parametrize(
    ("found", "peer", "start", "host", "encryption"),
    [
        (None, PEER, "no pg_hba.conf entry for", "10.1.2.3", "no encryption"),
        (rule("reject"), PEER, "pg_hba.conf rejects connection for", "10.1.2.3", "no encryption"),
        (None, LOCAL, "no pg_hba.conf entry for", "[local]", "no encryption"),
        (None, Peer.at("::1", tls=True), "no pg_hba.conf entry for", "::1", "SSL encryption"),
    ],
)
def test_no_rule_and_a_rejecting_one_are_told_as_postgresql_tells_them(found, peer, start, host, encryption):
    text = f'{start} host "{host}", user "bob", database "shop", {encryption}'
    assert error_of(plan_for(found, peer=peer)) == ("28000", text)


def test_servers_before_14_speak_of_ssl_only():
    assert error_of(plan_for(None, version=130000))[1].endswith('database "shop", SSL off')
    assert error_of(plan_for(None, peer=Peer.at("::1", tls=True), version=130000))[1].endswith("SSL on")


def test_trust_asks_nothing():
    assert plan_for("trust") == Trust()


@pytest.mark.parametrize("method", ["password", "md5", "scram-sha-256"])
def test_a_password_may_be_asked_by_the_server_only_if_it_would_ask_the_same(method):
    assert plan_for(method, pool_rule=rule(method)) == Challenge(method, True)
    for other in ("trust", "reject", "md5" if method != "md5" else "password", "cert"):
        assert plan_for(method, pool_rule=rule(other)) == Challenge(method, False)
    assert plan_for(method, pool_rule=None) == Challenge(method, False)


@pytest.mark.parametrize("fields", [{"secret": None}, {"expired": True}, {"secret": None, "role_exists": False}])
def test_who_is_bound_to_fail_is_asked_by_the_pool(fields):
    # The server's mock salt is not ours: asked by both in turn, one could tell an unknown role from a known one.
    assert plan_for("md5", changed(**fields), pool_rule=rule("md5")) == Challenge("md5", False)


@pytest.mark.parametrize("method", rules.CHECKED_BY_SERVER)
def test_what_only_the_server_can_check_is_passed_on_to_it(method):
    assert plan_for(method, pool_rule=rule(method)) == RelayOnly(method)
    sqlstate, message = error_of(plan_for(method, pool_rule=rule("trust")))
    assert sqlstate == "28000" and f'"{method}" cannot be used through the pool' in message


def test_another_ldap_server_is_another_question():
    mine, same, other = (rule("ldap", ldapserver=name) for name in ("a", "a", "b"))
    assert plan_for(mine, pool_rule=same) == RelayOnly("ldap")
    assert isinstance(plan_for(mine, pool_rule=other), Reject)


@pytest.mark.parametrize("method", ["ident", "sspi"])
def test_what_nobody_can_check_here_is_refused_with_a_hint(method):
    plan = plan_for(method, pool_rule=rule(method))
    assert error_of(plan)[0] == "28000" and "pg_hba.conf" in plan.error.hint and "Line 3" in plan.error.detail


@pytest.mark.parametrize("method", ["peer", "ident"])
def test_peer_compares_the_names(method):
    local = rule(method, "local")
    assert plan_for(local, peer=LOCAL, system_user="bob") == Trust()
    for name in ("eve", None, ""):
        plan = plan_for(local, peer=LOCAL, system_user=name)
        assert error_of(plan) == ("28000", 'Peer authentication failed for user "bob"')


def test_peer_uses_the_map_that_its_rule_names():
    maps = (ident.UserMap("m", "os_bob", Word("bob")),)
    local = rule("peer", "local", map="m")
    assert plan_for(local, peer=LOCAL, system_user="os_bob", maps=maps) == Trust()
    assert isinstance(plan_for(local, peer=LOCAL, system_user="bob", maps=maps), Reject)


# --- after the login ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sqlstate", "text", "detail"),
    [
        ({"role_exists": False}, "28000", 'role "bob" does not exist', None),
        ({"can_login": False}, "28000", 'role "bob" is not permitted to log in', None),
        ({"role_limit": 2}, "53300", 'too many connections for role "bob"', None),
        ({"role_limit": 0}, "53300", 'too many connections for role "bob"', None),
        ({"database_exists": False}, "3D000", 'database "shop" does not exist', None),
        ({"allows_connections": False}, "55000", 'database "shop" is not currently accepting connections', None),
        ({"database_limit": -2}, "55000", 'cannot connect to invalid database "shop"', None),
        ({"may_connect": False}, "42501", 'permission denied for database "shop"',
         "User does not have CONNECT privilege."),
        ({"database_limit": 5}, "53300", 'too many connections for database "shop"', None),
    ],
)  # fmt: skip
def test_what_is_refused_after_the_login_has_postgresqls_words(fields, sqlstate, text, detail):
    error = refusal(changed(**fields), "bob", "shop", Counts(role=2, database=5))
    assert (error.sqlstate, error.message, error.detail, error.severity) == (sqlstate, text, detail, "FATAL")


def test_who_is_within_the_limits_is_let_in():
    assert refusal(changed(role_limit=3, database_limit=6), "bob", "shop", Counts(2, 5)) is None


def test_limits_do_not_hold_for_superusers():
    limited = changed(role_limit=0, database_limit=0, may_connect=False, superuser=True)
    assert refusal(limited, "bob", "shop") is None


def test_the_role_comes_before_the_database():
    nobody = Access()
    assert refusal(nobody, "bob", "shop").sqlstate == "28000"
    assert refusal(changed(database_exists=False, role_limit=0), "bob", "shop").sqlstate == "53300"


def test_a_database_of_the_pool_itself_needs_no_server_that_knows_it():
    unknown = changed(database_exists=False, allows_connections=False, may_connect=False)
    assert refusal(unknown, "bob", "pseudo", is_virtual=True) is None
    assert refusal(changed(can_login=False), "bob", "pseudo", is_virtual=True).sqlstate == "28000"


def test_a_secret_that_has_expired_fits_no_password():
    assert BOB.usable_secret == BOB.secret and changed(expired=True).usable_secret is None


def test_the_secret_is_not_shown():
    assert BOB.secret not in repr(BOB)


def test_a_row_of_the_query_becomes_an_access():
    row = (
        '{"role_exists": true, "secret": null, "expired": false, "can_login": true, "superuser": false, '
        '"role_limit": -1, "roles": ["bob", "staff"], "database_exists": true, "allows_connections": true, '
        '"database_limit": -1, "may_connect": true, "loaded": "x"}'
    )
    assert rules.read(row).roles == {"bob", "staff"}


# --- certificates ----------------------------------------------------------------------------------------------------


def with_certificate(name, subject="CN=?"):
    return Peer.at("10.1.2.3", tls=True, certificate=Names(name, subject))


@pytest.mark.parametrize(
    "found",
    [
        rule("cert", "hostssl"),
        rule("scram-sha-256", "hostssl", clientcert="verify-ca"),
        rule("trust", "hostssl", clientcert="verify-full"),
        rule("md5", "hostssl", clientcert="true"),  # up to 11
    ],
)
def test_a_rule_that_wants_a_certificate_is_not_met_without_one(found):
    plan = plan_for(found, peer=Peer.at("10.1.2.3", tls=True))
    assert error_of(plan) == ("28000", "connection requires a valid client certificate")


def test_a_certificate_is_enough_for_its_owner_and_for_nobody_else():
    found = rule("cert", "hostssl", clientcert="verify-full")
    assert plan_for(found, peer=with_certificate("bob")) == Trust()
    for name in ("Bob", "alice", "", None):
        refused = ("28000", 'certificate authentication failed for user "bob"')
        assert error_of(plan_for(found, peer=with_certificate(name))) == refused


def test_a_map_says_whose_certificate_may_be_which_user():
    maps = (ident.UserMap("m", "robert", Word("bob")), ident.UserMap("m", r"/^(.*)@example\.org$", Word(r"\1")))
    found = rule("cert", "hostssl", clientcert="verify-full", map="m")
    assert plan_for(found, peer=with_certificate("robert"), maps=maps) == Trust()
    assert plan_for(found, peer=with_certificate("bob@example.org"), maps=maps) == Trust()
    assert isinstance(plan_for(found, peer=with_certificate("bob"), maps=maps), Reject)


def test_the_whole_subject_may_be_the_name():
    maps = (ident.UserMap("m", "CN=robert,O=x", Word("bob")),)
    found = rule("cert", "hostssl", clientcert="verify-full", map="m", clientname="DN")
    assert plan_for(found, peer=with_certificate("robert", "CN=robert,O=x"), maps=maps) == Trust()
    assert isinstance(plan_for(found, peer=with_certificate("robert", None), maps=maps), Reject)


def test_a_password_does_not_make_up_for_somebody_elses_certificate():
    found = rule("scram-sha-256", "hostssl", clientcert="verify-full")
    assert plan_for(found, peer=with_certificate("bob")).objection is None
    wrong = plan_for(found, peer=with_certificate("alice"))
    assert wrong.objection.sqlstate == "28P01" and not wrong.can_relay
    ca = rule("scram-sha-256", "hostssl", clientcert="verify-ca")
    assert plan_for(ca, peer=with_certificate("alice")).objection is None
    trusted = plan_for(rule("trust", "hostssl", clientcert="verify-full"), peer=with_certificate("alice"))
    assert error_of(trusted) == ("28000", '"trust" authentication failed for user "bob"')
    ldap = rule("ldap", "hostssl", clientcert="verify-full")
    asked = plan_for(ldap, peer=with_certificate("alice"), pool_rule=rule("ldap"))
    assert asked.objection.message == 'LDAP authentication failed for user "bob"'


@pytest.mark.parametrize(
    ("method", "secret", "can_relay"),
    [
        ("scram-sha-256", "SCRAM-SHA-256$", False), ("md5", "SCRAM-SHA-256$", False),
        ("md5", "md5" + "0" * 32, True), ("password", "SCRAM-SHA-256$", True),
    ],
)  # fmt: skip
def test_scram_over_tls_is_never_relayed(method, secret, can_relay):
    bob = changed(secret=secret)
    assert plan_for(method, bob, Peer.at("10.1.2.3", tls=True), pool_rule=rule(method)).can_relay is can_relay
    assert plan_for(method, bob, pool_rule=rule(method)).can_relay is True
