"""Proxies in front of the pool: who comes through one is the client behind it, and nobody else can pretend to be."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from lib.wire import messages
from tests.certificates import Authority
from tests.cluster.test_tls import SSL_REQUEST, trusting
from tests.pooler import Pooler
from tests.servers import Server
from tests.workplace import NotThere, free_port, wait_until, workplace

PROXY = "127.0.0.2"  # only what comes from here speaks for others
HBA = [
    "local all all trust",
    "host all postgres 127.0.0.1/32 trust",
    f"host all all {PROXY}/32 reject",
    "host all far 10.9.9.0/24 trust",
    "hostssl all far_tls 10.9.9.0/24 trust",
    "host all far fd09::/64 trust",
    "host all near 127.0.0.1/32 trust",
]
LINE = b"PROXY TCP4 10.9.9.1 10.0.0.1 40000 7777\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
VIOLATION = b"C08P01"


def binary(source: str, command: int = 0x21, tlvs: bytes = b"") -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    address = socket.inet_pton(family, source)
    body = address + address + struct.pack("!HH", 40000, 7777) + tlvs
    return SIGNATURE + struct.pack("!BBH", command, 0x21 if ":" in source else 0x11, len(body)) + body


def startup(user: str) -> bytes:
    return messages.startup_packet({"user": user, "database": "postgres"})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("proxy", hba=HBA) as server:
        for name in ("far", "far_tls", "near"):
            server.query(f"create role {name} login")
        yield server


@pytest.fixture(scope="module")
def pooler(server, tmp_path_factory) -> Iterator[Pooler]:
    shown = Authority(tmp_path_factory.mktemp("certificates")).issue()
    conf = {
        "admin_cnn": {"user": "postgres"}, "master": (server.unix_dir, server.port), "slaver": [],
        "client_tls_cert_file": str(shown.cert), "client_tls_key_file": str(shown.key),
        "proxy_networks": [PROXY, "unix"], "log_level": "debug",
    }  # fmt: skip
    with Pooler(conf, name="proxied") as pooler:
        yield pooler
        assert "Traceback" not in pooler.log


def call(pooler: Pooler, source: str) -> socket.socket:
    return socket.create_connection((pooler.host, pooler.port), 20, (source, 0))


def said(pooler: Pooler, *parts: bytes, source: str = PROXY) -> bytes:
    """What is answered up to ReadyForQuery or to the end."""
    with call(pooler, source) as sock:
        for part in parts:
            sock.sendall(part)
        return listen(sock)


def listen(sock: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionError):
        while not answer.endswith(messages.READY[b"I"]) and (data := sock.recv(65536)):
            answer += data
    return answer


def is_in(answer: bytes) -> bool:
    return answer.endswith(messages.READY[b"I"])


# --- whose address counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [LINE, binary("10.9.9.1"), binary("10.9.9.1", tlvs=b"\x05\0\x03abc" * 20), binary("fd09::7")],
    ids=["v1", "v2", "v2 with TLVs", "v2 with IPv6"],
)
def test_the_address_in_the_header_is_the_one_that_the_rules_are_for(pooler, header):
    assert is_in(said(pooler, header, startup("far")))
    assert is_in(said(pooler, header + startup("far")))
    assert b'no pg_hba.conf entry for host "' in said(pooler, header, startup("near"))


def test_a_header_may_come_byte_by_byte(pooler):
    for header in (LINE, binary("10.9.9.1")):
        assert is_in(said(pooler, *(header[at : at + 1] for at in range(len(header))), startup("far")))


def test_the_log_names_the_client_behind_the_proxy(pooler):
    assert is_in(said(pooler, binary("10.9.9.77"), startup("far")))
    wait_until(lambda: "10.9.9.77:40000 far@postgres" in pooler.log)


def test_a_proxy_that_speaks_for_itself_is_itself(pooler):
    refused = said(pooler, binary("10.9.9.1", command=0x20), startup("far"))
    assert f'pg_hba.conf rejects connection for host "{PROXY}"'.encode() in refused
    assert f'rejects connection for host "{PROXY}"'.encode() in said(pooler, b"PROXY UNKNOWN\r\n", startup("far"))


def test_a_proxy_on_a_unix_socket_speaks_for_others_too(pooler):
    def by_unix(header: bytes, user: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{pooler.unix_dir}/.s.PGSQL.{pooler.port}")
            sock.sendall(header + startup(user))
            return listen(sock)

    assert is_in(by_unix(LINE, "far"))
    assert b'no pg_hba.conf entry for host "10.9.9.1"' in by_unix(LINE, "near")
    assert is_in(by_unix(binary("10.9.9.1", command=0x20), "near"))  # itself, and so local
    assert VIOLATION in by_unix(b"", "near")


def test_tls_comes_behind_the_header(pooler):
    for is_direct in (False, True):
        with call(pooler, PROXY) as sock:
            sock.sendall(LINE)
            if not is_direct:
                sock.sendall(SSL_REQUEST)
                assert sock.recv(1) == b"S"
            with trusting().wrap_socket(sock, server_hostname="localhost") as tls:
                tls.sendall(startup("far_tls"))
                assert is_in(listen(tls))
    assert b"no encryption" in said(pooler, LINE, startup("far_tls"))


def test_a_cancel_request_may_come_through_the_proxy(pooler, server):
    with call(pooler, PROXY) as sock:
        sock.sendall(LINE + startup("far"))
        greeting = listen(sock)
        at = greeting.index(b"K\0\0\0\x0c")
        sock.sendall(messages.query("select pg_sleep(60)"))
        runs = "select 1 from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"
        wait_until(lambda: server.query(runs))
        with call(pooler, PROXY) as other:
            key = messages.read_backend_key_data(greeting[at : at + 13])
            other.sendall(binary("10.9.9.1") + messages.cancel_request(*key))
            assert other.recv(1) == b""
        assert b"C57014" in listen(sock)


# --- who may not -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [LINE, binary("10.9.9.1")], ids=["v1", "v2"])
def test_from_elsewhere_a_header_is_refused(pooler, header):
    refused = said(pooler, header, startup("far"), source="127.0.0.1")
    assert VIOLATION in refused and b"FATAL" in refused and b"not in proxy_networks" in refused
    pooler.wait_said("a PROXY header from 127.0.0.1:")


def test_from_elsewhere_no_header_is_needed(pooler):
    assert is_in(said(pooler, startup("near"), source="127.0.0.1"))


@pytest.mark.parametrize(
    "beginning",
    [
        startup("near"), SSL_REQUEST + bytes(8), b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"PROXY TCP4 10.9.9.1 10.0.0.1\r\n", b"PROXY TCP4 " + b"1" * 200, b"PROXY " + bytes(200),
        SIGNATURE[:11] + b"x\x21\x11\0\0", SIGNATURE + b"\x31\x11\0\x0c" + bytes(12), SIGNATURE + b"\x21\x11\0\4abcd",
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
    ids=[
        "none", "an SSLRequest", "a handshake", "cut", "too long", "zeros", "another signature", "another version",
        "too short", "too long and binary",
    ],
)  # fmt: skip
def test_a_header_that_is_missing_or_malformed_is_refused(pooler, beginning):
    refused = said(pooler, beginning)
    assert VIOLATION in refused and b"PROXY header" in refused


def test_whoever_vanishes_in_a_header_leaves_nothing_behind(pooler):
    before = pooler.open_fds()
    for header in (LINE, binary("10.9.9.1")):
        for size in (1, 7, 9, 20):
            with call(pooler, PROXY) as sock:
                sock.sendall(header[:size])
    wait_until(lambda: pooler.open_fds() <= before)


# --- haproxy itself --------------------------------------------------------------------------------------------------

HAPROXY_CONF = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen version1
    bind 127.0.0.1:{ports[0]}
    server pool {host}:{port} source {proxy} send-proxy
listen version2
    bind 127.0.0.1:{ports[1]}
    server pool {host}:{port} source {proxy} send-proxy-v2 check inter 200ms
listen through_a_unix_socket
    bind 127.0.0.1:{ports[2]}
    server pool unix@{unix} send-proxy-v2-ssl-cn
"""


@pytest.fixture(scope="module")
def haproxy(pooler) -> Iterator[list[int]]:
    """Ports of three ways through a haproxy."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        raise NotThere("haproxy is not installed: apt-get install haproxy")
    ports = [free_port() for _ in range(3)]
    path = workplace().new_path("haproxy.cfg")
    unix = f"{pooler.unix_dir}/.s.PGSQL.{pooler.port}"
    path.write_text(HAPROXY_CONF.format(ports=ports, host=pooler.host, port=pooler.port, proxy=PROXY, unix=unix))
    process = subprocess.Popen([program, "-db", "-f", path], stderr=subprocess.PIPE)
    workplace().at_end[id(process)] = process.kill

    def listens() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            socket.create_connection(("127.0.0.1", ports[2])).close()
        except ConnectionRefusedError:
            return False
        return True

    wait_until(listens, what="haproxy to listen")
    yield ports
    process.kill()
    process.wait()
    workplace().at_end.pop(id(process))


def ask_as(user: str, port: int, **more: Any) -> tuple:
    with psycopg.connect(
        host="127.0.0.1", port=port, user=user, dbname="postgres", connect_timeout=20, **more
    ) as connection:
        return connection.execute("select current_user").fetchone()


@pytest.mark.needs_debian
@pytest.mark.parametrize("sslmode", ["disable", "require"])
@pytest.mark.parametrize("way", [0, 1, 2], ids=["v1", "v2", "v2 by Unix socket"])
def test_clients_of_haproxy_are_themselves(pooler, haproxy, way, sslmode):
    """A direct connection from the proxy's address is rejected, and its clients here are 127.0.0.1."""
    assert ask_as("near", haproxy[way], sslmode=sslmode) == ("near",)
    with pytest.raises(psycopg.OperationalError, match=r'entry for host "127.0.0.1", user "far"'):
        ask_as("far", haproxy[way], sslmode=sslmode)


@pytest.mark.needs_debian
def test_health_checks_of_haproxy_find_the_pool_well(pooler, haproxy):
    assert ask_as("near", haproxy[1], sslmode="prefer") == ("near",)  # none is served by a pool that is down
