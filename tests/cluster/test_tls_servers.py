"""TLS on both sides, with a PostgreSQL that has it: each login is tried directly, and then through the pool.

PostgreSQL 15 of Debian, for that of the wheel is built without TLS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.certificates import Authority, Pair
from tests.cluster.test_tls import is_canceled
from tests.pooler import Pooler
from tests.servers import Server
from tests.workplace import give

pytestmark = pytest.mark.needs_debian

HBA = [
    "local all all trust",
    "host all postgres 127.0.0.1/32 trust",
    "hostssl all by_cert 127.0.0.1/32 cert",
    "hostssl all by_map 127.0.0.1/32 cert map=m",
    "hostssl all by_dn 127.0.0.1/32 cert clientname=DN map=d",
    "hostssl all password_too 127.0.0.1/32 scram-sha-256 clientcert=verify-full",
    "hostssl all with_any 127.0.0.1/32 scram-sha-256 clientcert=verify-ca",
    "hostssl all plus 127.0.0.1/32 scram-sha-256",
    "hostnossl all plain 127.0.0.1/32 scram-sha-256",
    "host all trusted 127.0.0.1/32 trust",
]
IDENT = 'm robert by_map\nd "CN=Ann\\, \\C3\\9C,O=Us" by_dn\n'
PASSWORDS = {name: f"secret of {name}" for name in ("password_too", "with_any", "plus", "plain")}
HASTY = {"query_wait_timeout": 1, "auth_timeout": 2}  # for who cannot be let in
CERTIFIED = ("by_cert", "by_map", "by_dn")


class World:
    """Two authorities, of which one is believed; a server, and what it and its clients show."""

    def __init__(self, where: Path) -> None:
        self.authority = Authority(where)
        self.stranger = Authority(where, "stranger")
        self.of_server = self.authority.issue(hosts=("localhost", "127.0.0.1"), kind="rsa", name="server")
        self.of_pool = self.authority.issue(hosts=("localhost", "127.0.0.1"), name="pool")
        self.shown = {
            "none": None, "by_cert": self.authority.issue("by_cert"), "robert": self.authority.issue("robert"),
            "password_too": self.authority.issue("password_too"), "ann": self.authority.issue("O=Us;CN=Ann, Ü"),
            "expired": self.authority.issue("by_cert", expired=True), "strange": self.stranger.issue("by_cert"),
        }  # fmt: skip
        self.server = Server("tls15", version=15, hba=HBA)
        for name, source in (
            ("server.crt", self.of_server.cert), ("server.key", self.of_server.key), ("root.crt", self.authority.cert)
        ):  # fmt: skip
            path = self.server.data / name
            path.write_bytes(source.read_bytes())
            path.chmod(0o600)
            give(path)
        self.server.configure(ssl="on", ssl_ca_file="root.crt")
        self.server.write("pg_ident.conf", IDENT)
        self.server.start()
        for name in (*PASSWORDS, *CERTIFIED, "trusted"):
            password = f"password '{PASSWORDS[name]}'" if name in PASSWORDS else ""
            self.server.query(f"create role {name} login {password}")

    def conf(self, **settings: Any) -> dict[str, Any]:
        return {
            "admin_cnn": {"user": "postgres"}, "master": ("localhost", self.server.port), "slaver": [],
            "client_tls_cert_file": str(self.of_pool.cert), "client_tls_key_file": str(self.of_pool.key),
            "client_tls_ca_file": str(self.authority.cert), **settings,
        }  # fmt: skip

    def log_in(self, port: int, user: str, shown: Pair | None = None, **more: Any) -> str | None:
        """Log in and run a statement; None, or the error without the address."""
        params = {
            "host": "localhost", "hostaddr": "127.0.0.1", "port": port, "user": user, "dbname": "postgres",
            "connect_timeout": 20, "sslmode": "verify-full", "sslrootcert": str(self.authority.cert),
            "password": PASSWORDS.get(user, "none"), "sslcert": "/nowhere", **(shown.libpq if shown else {}), **more,
        }  # fmt: skip
        try:
            with psycopg.connect(**params) as connection:
                assert connection.execute("select 1").fetchone() == (1,)
        except psycopg.Error as error:
            return re.sub(r".*port \d+ failed: *", "", str(error).partition("\nHINT")[0].strip(), flags=re.DOTALL)
        return None


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("certificates"))
    yield world
    world.server.remove()


@pytest.fixture(scope="module")
def pooler(world) -> Iterator[Pooler]:
    """Workers log in by their own: the rules for the pool's address are those of its clients, but cert ones."""
    passwords = [{"user": name, "password": password} for name, password in PASSWORDS.items()]
    settings = world.conf(
        conn_params=passwords, server_tls_cert_file=str(world.of_pool.cert), server_tls_key_file=str(world.of_pool.key)
    )
    with Pooler(settings, name="tls15") as pooler:
        yield pooler
        assert "Traceback" not in pooler.log


CASES = [
    ("by_cert", "by_cert"), ("by_cert", "robert"), ("by_cert", "none"),
    ("by_cert", "expired"), ("by_cert", "strange"),
    ("by_map", "robert"), ("by_map", "by_cert"), ("by_dn", "ann"), ("by_dn", "robert"),
    ("password_too", "password_too"), ("password_too", "robert"), ("password_too", "none"),
    ("with_any", "robert"), ("with_any", "none"), ("with_any", "strange"),
    ("plus", "none"), ("plus", "robert"), ("trusted", "none"), ("trusted", "expired"),
]  # fmt: skip


def without_alert(error: str | None) -> str | None:
    # With TLS 1.3 a client may learn of the alert only when it reads, or that the connection is gone.
    return "TLS" if error and ("alert" in error or "closed the connection" in error or "reset" in error) else error


@pytest.mark.parametrize(("user", "shown"), CASES)
def test_a_certificate_counts_at_the_pool_as_it_does_at_the_server(world, user, shown):
    directly = without_alert(world.log_in(world.server.port, user, world.shown[shown]))
    settings = world.conf(master=(world.server.unix_dir, world.server.port))
    pooled = without_alert(world.log_in(shared(world, settings).port, user, world.shown[shown]))
    assert pooled == directly


_shared: dict[int, Pooler] = {}


def shared(world: World, settings: dict[str, Any]) -> Pooler:
    """A pool whose workers come in by a Unix socket, without being asked."""
    if id(world) not in _shared:
        _shared[id(world)] = Pooler(settings, name="tls-unix").start()
    return _shared[id(world)]


@pytest.fixture(scope="module", autouse=True)
def end_of_shared() -> Iterator[None]:
    yield
    for pooler in _shared.values():
        pooler.stop()
    _shared.clear()


def test_channel_binding_can_be_required(world, pooler):
    for port in (world.server.port, pooler.port):
        assert world.log_in(port, "plus", channel_binding="require") is None
        refused = world.log_in(port, "plus", channel_binding="require", password="x")
        assert "password authentication failed" in str(refused)


def test_a_client_without_tls_is_relayed_to_a_server_with_it(world, pooler):
    """Its server offers SCRAM-SHA-256-PLUS to the pool, which libpq would take for an attack on an open connection."""
    world.server.set_hba([*HBA, "host all plain 127.0.0.1/32 scram-sha-256"])
    world.server.reload()
    with Pooler(world.conf(), name="tls-relay") as relaying:
        assert world.log_in(relaying.port, "plain", sslmode="disable") is None
        assert "password authentication failed" in str(
            world.log_in(relaying.port, "plain", sslmode="disable", password="x")
        )
    world.server.set_hba(HBA)
    world.server.reload()


def tls_of(world: World, column: str, value: str) -> set[bool]:
    sql = f"select ssl from pg_stat_ssl join pg_stat_activity using (pid) where {column} = %s"
    return {row[0] for row in world.server.query(sql, [value])}


@pytest.mark.parametrize(
    ("mode", "encrypted"), [("disable", False), ("allow", False), ("prefer", True), ("require", True)]
)
def test_workers_use_tls_as_they_are_told(world, mode, encrypted):
    world.server.query(f"create database mode_{mode}")
    admin = {"user": "postgres", "application_name": f"admin {mode}"}
    with Pooler(world.conf(server_tls_sslmode=mode, admin_cnn=admin), name="tls-mode") as pooler:
        assert world.log_in(pooler.port, "trusted", dbname=f"mode_{mode}") is None
        workers = "usename || datname", f"trustedmode_{mode}"
        assert tls_of(world, *workers) == tls_of(world, "application_name", f"admin {mode}") == {encrypted}


@pytest.mark.parametrize("mode", ["allow", "prefer"])
def test_a_server_that_wants_tls_or_its_absence_is_met(world, mode):
    rules = {"hostssl": True, "hostnossl": False}
    for kind, encrypted in rules.items():
        database = f"{mode}_{kind}"
        world.server.query(f"create database {database}")
        world.server.set_hba(["local all all trust", "host all postgres all trust", f"{kind} all trusted all trust"])
        world.server.reload()
        client = {"sslmode": "verify-full" if encrypted else "disable"}
        with Pooler(world.conf(server_tls_sslmode=mode), name="tls-met") as pooler:
            assert world.log_in(pooler.port, "trusted", dbname=database, **client) is None
            assert tls_of(world, "usename || datname", f"trusted{database}") == {encrypted}
    world.server.set_hba(HBA)
    world.server.reload()


def test_servers_are_checked(world):
    def outcome(**settings: Any) -> str | None:
        own = {"admin_cnn": {"user": "postgres", "sslmode": "prefer"}}
        with Pooler(world.conf(**own, **settings), name="tls-checked") as pooler:
            error = world.log_in(pooler.port, "trusted")
            return f"{error} {pooler.log}" if error else None

    here, elsewhere = str(world.authority.cert), str(world.stranger.cert)
    by_name, by_address = ("localhost", world.server.port), ("127.0.0.1", world.server.port)
    assert outcome(server_tls_sslmode="verify-full", server_tls_ca_file=here, master=by_name) is None
    assert outcome(server_tls_sslmode="verify-full", server_tls_ca_file=here, master=by_address) is None
    refused = str(outcome(server_tls_sslmode="verify-ca", server_tls_ca_file=elsewhere, **HASTY))
    assert "certificate verify failed" in refused and "no TLS with server localhost" in refused
    assert "certificate verify failed" in str(
        outcome(server_tls_sslmode="require", server_tls_ca_file=elsewhere, **HASTY)
    )
    assert outcome(server_tls_sslmode="prefer", server_tls_ca_file=elsewhere) is None


def test_a_server_whose_certificate_is_revoked_is_refused(world):
    lists = world.authority.where / "servers.crl"
    checked = {
        "server_tls_sslmode": "verify-full", "server_tls_ca_file": str(world.authority.cert),
        "server_tls_crl_file": str(lists), "admin_cnn": {"user": "postgres", "sslmode": "prefer"},
    }  # fmt: skip
    for revoked, is_refused in (([], False), ([world.of_server], True)):
        lists.write_bytes(world.authority.revokes(*revoked))
        with Pooler(world.conf(**checked, **(HASTY if is_refused else {})), name="tls-revoked") as pooler:
            assert (world.log_in(pooler.port, "trusted") is not None) == is_refused
            if is_refused:
                pooler.wait_said("certificate revoked")
            assert ("certificate revoked" in pooler.log) == is_refused


def test_servers_are_spoken_to_with_the_version_and_ciphers_of_the_settings(world):
    cipher = "ECDHE-RSA-AES128-GCM-SHA256"
    world.server.query("create database old")
    admin = {"user": "postgres", "application_name": "admin of old"}
    chosen = {"server_tls_sslmode": "require", "server_tls_protocols": "tlsv1.2", "server_tls_ciphers": cipher}
    with Pooler(world.conf(admin_cnn=admin, **chosen), name="tls-old") as pooler:
        assert world.log_in(pooler.port, "trusted", dbname="old") is None
        used = "select version, cipher from pg_stat_ssl join pg_stat_activity using (pid) where "
        assert world.server.query(used + "usename = 'trusted' and datname = 'old'") == [("TLSv1.2", cipher)]
        assert {row[0] for row in world.server.query(used + "application_name = 'admin of old'")} == {"TLSv1.2"}


def test_a_certificate_for_another_host_is_refused_by_verify_full_only(world):
    other = world.authority.issue("elsewhere", hosts=("elsewhere",), kind="rsa")
    for name, source in (("server.crt", other.cert), ("server.key", other.key)):
        (world.server.data / name).write_bytes(source.read_bytes())
    world.server.reload()
    checked = {"server_tls_ca_file": str(world.authority.cert)}
    try:
        with Pooler(world.conf(server_tls_sslmode="verify-ca", **checked), name="tls-ca") as pooler:
            assert world.log_in(pooler.port, "trusted") is None
        checked["admin_cnn"] = {"user": "postgres", "sslmode": "require"}
        with Pooler(world.conf(server_tls_sslmode="verify-full", **checked, **HASTY), name="tls-full") as pooler:
            assert world.log_in(pooler.port, "trusted") is not None
            pooler.wait_said('the server certificate is not for host name "localhost"')
    finally:
        for name, source in (("server.crt", world.of_server.cert), ("server.key", world.of_server.key)):
            (world.server.data / name).write_bytes(source.read_bytes())
        world.server.reload()


def test_tls_that_is_required_and_not_there_is_said(world):
    world.server.query("alter system set ssl = off")
    world.server.reload()
    admin = {"user": "postgres", "sslmode": "disable"}
    settings = world.conf(server_tls_sslmode="require", admin_cnn=admin, **HASTY)
    try:
        with Pooler(settings, name="tls-missing") as pooler:
            assert world.log_in(pooler.port, "trusted") is not None
            pooler.wait_said("does not support SSL, but SSL was required")
    finally:
        world.server.query("alter system reset ssl")
        world.server.reload()


@pytest.mark.parametrize("mode", ["statement", "session"])
def test_cancel_requests_reach_the_server_by_tls(world, mode):
    world.server.query(f"create database cancel_{mode}")
    with (
        Pooler(world.conf(server_tls_sslmode="require", pool_mode=mode), name="tls-cancel") as pooler,
        psycopg.connect(
            host="127.0.0.1", port=pooler.port, user="trusted", dbname=f"cancel_{mode}", sslmode="require",
            autocommit=True,
        ) as connection,
    ):
        is_canceled(world.server, connection)
        assert tls_of(world, "datname", f"cancel_{mode}") == {True}


def test_big_answers_come_whole_from_a_server_with_tls(world, pooler):
    with psycopg.connect(
        host="127.0.0.1", port=pooler.port, user="trusted", dbname="postgres", sslmode="require", autocommit=True
    ) as connection:
        rows = connection.execute("select repeat(n::text, 1000) from generate_series(1, 20000) n").fetchall()
        assert [row[0] for row in rows] == [str(n) * 1000 for n in range(1, 20001)]
        long = "x" * 3_000_000
        assert connection.execute("select length(%s::text)", [long]).fetchone() == (3_000_000,)
