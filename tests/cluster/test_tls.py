"""TLS between frontends and the pool: real clients of several makes, and what goes wrong on purpose."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest

from lib.wire import messages
from tests.certificates import Authority, Pair
from tests.pooler import Pooler
from tests.servers import Server
from tests.workplace import ServerFailed, wait_until

SSL_REQUEST = struct.pack("!II", 8, messages.SSL_CODE)
# The server of the wheel has no TLS: the pool comes to it on its Unix socket, and its rules are for the frontends.
HBA = [
    "local all all trust",
    "host all postgres 127.0.0.1/32 trust",
    "hostssl all only_tls 127.0.0.1/32 scram-sha-256",
    "hostnossl all only_plain 127.0.0.1/32 scram-sha-256",
    "host all anyhow 127.0.0.1/32 scram-sha-256",
    "host all by_md5 127.0.0.1/32 md5",
    "host all by_password 127.0.0.1/32 password",
    "host all trusted 127.0.0.1/32 trust",
]
PASSWORDS = {name: f"secret of {name}" for name in ("only_tls", "only_plain", "anyhow", "by_md5", "by_password")}
REFUSED = "no pg_hba.conf entry"


@pytest.fixture(scope="module")
def where(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(where) -> Authority:
    return Authority(where)


@pytest.fixture(scope="module")
def shown(authority) -> Pair:
    """What the pool shows its frontends."""
    return authority.issue(hosts=("localhost", "127.0.0.1"), name="pool")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("tls", hba=HBA) as server:
        for name in (*PASSWORDS, "trusted"):
            stored = "md5" if name == "by_md5" else "scram-sha-256"
            password = f"password '{PASSWORDS[name]}'" if name in PASSWORDS else ""
            server.query(f"set password_encryption = '{stored}'; create role {name} login {password}")
        yield server


def conf(server: Server, shown: Pair, **settings: Any) -> dict[str, Any]:
    return {
        "admin_cnn": {"user": "postgres"}, "master": (server.unix_dir, server.port), "slaver": [],
        "client_tls_cert_file": str(shown.cert), "client_tls_key_file": str(shown.key), **settings,
    }  # fmt: skip


@pytest.fixture(scope="module")
def pooler(server, shown) -> Iterator[Pooler]:
    with Pooler(conf(server, shown), name="tls") as pooler:
        yield pooler
        assert "Traceback" not in pooler.log


def params(pooler: Pooler, user: str = "anyhow", **more: Any) -> dict[str, Any]:
    own = {"host": "127.0.0.1", "port": pooler.port, "user": user, "dbname": "postgres", "connect_timeout": 20}
    return {**own, **({"password": PASSWORDS[user]} if user in PASSWORDS else {}), **more}


def log_in(pooler: Pooler, user: str = "anyhow", **more: Any) -> str | None:
    """Log in and run a statement; None, or the error."""
    try:
        with psycopg.connect(**params(pooler, user, **more)) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    except psycopg.Error as error:
        return str(error)
    return None


class Raw:
    """A TLS client that is made of Python's ssl, and does what it is told."""

    def __init__(self, pooler: Pooler, *, is_direct: bool = False, context: ssl.SSLContext | None = None) -> None:
        self.sock = socket.create_connection((pooler.host, pooler.port), 20)
        if not is_direct:
            self.sock.sendall(SSL_REQUEST)
            assert self.sock.recv(1) == b"S"
        self.tls = (context or trusting()).wrap_socket(self.sock, server_hostname="localhost")

    def start_up(self, user: str = "trusted") -> bytes:
        self.tls.sendall(messages.startup_packet({"user": user, "database": "postgres"}))
        return self.read_until(messages.READY[b"I"])

    def read_until(self, end: bytes) -> bytes:
        said = bytearray()
        while not said.endswith(end) and (data := self.tls.recv(65536)):
            said += data
        return bytes(said)

    def query(self, text: str) -> bytes:
        self.tls.sendall(messages.query(text))
        return self.read_until(messages.READY[b"I"])

    def close(self) -> None:
        self.tls.close()


def is_canceled(server: Server, connection: psycopg.Connection) -> None:
    """Have a statement run until it is canceled."""
    runs = "select 1 from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"

    def cancel() -> None:
        wait_until(lambda: server.query(runs), 30)
        connection.cancel_safe()

    canceling = threading.Thread(target=cancel)
    canceling.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("select pg_sleep(60)")
    canceling.join()


def trusting(alpn: str | None = "postgresql") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols([alpn])
    return context


# --- who gets in -----------------------------------------------------------------------------------------------------


def test_libpq_gets_in_with_every_sslmode(pooler, authority):
    for mode in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"):
        assert log_in(pooler, sslmode=mode, sslrootcert=str(authority.cert), host="localhost") is None, mode


@pytest.mark.parametrize("user", ["anyhow", "by_md5", "by_password", "only_tls"])
def test_every_method_works_over_tls(pooler, user):
    assert log_in(pooler, user, sslmode="require") is None
    assert "password authentication failed" in str(log_in(pooler, user, sslmode="require", password="wrong"))


def test_rules_for_encrypted_and_for_plain_connections_are_honoured(pooler):
    assert log_in(pooler, "only_tls", sslmode="require") is None
    assert log_in(pooler, "only_plain", sslmode="disable") is None
    refused = str(log_in(pooler, "only_tls", sslmode="disable"))
    assert f'{REFUSED} for host "127.0.0.1", user "only_tls", database "postgres", no encryption' in refused
    refused = str(log_in(pooler, "only_plain", sslmode="require"))
    assert f'{REFUSED} for host "127.0.0.1", user "only_plain", database "postgres", SSL encryption' in refused


def test_psycopg2_and_asyncpg_get_in(pooler):
    with psycopg2.connect(**params(pooler, sslmode="require")) as connection, connection.cursor() as cursor:
        cursor.execute("select 2")
        assert cursor.fetchone() == (2,)
    connection.close()

    async def ask(**how: Any) -> int:
        asked = await asyncpg.connect(
            host="127.0.0.1", port=pooler.port, user="anyhow", password=PASSWORDS["anyhow"], database="postgres", **how
        )
        try:
            return await asked.fetchval("select 3")
        finally:
            await asked.close()

    assert asyncio.run(ask(ssl="require")) == 3
    assert asyncio.run(ask(ssl=trusting(), direct_tls=True)) == 3


def test_libpq_may_begin_with_tls_at_once(pooler):
    assert log_in(pooler, sslmode="require", sslnegotiation="direct") is None


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_both_versions_of_tls_are_spoken(pooler, version):
    how = {"ssl_min_protocol_version": version, "ssl_max_protocol_version": version}
    with psycopg.connect(**params(pooler, sslmode="require", **how)) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_unix_sockets_have_no_tls(pooler):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{pooler.unix_dir}/.s.PGSQL.{pooler.port}")
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"N"


def test_cancel_requests_come_encrypted_too(pooler, server):
    with psycopg.connect(**params(pooler, "trusted", sslmode="require"), autocommit=True) as connection:
        is_canceled(server, connection)


def test_gss_is_refused_and_tls_then_taken(pooler):
    with socket.create_connection((pooler.host, pooler.port), 20) as sock:
        sock.sendall(struct.pack("!II", 8, messages.GSSENC_CODE))
        assert sock.recv(1) == b"N"
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"S"


# --- what goes through -----------------------------------------------------------------------------------------------


def test_big_answers_and_big_statements_arrive_whole(pooler):
    with psycopg.connect(**params(pooler, sslmode="require"), autocommit=True) as connection:
        rows = connection.execute("select repeat(n::text, 1000) from generate_series(1, 20000) n").fetchall()
        assert [row[0] for row in rows] == [str(n) * 1000 for n in range(1, 20001)]
        long = "x" * 3_000_000
        assert connection.execute("select length(%s::text), md5(%s::text) = md5(repeat('x', 3000000))", [long, long]) \
            .fetchone() == (3_000_000, True)


def test_an_answer_that_is_not_read_does_not_fill_the_memory(pooler, server):
    raw = Raw(pooler)
    raw.start_up()
    before = pooler.rss_bytes()
    raw.tls.sendall(messages.query("select repeat('x', 1000) from generate_series(1, 80000)"))
    stuck = "select 1 from pg_stat_activity where usename = 'trusted' and wait_event = 'ClientWrite'"
    wait_until(lambda: server.query(stuck))
    assert pooler.rss_bytes() - before < 20_000_000
    assert len(raw.read_until(messages.READY[b"I"])) > 80_000_000
    raw.close()


def test_pgbench_runs_over_tls(pooler, server):
    """psql and pgbench of the wheel have no TLS, so that this is asyncpg with many statements on their way."""

    async def work(connection: asyncpg.Connection, number: int) -> None:
        for turn in range(100):
            assert await connection.fetchval("select $1::int + 1", number * turn) == number * turn + 1

    async def run() -> None:
        connections = [
            await asyncpg.connect(
                host="127.0.0.1", port=pooler.port, user="trusted", database="postgres", ssl="require"
            )
            for _ in range(20)
        ]
        await asyncio.gather(*(work(connection, number) for number, connection in enumerate(connections)))
        for connection in connections:
            await connection.close()

    asyncio.run(run())


# --- what goes wrong -------------------------------------------------------------------------------------------------


def ends(sock: socket.socket) -> bytes:
    """What is still said before the end."""
    said = b""
    with suppress(OSError):
        while data := sock.recv(65536):
            said += data
    return said


def test_direct_tls_has_to_name_the_protocol(pooler):
    context = trusting(alpn=None)
    with suppress(OSError):
        raw = Raw(pooler, is_direct=True, context=context)
        raw.tls.sendall(messages.startup_packet({"user": "trusted", "database": "postgres"}))
        assert raw.tls.recv(1000) == b""
    wait_until(lambda: "without ALPN protocol negotiation extension" in pooler.log)


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01" + b"garbage" * 100, b"\x16" + bytes(100)], ids=["text", "zeros"])
def test_garbage_in_the_place_of_a_handshake_ends_the_connection_and_nothing_else(pooler, garbage):
    for request in (SSL_REQUEST, b""):
        with socket.create_connection((pooler.host, pooler.port), 20) as sock:
            if request:
                sock.sendall(request)
                assert sock.recv(1) == b"S"
            sock.sendall(garbage)
            assert b"FATAL" not in ends(sock)
    assert log_in(pooler, sslmode="require") is None


def test_what_comes_unencrypted_behind_the_request_is_refused(pooler):
    with socket.create_connection((pooler.host, pooler.port), 20) as sock:
        sock.sendall(SSL_REQUEST + messages.startup_packet({"user": "trusted", "database": "postgres"}))
        assert b"received unencrypted data after SSL request" in ends(sock)


@pytest.mark.parametrize("code", [messages.SSL_CODE, messages.GSSENC_CODE])
def test_encryption_is_not_asked_for_twice(pooler, code):
    raw = Raw(pooler)
    raw.tls.sendall(struct.pack("!II", 8, code))
    assert f"unsupported frontend protocol 1234.{code & 0xFFFF}".encode() in raw.read_until(b"\0\0")
    raw.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_an_old_version_of_tls_is_refused(pooler):
    context = trusting()
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Raw(pooler, context=context)
    wait_until(lambda: "unsupported protocol" in pooler.log)


def test_garbage_after_the_handshake_ends_the_connection_and_nothing_else(pooler):
    raw = Raw(pooler)
    raw.start_up()
    os.write(raw.tls.fileno(), b"\x17\x03\x03\x00\x30" + os.urandom(48))
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        raw.read_until(b"-")
    raw.close()
    assert log_in(pooler, sslmode="require") is None


def test_a_goodbye_of_tls_is_answered_with_one(pooler):
    raw = Raw(pooler)
    raw.start_up()
    raw.tls.sendall(messages.TERMINATE)
    raw.tls.unwrap()  # raises when the connection ends without it
    raw.sock.close()


def test_tls_that_is_begun_and_not_ended_is_closed_in_time(server, shown):
    with Pooler(conf(server, shown, auth_timeout=1.5), name="tls-late") as pooler:
        for beginning in (SSL_REQUEST, b"\x16\x03\x01"):
            with socket.create_connection((pooler.host, pooler.port), 20) as sock:
                sock.sendall(beginning)
                assert ends(sock) in (b"S", b"")
        raw = Raw(pooler)
        assert b"canceling authentication due to timeout" in raw.read_until(b"\0\0")
        raw.close()


def test_whoever_vanishes_in_a_handshake_leaves_nothing_behind(pooler):
    before = pooler.open_fds()
    for size in (1, 5, 50, 200):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        hello = trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with suppress(ssl.SSLWantReadError):
            hello.do_handshake()
        with socket.create_connection((pooler.host, pooler.port), 20) as sock:
            sock.sendall(outgoing.read()[:size])
    wait_until(lambda: pooler.open_fds() <= before)


# --- settings --------------------------------------------------------------------------------------------------------


def test_without_a_certificate_there_is_no_tls(server):
    plain = {"admin_cnn": {"user": "postgres"}, "master": (server.unix_dir, server.port), "slaver": []}
    with Pooler(plain, name="no-tls") as pooler:
        assert log_in(pooler, "trusted", sslmode="prefer") is None
        assert "server does not support SSL" in str(log_in(pooler, "trusted", sslmode="require"))
        with socket.create_connection((pooler.host, pooler.port), 20) as sock:
            sock.sendall(b"\x16\x03\x01\x00\x10" + bytes(16))
            assert b"invalid length of startup packet" in ends(sock)


def test_tls_may_be_required_of_everybody_but_on_unix_sockets(server, shown):
    with Pooler(conf(server, shown, client_tls_sslmode="require"), name="tls-required") as pooler:
        assert "SSL required" in str(log_in(pooler, sslmode="disable"))
        assert log_in(pooler, sslmode="prefer") is None
        with psycopg.connect(**params(pooler, "trusted", host=pooler.unix_dir)) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_a_revoked_certificate_is_refused_as_soon_as_the_list_says_so(server, shown, authority):
    robbed, careful = authority.issue("trusted"), authority.issue("trusted")
    lists = authority.where / "revoked.crl"
    lists.write_bytes(authority.revokes(robbed))
    settings = conf(server, shown, client_tls_ca_file=str(authority.cert), client_tls_crl_file=str(lists))
    with Pooler(settings, name="tls-revoked") as pooler:

        def is_let_in(pair: Pair) -> bool:
            return log_in(pooler, "trusted", sslmode="require", **pair.libpq) is None

        assert is_let_in(careful) and not is_let_in(robbed)
        assert log_in(pooler, "trusted", sslmode="require") is None  # nobody has to show one
        pooler.wait_said("certificate revoked")
        lists.write_bytes(authority.revokes(robbed, careful))
        wait_until(lambda: not is_let_in(careful), 30, "the new list to be used")


def test_versions_and_ciphers_are_those_of_the_settings(server, shown):
    cipher = "ECDHE-ECDSA-AES128-GCM-SHA256"
    settings = conf(server, shown, client_tls_protocols="tlsv1.2", client_tls_ciphers=cipher)
    with Pooler(settings, name="tls-old") as pooler:
        raw = Raw(pooler)
        assert (raw.tls.version(), (raw.tls.cipher() or ("",))[0]) == ("TLSv1.2", cipher)
        raw.close()
        for option in ({"minimum_version": ssl.TLSVersion.TLSv1_3}, {"ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"}):
            context = trusting()
            context.minimum_version = option.get("minimum_version", context.minimum_version)
            context.set_ciphers(option.get("ciphers", "DEFAULT"))
            with pytest.raises(ssl.SSLError):
                Raw(pooler, context=context)
    with Pooler(conf(server, shown, client_tls_protocols="tlsv1.3"), name="tls-new") as pooler:
        raw = Raw(pooler)
        assert raw.tls.version() == "TLSv1.3"
        raw.close()
        assert "protocol version" in str(log_in(pooler, sslmode="require", ssl_max_protocol_version="TLSv1.2"))


def test_ciphers_that_nobody_knows_are_said_at_the_start(server, shown):
    with pytest.raises(ServerFailed, match="client_tls_ciphers is 'NO-SUCH': OpenSSL knows none of these"):
        Pooler(conf(server, shown, client_tls_ciphers="NO-SUCH"), name="tls-none").start()


def test_a_pool_whose_certificate_cannot_be_used_does_not_start(server, shown, authority):
    other = authority.issue()
    for key, words in ((str(other.key), "key values mismatch"), ("/nowhere/pool.key", "No such file")):
        pooler = Pooler(conf(server, shown, client_tls_key_file=key), name="tls-broken")
        pooler.write_conf()
        done = subprocess.run(
            [str(Path(psycopg.__file__).parents[4] / "bin" / "python"), "pgstmtpool.py", str(pooler.conf_path)],
            cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1 and words in done.stderr


# --- reload ----------------------------------------------------------------------------------------------------------


def shown_by(pooler: Pooler) -> bytes:
    raw = Raw(pooler)
    try:
        return raw.tls.getpeercert(binary_form=True)
    finally:
        raw.close()


def test_a_new_certificate_is_shown_without_dropping_anybody(server, authority):
    pair = authority.issue(name="renewed")
    with Pooler(conf(server, pair), name="tls-reload") as pooler:
        early = Raw(pooler)
        early.start_up()
        first = shown_by(pooler)
        good = pair.cert.read_text()
        pair.cert.write_text("not a certificate\n")
        wait_until(lambda: "cannot be used, so nothing changes" in pooler.log)
        assert shown_by(pooler) == first
        authority.issue("another", name="renewed")
        wait_until(lambda: shown_by(pooler) != first)
        assert b"SELECT 1" in early.query("select 'still here'")
        pooler.wait_said("are used from now on")
        assert good != pair.cert.read_text()
        early.close()
