"""Logins through lib.login against real servers: the same outcome, and the same words, as for a direct connection."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import asyncpg
import gevent
import pg8000.dbapi
import psycopg
import psycopg2
import pytest

from lib.auth import scram
from lib.auth.access import Counts
from lib.auth.hba import Peer
from lib.census import Census
from lib.errors import LoginTimeout, PoolError, ServerUnreachable
from tests.cluster.auth_roles import ADMIN, ASKED, ROLES, create_roles, hba_lines
from tests.cluster.minipool import MiniPool, in_thread
from tests.servers import Server
from tests.workplace import PATIENCE_S, run

VERSIONS = [pytest.param(15, marks=pytest.mark.needs_debian), 16, 18]


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: f"pg{version}")
def server(request):
    with Server("auth", version=request.param, hba=hba_lines()) as server:
        create_roles(server)
        yield server


def log_in(port: int, user: str, password: str | None, database: str = "postgres") -> str | None:
    """Log in with libpq; None, or its error from the severity on."""
    outcome = in_thread(
        psycopg2.connect, host="127.0.0.1", port=port, user=user, dbname=database, sslmode="disable",
        gssencmode="disable", **({"password": password} if password is not None else {}),
    )  # fmt: skip
    if isinstance(outcome, Exception):
        return str(outcome).partition("failed: ")[2] or str(outcome)
    outcome.close()
    return None


# --- as a direct connection -----------------------------------------------------------------------------------------

CASES = [
    *((user, ROLES[user][1], "postgres") for user in ASKED),
    *((user, "wrong", "postgres") for user in ASKED),
    ("a_scram", None, "postgres"), ("a_md5", None, "postgres"), ("a_password", "", "postgres"),
    ("a_trust", None, "postgres"), ("a_trust", None, "no_such"), ("a_scram", "wrong", "no_such"),
    ("a_scram", ROLES["a_scram"][1], "no_such"), ("a_scram", ROLES["a_scram"][1], "closed"),
    ("a_scram", ROLES["a_scram"][1], "private"), ("a_scram", ROLES["a_scram"][1], "small"),
    ("a_password", ROLES["a_password"][1], "no_such"), ("a_md5", ROLES["a_md5"][1], "private"),
    ("a_expired", "secret", "postgres"), ("a_nologin", "secret", "postgres"), ("a_nologin", "wrong", "postgres"),
    ("a_nopassword", "x", "postgres"), ("a_limited", "secret", "postgres"), ("a_limited", "wrong", "postgres"),
    ("a_rejected", "secret", "postgres"), ("a_member", "secret", "postgres"), ("a_member", "wrong", "postgres"),
    ("nobody", "x", "postgres"), ("nobody_md5", "x", "postgres"), ("nobody_password", "x", "postgres"),
    ("nobody_trust", None, "postgres"), ("no_rule", "x", "postgres"), ("no_rule", "x", "no_such"),
    ('weird "name', "x", "postgres"), ("ünicode", "x", "dätabase"), ("postgres", None, "private"),
    ("postgres", None, "closed"), ("postgres", None, "small"),
]  # fmt: skip


@pytest.mark.parametrize("wants_worker", [True, False], ids=["relayed", "asked by the pool"])
def test_a_login_ends_as_it_would_on_the_server_itself_and_with_the_same_words(server, wants_worker):
    with MiniPool(server, ADMIN, wants_worker=wants_worker) as pool:
        direct = {case: log_in(server.port, *case) for case in CASES}
        pooled = {case: log_in(pool.port, *case) for case in CASES}
    assert pooled == direct
    assert sum(error is None for error in direct.values()) == 8


def test_the_sqlstate_is_the_servers_too(server):
    expected = {
        ("a_scram", "wrong", "postgres"): "28P01", ("no_rule", "x", "postgres"): "28000",
        ("a_scram", ROLES["a_scram"][1], "no_such"): "3D000", ("a_scram", ROLES["a_scram"][1], "closed"): "55000",
        ("a_scram", ROLES["a_scram"][1], "private"): "42501", ("a_limited", "secret", "postgres"): "53300",
        ("a_nologin", "secret", "postgres"): "28000",
    }  # fmt: skip
    with MiniPool(server, ADMIN) as pool:
        for case in expected:
            assert log_in(pool.port, *case) is not None
        assert [error.sqlstate for error in pool.errors] == list(expected.values())
        assert {error.severity for error in pool.errors} == {"FATAL"}


# --- what is learned ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ASKED)
def test_a_relayed_login_starts_its_worker_and_teaches_what_starts_the_next_one(server, user):
    password = ROLES[user][1]
    with MiniPool(server, ADMIN, wants_worker=True) as pool:
        assert log_in(pool.port, user, password) is None
        assert pool.admissions[0].worker == "worker 1"
        learned = pool.secrets.of(user, "postgres")
        # Now from elsewhere, so that the pool asks, and starts the worker with what it knows.
        pool.peer = Peer.at("10.1.2.3")
        pool.secrets.remember = lambda *_: None
        assert log_in(pool.port, user, password) is None
        assert pool.admissions[1].worker == "worker 2"
        assert pool.secrets.of(user, "postgres") is learned


@pytest.mark.parametrize("user", ASKED)
def test_a_login_that_the_pool_conducts_teaches_what_starts_a_worker(server, user):
    with MiniPool(server, ADMIN) as pool:
        assert log_in(pool.port, user, ROLES[user][1]) is None
        assert pool.started == 0
        pool.wants_worker = True
        pool.peer = Peer.at("10.1.2.3")
        assert log_in(pool.port, user, ROLES[user][1]) is None
        assert pool.started == 1


def test_a_role_that_is_dropped_and_made_anew_keeps_what_it_has_proved_since(server):
    """The next look at the roles saw that it is another one, and what had been learned from a login of that other one
    was forgotten: the server would be told nothing when a further worker was wanted."""
    make = "drop role if exists nobody; create role nobody login password "
    server.query(make + "'one'")
    with MiniPool(server, ADMIN) as pool:
        retired: list[str | None] = []
        users = SimpleNamespace(users_and_databases=lambda: {("nobody", "postgres")})
        cluster: Any = SimpleNamespace(pools=[users], retire_workers=retired.append)
        census = Census(cluster, pool.directory, pool.secrets)
        assert log_in(pool.port, "nobody", "one") is None
        census.look()
        server.query(make + "'two'")
        assert log_in(pool.port, "nobody", "two") is None
        census.look()
        assert retired == ["nobody"]
        assert pool.secrets.of("nobody", "postgres") is not None
        server.query(make + "'two'")
        census.look()
        assert retired == ["nobody"] * 2
        assert pool.secrets.of("nobody", "postgres") is None
    server.query("drop role nobody")


def test_a_role_that_comes_back_with_what_is_still_known_of_it_is_looked_at_for_changes(server):
    """A look that met it no more, as its last worker was gone, forgot what it was, and who came back within a second
    was let in without a question: a change before the next look was never noticed."""
    server.query("drop role if exists nobody; create role nobody login password 'one'")
    with MiniPool(server, ADMIN, access_ttl_s=3600) as pool:
        retired: list[str | None] = []
        there = {("nobody", "postgres")}
        cluster: Any = SimpleNamespace(
            pools=[SimpleNamespace(users_and_databases=lambda: there)], retire_workers=retired.append
        )
        census = Census(cluster, pool.directory, pool.secrets)
        assert log_in(pool.port, "nobody", "one") is None
        census.look()
        there.clear()
        census.look()
        there.add(("nobody", "postgres"))
        assert log_in(pool.port, "nobody", "one") is None
        server.query("alter role nobody password 'two'")
        census.look()
        assert retired == ["nobody"]
    server.query("drop role nobody")


@pytest.mark.parametrize("user", [*ASKED, "a_trust"])
def test_a_password_in_conn_params_starts_workers(server, user):
    password = ROLES[user][1] or "ignored"
    with MiniPool(server, ADMIN, conn_params=[{"user": user, "password": password}], wants_worker=True) as pool:
        pool.peer = Peer.at("10.1.2.3")
        assert log_in(pool.port, user, ROLES[user][1]) is None
        assert pool.started == 1


def test_every_password_is_prepared_as_the_server_prepares_it(own_server):
    passwords = [
        "plain", "\u00e4", "a\u0308", "\u2168", "x\u00ady", "a\u00a0b", "\u00aa", "\u0627\u0628", "\u06271", "a\u0627b",
        "\u0221x", "\u00e4\u0007", "\u200bx", "\ufb01", "\U0001f600", "\u1e9b\u0323", "\u00ad", "\u3000\u00e9",
    ]  # fmt: skip
    for password in passwords:
        own_server.query(f"set password_encryption = 'scram-sha-256'; alter role a_rejected password '{password}'")
        secret = own_server.query("select rolpassword from pg_authid where rolname = 'a_rejected'")[0][0]
        assert scram.password_fits(password.encode(), scram.parse_verifier(secret)), ascii(password)


# --- never weaker ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ASKED)
@pytest.mark.parametrize("pools_rule", ["trust", "password", "reject"])
def test_the_rule_for_the_frontend_decides_whatever_the_one_for_the_pool_is(restored, user, pools_rule):
    """The pool's own address is trusted, or asked something else: the frontend is asked all the same."""
    restored.set_hba(hba_lines(own=pools_rule))
    restored.reload()
    with MiniPool(restored, ADMIN, wants_worker=True, peer=Peer.at("10.1.2.3")) as pool:
        refused = log_in(pool.port, user, "wrong")
        assert refused == f'FATAL:  password authentication failed for user "{user}"\n'
        right = log_in(pool.port, user, ROLES[user][1])
        if pools_rule == "reject":
            assert "the pool cannot log in to the server" in right and "conn_params" in right
        elif pools_rule == "password" and user != "a_password":
            assert "asks for the password in clear text" in right
        else:
            assert right is None and pool.started == 1


def test_a_server_that_does_not_ask_after_all_is_noticed_and_the_pool_asks_itself(restored):
    """pg_hba.conf changes between the look-up and the worker's start."""

    def change():
        restored.set_hba(hba_lines(own="trust"))
        restored.reload()
        pool.before_start = lambda: None

    for password, error in (("wrong", 'FATAL:  password authentication failed for user "a_scram"\n'), (None, None)):
        restored.set_hba(hba_lines())
        restored.reload()
        with MiniPool(restored, ADMIN, wants_worker=True, before_start=lambda: in_thread(change)) as pool:
            assert log_in(pool.port, "a_scram", password or ROLES["a_scram"][1]) == error


def test_a_server_that_wants_the_password_in_clear_text_after_all_does_not_get_it(restored):
    def change():
        restored.set_hba(hba_lines(own="password"))
        restored.reload()
        pool.before_start = lambda: None

    asked: list[bytes] = []
    with MiniPool(restored, ADMIN, wants_worker=True, before_start=lambda: in_thread(change)) as pool:
        start_worker = pool.start_worker

        def watched(request: Any, answer: Any) -> str:
            def note(raw: bytes) -> bytes | None:
                said = answer(raw)
                asked.append(said)
                return said

            return start_worker(request, note)

        pool.start_worker = watched
        assert "asks for the password in clear text" in log_in(pool.port, "a_scram", ROLES["a_scram"][1])
    assert asked == []


def test_methods_that_nobody_can_check_here_are_refused_with_a_hint(own_server):
    with MiniPool(own_server, ADMIN) as pool:
        error = log_in(pool.port, "a_asked_by_ident", None)
    assert 'authentication method "ident" cannot be used through the pool' in error and "HINT" in error


def test_peer_on_a_unix_socket_is_the_operating_systems_user(restored):
    restored.write("pg_ident.conf", "m root a_trust\n")
    restored.set_hba(["local all a_trust peer map=m", "local all a_scram peer", "host all postgres 127.0.0.1/32 trust"])
    restored.reload()
    with MiniPool(restored, ADMIN, peer=Peer("unix", None, 0)) as pool:
        assert log_in(pool.port, "a_trust", None) is None
        assert log_in(pool.port, "a_scram", None) == 'FATAL:  Peer authentication failed for user "a_scram"\n'
    restored.write("pg_ident.conf", "")


def test_limits_of_a_role_are_counted_in_frontends(own_server):
    own_server.query("alter role a_trust connection limit 2")
    there = {"count": 1}
    with MiniPool(own_server, ADMIN, counts=lambda user, database: Counts(there["count"], 0)) as pool:
        assert log_in(pool.port, "a_trust", None) is None
        there["count"] = 2
        assert log_in(pool.port, "a_trust", None) == 'FATAL:  too many connections for role "a_trust"\n'
    own_server.query("alter role a_trust connection limit -1")


def test_a_database_of_the_pool_itself_is_guarded_by_the_same_rules(own_server):
    with MiniPool(own_server, ADMIN, is_virtual=True, wants_worker=True) as pool:
        assert log_in(pool.port, "a_scram", ROLES["a_scram"][1], "pseudo") is None
        assert "password authentication failed" in log_in(pool.port, "a_scram", "wrong", "pseudo")
        assert pool.started == 0


# --- drivers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ASKED)
@pytest.mark.parametrize("wants_worker", [True, False], ids=["relayed", "asked by the pool"])
def test_drivers_of_every_make_get_in(own_server, user, wants_worker):
    password = ROLES[user][1]

    def with_asyncpg(port):
        async def connect():
            connection = await asyncpg.connect(
                host="127.0.0.1", port=port, user=user, password=password, database="postgres", ssl=False
            )
            connection.terminate()

        asyncio.run(connect())

    with MiniPool(own_server, ADMIN, wants_worker=wants_worker) as pool:
        ways = {
            "psycopg": lambda: psycopg.connect(
                host="127.0.0.1", port=pool.port, user=user, password=password, dbname="postgres", autocommit=True
            ).close(),
            "pg8000": lambda: pg8000.dbapi.connect(
                host="127.0.0.1", port=pool.port, user=user, password=password, database="postgres"
            ).close(),
            "asyncpg": lambda: with_asyncpg(pool.port),
            "psql": lambda: run(
                own_server.bin / "psql", f"host=127.0.0.1 port={pool.port} user={user} password='{password}' "
                "dbname=postgres", "-c", "",
            ),
        }  # fmt: skip
        outcomes = {name: in_thread(way) for name, way in ways.items()}
        errors = {name: error for name, error in outcomes.items() if isinstance(error, Exception)}
        assert errors == {} and len(pool.admissions) == 4


def test_a_frontend_that_says_nothing_is_told_when_its_time_is_over(own_server):
    with MiniPool(own_server, ADMIN, auth_timeout_s=0.3) as pool:
        packet = b"user\0a_scram\0database\0postgres\0\0"
        def wait():
            with socket.create_connection(("127.0.0.1", pool.port)) as sock:
                sock.sendall((len(packet) + 8).to_bytes(4, "big") + (3 << 16).to_bytes(4, "big") + packet)
                said = b""
                while part := sock.recv(1000):
                    said += part
            return said

        assert b"canceling authentication due to timeout" in in_thread(wait)
        assert isinstance(pool.errors[0], LoginTimeout)


@pytest.mark.parametrize("answer", ["hangs up", "says nothing", "speaks nonsense"])
def test_what_a_frontend_does_wrong_while_the_server_asks_it_is_not_held_against_the_server(own_server, answer):
    """Who starts the worker counts PoolErrors, and a broken connection, as failures of the server."""
    seen: list[Exception] = []
    time_s = 0.5 if answer == "says nothing" else PATIENCE_S
    with MiniPool(own_server, ADMIN, wants_worker=True, auth_timeout_s=time_s) as pool:
        start_worker = pool.start_worker

        def watched(request: Any, relaying: Any) -> str:
            try:
                return start_worker(request, relaying)
            except Exception as error:
                seen.append(error)
                raise

        pool.start_worker = watched

        def misbehave():
            packet = b"user\0a_scram\0database\0postgres\0\0"
            with socket.create_connection(("127.0.0.1", pool.port)) as sock:
                sock.sendall((len(packet) + 8).to_bytes(4, "big") + (3 << 16).to_bytes(4, "big") + packet)
                said = sock.recv(1000)
                if answer == "speaks nonsense":
                    sock.sendall(b"Q\0\0\0\5\0")
                while answer != "hangs up" and (part := sock.recv(1000)):
                    said += part
            return said

        said = in_thread(misbehave)
        with gevent.Timeout(PATIENCE_S):
            while not seen:
                gevent.sleep(0.01)
        expected = {"hangs up": b"SCRAM", "says nothing": b"due to timeout", "speaks nonsense": b"got message type 81"}
        assert expected[answer] in said
    assert len(seen) == 1 and not isinstance(seen[0], (PoolError, EOFError))


# --- the server is down, frozen, full -------------------------------------------------------------------------------


def test_what_is_known_is_used_while_the_primary_is_down(restored):
    with MiniPool(restored, ADMIN) as pool:
        assert log_in(pool.port, "a_scram", ROLES["a_scram"][1]) is None
        restored.stop("immediate")
        assert log_in(pool.port, "a_scram", ROLES["a_scram"][1]) is None
        assert "password authentication failed" in log_in(pool.port, "a_scram", "wrong")
        pool.wants_worker = True
        assert log_in(pool.port, "a_scram", ROLES["a_scram"][1]) is None
        assert isinstance(pool.admissions[-1].no_worker, ServerUnreachable) and pool.started == 0


def test_a_login_waits_for_a_primary_that_nobody(restored):
    restored.stop("immediate")
    with MiniPool(restored, ADMIN, wants_worker=True) as pool:
        waiting = gevent.spawn(log_in, pool.port, "a_scram", ROLES["a_scram"][1])
        gevent.sleep(0.3)
        assert not waiting.ready()
        in_thread(restored.start)
        assert waiting.get(timeout=PATIENCE_S) is None and pool.started == 1


def test_a_login_gives_up_when_its_time_is_over(restored):
    restored.stop("immediate")
    with MiniPool(restored, ADMIN, auth_timeout_s=0.5) as pool:
        error = log_in(pool.port, "a_scram", "x")
    assert "no server can authenticate this connection" in error and "HINT" in error


def test_a_server_that_is_full_lets_the_pool_ask(restored):
    """The worker is refused before anybody was asked; whoever knows the password still comes in, and waits for one."""
    restored.query("alter system set max_connections = 12")
    restored.query("alter system set superuser_reserved_connections = 6")
    restored.restart()
    # Regular slots end, reserved ones do not: 53300 comes after the password then.
    taken = [restored.connect(user="a_trust", host="127.0.0.1") for _ in range(6)]
    with MiniPool(restored, ADMIN, wants_worker=True) as pool:
        assert "password authentication failed" in log_in(pool.port, "a_scram", "wrong")
        assert log_in(pool.port, "a_scram", ROLES["a_scram"][1]) is None
        assert pool.admissions[-1].no_worker.sqlstate == "53300"
    for connection in taken:
        connection.close()
    restored.query("alter system reset all")
    restored.restart()
