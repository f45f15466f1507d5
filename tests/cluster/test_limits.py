"""Garbage, very long messages, half-open connections, too many frontends: each is refused, and nobody else notices."""

from __future__ import annotations

import os
import random
import resource
import select
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lib.wire import messages
from lib.wire.messages import message
from tests import roles
from tests.cluster import rawclient
from tests.cluster.conftest import shown
from tests.cluster.rawclient import COPY_DONE, Raw, copy_data
from tests.servers import Cluster, Pooler
from tests.workplace import wait_until

MB = 1 << 20
ALLOWED = 1000
AT_ONCE = int(os.environ.get("CONNECTIONS", "5000"))
ROUNDS = int(os.environ.get("ROUNDS", "300"))
VIOLATION = "08P01"


@pytest.fixture(scope="module")
def pooler(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Pooler]:
    """A pooler for a thousand frontends."""
    conf = {
        "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "max_client_conn": ALLOWED, "max_workers": 2,
        "worker_per_fe_cnt": 5000,
    }  # fmt: skip
    with shown(Pooler(conf, cluster=cluster, name="limits"), request) as pooler:
        yield pooler


@contextmanager
def nobody_else_notices(pooler: Pooler, patience_s: float = 5.0) -> Iterator[None]:
    """A neighbour asks all the time and always gets its own answer, and soon."""
    is_over = threading.Event()
    slowest_s, wrong = [0.0], []

    def ask(neighbour: Raw) -> None:
        asked = 0
        while not is_over.is_set() or not asked:
            begun = time.monotonic()
            answer = neighbour.query(f"select {asked}")
            slowest_s[0] = max(slowest_s[0], time.monotonic() - begun)
            if answer.rows != [(str(asked),)]:
                wrong.append(answer)
            asked += 1

    with Raw(pooler.host, pooler.port, database=roles.OTHER_DATABASE) as neighbour:
        neighbour.query("select 1")
        thread = threading.Thread(target=ask, args=[neighbour])
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
    assert not wrong
    assert slowest_s[0] < patience_s, f"a neighbour waited for {slowest_s[0]:.2f} s"


# --- garbage --------------------------------------------------------------------------------------------------------

VERSION = struct.pack("!I", messages.PROTOCOL_3_0)
SSL = struct.pack("!II", 8, messages.SSL_CODE)


def packet(body: bytes) -> bytes:
    return struct.pack("!I", len(body) + 4) + body


STARTUPS = {
    "http": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", VIOLATION),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 506, VIOLATION),
    "no length": (struct.pack("!I", 0), VIOLATION),
    "only a length": (struct.pack("!I", 4), VIOLATION),
    "too long": (struct.pack("!I", 10_001), VIOLATION),
    "a gigabyte": (struct.pack("!I", 1 << 30), VIOLATION),
    "negative": (struct.pack("!i", -1), VIOLATION),
    "version 2": (packet(struct.pack("!I", 2 << 16) + b"x" * 288), "0A000"),
    "version 4": (packet(struct.pack("!I", 4 << 16) + b"user\0x\0\0"), "0A000"),
    "no user": (packet(VERSION + b"\0"), "28000"),
    "no terminator": (packet(VERSION + b"user\0x"), VIOLATION),
    "a name without a value": (packet(VERSION + b"user\0x\0database\0\0"), None),
    "an odd number of words": (packet(VERSION + b"user\0x\0database\0"), VIOLATION),
    "garbage behind the end": (packet(VERSION + b"user\0x\0\0garbage"), VIOLATION),
    "a short cancel": (packet(struct.pack("!I", messages.CANCEL_CODE)), VIOLATION),
    "more behind an encryption request": (SSL + b"plain", VIOLATION),
    "replication": (messages.startup_packet({"user": "app_trust", "replication": "true"}), "0A000"),
    "not utf-8": (packet(VERSION + b"user\0\xff\xfe\0\0"), "28000"),
    "unknown user": (messages.startup_packet({"user": "nobody", "database": roles.DATABASE}), "28000"),
    "unknown database": (messages.startup_packet({"user": "app_trust", "database": "nowhere"}), "3D000"),
    "bad setting": (messages.startup_packet({"user": "app_trust", "database": "app", "work_mem": "much"}), "22023"),
    "unknown setting": (messages.startup_packet({"user": "app_trust", "database": "app", "no_such": "1"}), "42704"),
}


@pytest.mark.parametrize("name", STARTUPS)
def test_a_bad_first_packet_is_refused_and_closed(pooler, name):
    sent, code = STARTUPS[name]
    with nobody_else_notices(pooler), Raw(pooler.host, pooler.port, user="") as frontend:
        frontend.send(sent)
        if name.startswith("more behind"):
            assert frontend.sock.recv(1) in (b"N", b"E")
        answer = frontend.until("EZ")
        if code is not None and not name.startswith("more behind"):
            assert (answer.code, answer.error["S"]) == (code, "FATAL")
        if answer.tags[-1:] != "Z":
            assert frontend.is_closed()


def test_encryption_requests_are_refused_and_not_for_ever(connect):
    frontend = connect(user="")
    for request in (messages.SSL_CODE, messages.GSSENC_CODE):
        frontend.send(struct.pack("!II", 8, request))
        assert frontend.sock.recv(10) == b"N"
    frontend.send(messages.startup_packet({"user": roles.TRUST.name, "database": roles.DATABASE}))
    assert frontend.answer().status == "I"
    endless = connect(user="")
    for _ in range(10):
        endless.send(SSL)
        if endless.sock.recv(1) != b"N":
            break
    else:
        pytest.fail("encryption requests without end are answered")


def test_a_frontend_that_answers_a_challenge_with_something_else_is_closed(connect, pooler):
    startup = messages.startup_packet({"user": roles.SCRAM.name, "database": roles.DATABASE})
    answers = [rawclient.simple("select 1"), message(b"p", b"x" * 70_000), message(b"p", b""), b"p\0\0\0\0"]
    with nobody_else_notices(pooler):
        for wrong in [*answers, message(b"p", b"SCRAM-SHA-256\0\0\0\0\1"), message(b"p", b"UNKNOWN\0\0\0\0\0")]:
            frontend = connect(user="")
            frontend.send(startup)
            assert frontend.until("R").tags == "R"
            frontend.send(wrong)
            answer = frontend.until("E")
            assert (answer.code, answer.error["S"]) in ((VIOLATION, "FATAL"), ("28P01", "FATAL"))
            assert frontend.is_closed()


GARBAGE = {
    "unknown type": b"y\0\0\0\4",
    "type zero": b"\0\0\0\0\4",
    "length below four": b"Q\0\0\0\3",
    "negative length": b"Q\xff\xff\xff\xff",
    "over a gigabyte": b"Q\x40\0\0\0",
    "long sync": b"S" + struct.pack("!I", 10_001),
    "long describe": b"D" + struct.pack("!I", 11_000),
    "long execute": b"E" + struct.pack("!I", 1 << 20),
    "password": message(b"p", b"secret\0"),
    "second startup": messages.startup_packet({"user": "app_trust"}),
    "http": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("before", ["", "begin", "listen garbage", "copy (select 1) to stdout"])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_after_login_is_told_and_closed(connect, pooler, cluster, name, before):
    frontend = connect()
    if before:
        assert frontend.query(before).errors == []
    frontend.send(GARBAGE[name])
    answer = frontend.until("E")
    assert (answer.code, answer.error["S"], answer.tags) == (VIOLATION, "FATAL", "E")
    assert frontend.is_closed()
    assert connect().value("select 'other'") == "other"


@pytest.mark.parametrize("name", ["unknown type", "length below four", "over a gigabyte", "password", "http"])
def test_garbage_in_a_unit_or_a_copy_is_told_and_leaves_nothing_behind(connect, pooler, cluster, name):
    cluster.primary.query("drop table if exists spoilt; create table spoilt (word text)", dbname=roles.DATABASE)
    cluster.primary.query("grant all on spoilt to public", dbname=roles.DATABASE)
    in_unit, in_copy, flushed = connect(), connect(), connect()
    in_unit.send(rawclient.parse("insert into spoilt values ('unit')"), rawclient.bind(), rawclient.execute())
    in_copy.send(rawclient.simple("copy spoilt from stdin"))
    assert in_copy.until("G").tags == "G"
    in_copy.send(copy_data(b"copy\n"))
    flushed.send(rawclient.parse("insert into spoilt values ('flushed')"), rawclient.bind(), rawclient.execute())
    flushed.send(rawclient.FLUSH)
    assert flushed.until("C").tags == "12C"
    for frontend in (in_unit, in_copy, flushed):
        frontend.send(GARBAGE[name])
        answer = frontend.until("E")
        assert (answer.code, answer.error["S"]) == (VIOLATION, "FATAL")
        assert frontend.is_closed()
    open_ = "select count(*) from pg_stat_activity where usename = 'app_trust' and xact_start is not null"
    wait_until(lambda: cluster.primary.query(open_)[0][0] == 0, what="nothing to be left open")
    assert cluster.primary.query("select * from spoilt", dbname=roles.DATABASE) == []


def test_random_bytes_hurt_nobody(pooler):
    """Bytes at random, and real messages with bytes changed at random, before and after login."""
    chance = random.Random(7)
    real = b"".join(
        [rawclient.extended("select 1"), rawclient.simple("begin"), rawclient.simple("select 2"), rawclient.FLUSH,
         rawclient.simple("copy (select 1) to stdout"), rawclient.parse("select $1", "name"), messages.SYNC],
    )  # fmt: skip
    startup = messages.startup_packet({"user": roles.TRUST.name, "database": roles.DATABASE})
    with nobody_else_notices(pooler):
        for number in range(ROUNDS):
            data = bytearray(real if number % 3 else chance.randbytes(200))
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            frontend = Raw(pooler.host, pooler.port, user="" if number % 4 == 0 else roles.TRUST.name)
            if number % 4 == 0:
                data[: len(startup)] = startup
                data[chance.randrange(len(startup))] = chance.randrange(256)
            try:
                frontend.send(bytes(data), messages.TERMINATE)
                while select.select([frontend.sock], [], [], 0.05)[0] and frontend.sock.recv(MB):
                    pass
            except ConnectionError:
                pass
            frontend.vanish()


# --- very long messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [rawclient.simple, rawclient.extended], ids=["simple", "extended"])
@pytest.mark.parametrize("size", [65_000, 65_536, 66_000, 1_000_000, 20_000_000])
def test_a_long_statement_is_run(connect, pooler, way, size):
    frontend = connect()
    with nobody_else_notices(pooler):
        frontend.send(way(f"select length('{'x' * size}')"))
        answer = frontend.answer()
        assert (answer.rows, answer.status) == ([(str(size),)], "I")
        assert frontend.value("select 'next'") == "next"


def test_a_long_error_is_passed_on(connect, pooler):
    """An ErrorResponse is looked at whole; one of 20 MB was copied again with every read."""
    frontend = connect()
    with nobody_else_notices(pooler):
        answer = frontend.query(f"select '{'x' * 20_000_000}'::int")
        assert answer.code == "22P02"
        assert len(answer.error["M"]) > 20_000_000
        assert frontend.value("select 'next'") == "next"


def test_a_long_parameter_and_a_long_row_pass(connect, pooler):
    frontend = connect()
    value = b"x" * 20_000_000
    bind = message(b"B", b"\0\0" + struct.pack("!HHi", 0, 1, len(value)) + value + struct.pack("!H", 0))
    with nobody_else_notices(pooler):
        frontend.send(rawclient.parse("select $1::text"), bind, rawclient.execute(), messages.SYNC)
        answer = frontend.answer()
        assert answer.tags == "12DCZ"
        assert len(answer.rows[0][0] or "") == len(value)


def test_a_long_copy_data_message_passes(connect, pooler, cluster):
    cluster.primary.query("drop table if exists long; create table long (word text)", dbname=roles.DATABASE)
    cluster.primary.query("grant all on long to public", dbname=roles.DATABASE)
    frontend = connect()
    before = pooler.rss_bytes()
    line = b"x" * 999 + b"\n"
    with nobody_else_notices(pooler):
        frontend.send(rawclient.simple("copy long from stdin"))
        assert frontend.until("G").tags == "G"
        frontend.send(copy_data(line * 50_000), COPY_DONE)
        assert frontend.answer().commands == ["COPY 50000"]
    assert pooler.rss_bytes() - before < 24 * MB
    assert cluster.primary.query("select count(*) from long", dbname=roles.DATABASE) == [(50_000,)]
    cluster.primary.query("drop table long", dbname=roles.DATABASE)


# --- too many, and too slow to log in -------------------------------------------------------------------------------


def test_half_open_connections_are_closed_after_auth_timeout(cluster):
    conf = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}}
    startup = messages.startup_packet({"user": roles.SCRAM.name, "database": roles.DATABASE})
    with Pooler(conf, cluster=cluster, name="impatient") as pooler:
        served = Raw(pooler.host, pooler.port)
        pooler.reload(auth_timeout=0.3)
        fds = pooler.open_fds()
        half = [Raw(pooler.host, pooler.port, user="") for _ in range(50)]
        for number, frontend in enumerate(half):
            frontend.send([b"", b"\0", startup[:20], SSL, startup][number % 5])
        assert served.value("select 'served'") == "served"
        for number, frontend in enumerate(half):
            if number % 5 == 3:
                assert frontend.sock.recv(1) == b"N"
            answer = frontend.until("E")
            assert (answer.code, answer.error["S"]) == ("08006", "FATAL")
            assert frontend.is_closed()
        wait_until(lambda: pooler.open_fds() < fds + 10, what="their sockets to be closed")
        assert served.value("select 'served'") == "served"
        served.close()
        assert "Traceback" not in pooler.log


@pytest.fixture
def many_files() -> Iterator[int]:
    """How many connections this process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = AT_ONCE + 500 if hard == resource.RLIM_INFINITY else min(AT_ONCE + 500, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    yield most - 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_of_five_thousand_connections_at_once_a_thousand_work_and_the_rest_is_refused(pooler, connect, many_files):
    wait_until(lambda: pooler.open_fds() < 100, what="the pooler to be idle")
    at_once = min(AT_ONCE, many_files)
    startup = messages.startup_packet({"user": roles.TRUST.name, "database": roles.DATABASE})
    selector = selectors.DefaultSelector()
    crowd = []
    for _ in range(at_once):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((pooler.host, pooler.port))
        selector.register(sock, selectors.EVENT_WRITE)
        crowd.append(sock)
    let_in, refused = [], 0
    heard = dict.fromkeys(crowd, b"")
    while len(let_in) + refused < at_once:
        for key, events in selector.select(30):
            sock = key.fileobj
            if events & selectors.EVENT_WRITE:
                sock.send(startup)
                selector.modify(sock, selectors.EVENT_READ)
                continue
            data = sock.recv(10_000)
            heard[sock] += data
            if heard[sock].endswith(messages.READY[b"I"]):
                selector.unregister(sock)
                let_in.append(sock)
            elif not data:
                assert messages.error_fields(heard[sock])["C"] == "53300", heard[sock]
                selector.unregister(sock)
                refused += 1
    assert (len(let_in), refused) == (ALLOWED, at_once - ALLOWED)
    for sock in let_in:
        sock.setblocking(True)
        sock.sendall(rawclient.simple("select 'works'"))
    for sock in let_in:
        data = b""
        while not data.endswith(messages.READY[b"I"]):
            data += sock.recv(10_000)
        assert b"works" in data
    assert "too many" in connect_and_fail(pooler)["M"]
    for sock in crowd:
        sock.close()
    wait_until(lambda: pooler.open_fds() < 100, what="all of them to be gone")
    assert connect().value("select 'next'") == "next"


def connect_and_fail(pooler: Pooler) -> dict[str, str]:
    with Raw(pooler.host, pooler.port) as frontend:
        return frontend.greeting.error


def test_workers_that_sessions_give_back_are_no_more_than_the_pool_would_start(pooler, cluster):
    of_this_role = "select pid from pg_stat_activity where usename = 'app_trust' and datname = 'app'"
    others = set(cluster.primary.query(of_this_role))  # other pools may be in front of this server

    def mine() -> int:
        return len(set(cluster.primary.query(of_this_role)) - others)

    sessions = [Raw(pooler.host, pooler.port) for _ in range(20)]
    for each in sessions:
        assert each.query("listen something").errors == []
    assert mine() >= 20 - len(others)
    rawclient.closed_all(sessions)
    wait_until(lambda: mine() <= 2, what="the surplus to be closed")


# --- nothing grows --------------------------------------------------------------------------------------------------


def test_memory_and_sockets_stay_flat_over_connections_and_statements(pooler):
    def rounds(count: int) -> tuple[int, int]:
        for number in range(count):
            with Raw(pooler.host, pooler.port, application_name=f"round {number % 50}") as frontend:
                frontend.query(f"select {number}, '{'x' * (number % 100)}'")
                frontend.send(rawclient.extended(f"select {number} + {number}"))
                frontend.answer()
                frontend.query("selekt")
                frontend.query("begin")
                frontend.query("rollback")
        wait_until(lambda: pooler.open_fds() < 100, what="its sockets to be closed")
        return pooler.rss_bytes(), pooler.open_fds()

    rounds(ROUNDS)
    memory, fds = rounds(ROUNDS)
    later_memory, later_fds = rounds(ROUNDS * 2)
    assert later_fds <= fds + 2
    assert later_memory - memory < 2 * MB, (memory, later_memory)
