"""Frontends that vanish, and frontends that do not read: rules 4, 5 and 8 of design section 3."""

from __future__ import annotations

import itertools
import os
import select
import socket
import time
from collections.abc import Iterator

import pytest

from lib.wire import messages
from tests import roles
from tests.cluster import rawclient
from tests.cluster.conftest import shown
from tests.cluster.rawclient import COPY_DONE, FLUSH, Raw, copy_data
from tests.servers import Cluster, Pooler
from tests.workplace import wait_until

MB = 1 << 20
GIGABYTE = int(os.environ.get("SLOW_READER_MB", "1000")) * MB
MEMORY = 24 * MB  # how much the pooler may grow by, whatever frontends do: a few buffers of 1 MB


@pytest.fixture(scope="module")
def pooler(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Pooler]:
    """A pooler with one shared worker."""
    conf = {
        "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "worker_per_fe_cnt": 1000, "max_workers": 1,
        "catalog_interval": 0.1, "login_retry": 2,
    }  # fmt: skip
    with shown(Pooler(conf, cluster=cluster, name="vanish"), request) as pooler:
        yield pooler


@pytest.fixture
def table(cluster: Cluster) -> str:
    """The name of an empty table that everybody may use."""
    query(cluster, "drop table if exists vanished")
    query(cluster, "create table vanished (word text); grant all on vanished to public")
    return "vanished"


def query(cluster: Cluster, sql: str) -> list[tuple]:
    """Ask the primary itself, past the pooler."""
    return cluster.primary.query(sql, dbname=roles.DATABASE)


def words(cluster: Cluster) -> list[str]:
    return sorted(word for (word,) in query(cluster, "select word from vanished"))


def wait_nothing_open(cluster: Cluster) -> None:
    """Wait until no backend of the frontends runs anything, has a transaction, or holds a lock."""
    open_ = (
        "select a.pid, state, query from pg_stat_activity a where backend_type = 'client backend' and usename <> "
        "'postgres' and application_name not like 'pgstmtpool%' and (state <> 'idle' or xact_start is not null "
        "or exists (select from pg_locks l where l.pid = a.pid))"
    )
    wait_until(lambda: not query(cluster, open_), what="nothing to be left open on the server")


# --- vanishing at any byte ------------------------------------------------------------------------------------------

INSERT = "insert into vanished values ('whole')"
SCRIPTS = {
    "simple": rawclient.simple(INSERT),
    "extended": rawclient.extended(INSERT),
    "flushed": rawclient.parse(INSERT) + FLUSH + rawclient.bind() + rawclient.execute() + FLUSH + messages.SYNC,
    "copy": rawclient.simple("copy vanished from stdin") + copy_data(b"wh") + copy_data(b"ole\n") + COPY_DONE,
    "extended copy": rawclient.parse("copy vanished from stdin") + rawclient.bind() + rawclient.execute()
    + messages.SYNC + copy_data(b"whole\n") + COPY_DONE + messages.SYNC,
    "transaction": rawclient.simple("begin") + rawclient.simple(INSERT) + rawclient.extended("lock vanished"),
    "session": rawclient.simple("listen vanished; select pg_advisory_lock(7)") + rawclient.simple("set work_mem = 99"),
}  # fmt: skip
COMMITS = set(SCRIPTS) - {"transaction", "session"}
KEEPS_THE_WORKER = {"simple", "extended", "transaction"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_frontend_that_vanishes_at_any_byte_leaves_nothing_behind(connect, pooler, cluster, table, name):
    """Nor does it make anybody wait: its worker is replaced at once, and not only after login_retry."""
    other = connect()
    before = other.value("select pg_backend_pid()")
    script = SCRIPTS[name]
    for cut in range(len(script) + 1):
        frontend = Raw(pooler.host, pooler.port)
        frontend.send(script[:cut])
        frontend.vanish()
    assert other.value("select current_setting('work_mem')") == "4MB"
    assert other.query("select pg_listening_channels()").rows == []
    assert other.query("insert into vanished values ('other')").commands == ["INSERT 0 1"]
    wait_nothing_open(cluster)
    if name in KEEPS_THE_WORKER:
        assert other.value("select pg_backend_pid()") == before
    # Only what was sent to its end may have been done, and that only once.
    assert words(cluster) in (["other"], ["other", "whole"] if name in COMMITS else ["other"])


def test_a_frontend_that_vanishes_at_any_byte_of_its_login_leaves_nothing_behind(connect, pooler, cluster):
    startup = messages.startup_packet({"user": roles.SCRAM.name, "database": roles.DATABASE})
    fds = pooler.open_fds()
    for cut in range(len(startup) + 1):
        frontend = Raw(pooler.host, pooler.port, user="")
        frontend.send(startup[:cut])
        frontend.vanish()
    for answer in [b"", b"p", messages.message(b"p", b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=abcdefghijklmnopqrstuvwx")]:
        frontend = Raw(pooler.host, pooler.port, user="")
        frontend.send(startup)
        assert frontend.until("R").tags == "R"
        frontend.send(answer)
        frontend.vanish()
    assert connect().value("select 1") == "1"
    wait_until(lambda: pooler.open_fds() <= fds + 5, what="all sockets to be closed")


@pytest.mark.parametrize("way", [rawclient.simple, rawclient.extended], ids=["simple", "extended"])
@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_a_frontend_that_vanishes_in_a_long_statement_runs_nothing(connect, pooler, cluster, table, way, size):
    other = connect()
    whole = way(f"insert into vanished values ('part') -- {'x' * size}")
    for cut in (1, 5, 6, 70_000, len(whole) // 2, len(whole) - 1):
        frontend = Raw(pooler.host, pooler.port)
        frontend.send(whole[:cut])
        frontend.vanish()
        assert other.value("select 'other'") == "other"
    wait_nothing_open(cluster)
    assert words(cluster) == []


def test_a_queued_statement_of_a_frontend_that_vanishes_never_runs(connect, pooler, cluster, table):
    holder, other = connect(), connect()
    assert holder.query("begin").status == "T"
    for script in SCRIPTS.values():
        frontend = Raw(pooler.host, pooler.port)
        frontend.send(script)
        frontend.vanish()
    other.send(rawclient.simple("insert into vanished values ('other')"))
    # The pooler has seen all of them go when one that came later is served.
    assert connect().says_nothing()
    assert holder.query("commit").status == "I"
    assert other.answer().commands == ["INSERT 0 1"]
    wait_nothing_open(cluster)
    assert "other" in words(cluster)


HALVES = {
    "one": [rawclient.simple("select 1")],
    "pipelined": [rawclient.simple("select pg_sleep(0.2)"), rawclient.extended("select 2")],
    "a transaction": [rawclient.simple(each) for each in ("begin", "select pg_sleep(0.2)", "commit")],
    "an error": [rawclient.simple("select 1 / 0"), rawclient.simple("select 3")],
    "a large answer": [rawclient.simple("select repeat('x', 1000), generate_series(1, 20000)")],
    "settings": [rawclient.simple("set datestyle to german"), rawclient.simple("select date '2001-02-03'")],
    "copy": [rawclient.simple("copy vanished from stdin"), copy_data(b"copied\n"), COPY_DONE],
}


@pytest.mark.parametrize("name", HALVES)
def test_who_has_closed_its_side_only_still_gets_its_answers(pooler, cluster, table, name):
    """As `nc -N` does behind its last message. It was taken for gone, and its answers were dropped."""

    def answers(where, half: bool) -> list[rawclient.Message]:
        with Raw(where.host, where.port) as frontend:
            frontend.send(*HALVES[name])
            if half:
                frontend.sock.shutdown(socket.SHUT_WR)
                return [each for each in frontend.until("") if each.tag != "S"]
            ready = sum(each[:1] == b"Q" or each.endswith(messages.SYNC) for each in HALVES[name])
            return [each for _ in range(ready) for each in frontend.answer() if each.tag != "S"]

    assert answers(pooler, half=True) == answers(cluster.primary, half=False)
    wait_nothing_open(cluster)


def test_who_has_closed_its_side_may_wait_for_a_worker(connect, pooler, cluster, table):
    holder = connect()
    assert holder.query("begin").status == "T"
    with Raw(pooler.host, pooler.port) as frontend:
        frontend.send(rawclient.simple("insert into vanished values ('waited')"))
        frontend.sock.shutdown(socket.SHUT_WR)
        assert connect().says_nothing()
        assert holder.query("commit").status == "I"
        assert [each.tag for each in frontend.until("") if each.tag != "S"] == ["C", "Z"]
    assert words(cluster) == ["waited"]


LARGE = "select repeat('x', 1000), generate_series(1, 100000000)"
LARGE_ANSWERS = {
    "select": rawclient.simple(LARGE),
    "extended": rawclient.extended(LARGE),
    "copy out": rawclient.simple(f"copy ({LARGE}) to stdout"),
    "one large value": rawclient.simple("select repeat('x', 200000000)"),
    "in a transaction": rawclient.simple(f"begin; {LARGE}"),
}


@pytest.mark.parametrize("name", LARGE_ANSWERS)
def test_a_frontend_that_vanishes_in_a_large_answer_gives_its_worker_back(connect, pooler, cluster, name):
    other = connect()
    frontend = Raw(pooler.host, pooler.port)
    frontend.send(LARGE_ANSWERS[name])
    assert frontend.sock.recv(1000)
    frontend.vanish()
    assert other.value("select 'next'") == "next"
    wait_nothing_open(cluster)


STATES = {
    "temporary table": ("create temporary table kept (a int)", "select to_regclass('pg_temp.kept') is null"),
    "prepared": ("prepare kept as select 1", "select count(*) = 0 from pg_prepared_statements"),
    "listen": ("listen kept", "select count(*) = 0 from pg_listening_channels()"),
    "lock": ("select pg_advisory_lock(5)", "select pg_try_advisory_lock(5)"),
    "setting": ("set search_path = nowhere", "select current_setting('search_path') <> 'nowhere'"),
    "role": ("set role app_md5", "select current_user = 'app_trust'"),
    "cursor": ("declare kept cursor with hold for select 1", "select count(*) = 0 from pg_cursors"),
    "set in a function": (
        "do $$ begin perform set_config('search_path', 'nowhere', false); end $$",
        "select current_setting('search_path') <> 'nowhere'",
    ),
    "custom setting": ("set kept.it = 'secret'", "select current_setting('kept.it', true) is null"),
    "failed transaction": ("begin; select 1/0", "select true"),
}


@pytest.mark.parametrize("state", STATES)
def test_the_session_state_of_a_frontend_that_vanishes_goes_with_it(connect, pooler, cluster, state):
    make, is_gone = STATES[state]
    frontend = Raw(pooler.host, pooler.port)
    frontend.query(make)
    frontend.vanish()
    with Raw(pooler.host, pooler.port) as other:
        wait_until(lambda: other.value(is_gone) == "t", what="the state to be gone")
    wait_nothing_open(cluster)


# --- slow readers ---------------------------------------------------------------------------------------------------


def test_a_slow_reader_of_a_gigabyte_costs_no_memory_and_keeps_nobody_waiting(cluster, pooler):
    """The reader has the only shared worker, so the others come from another role."""
    rows = GIGABYTE // 1000
    others = [Raw(pooler.host, pooler.port, user=roles.TRUST.name, database=roles.OTHER_DATABASE) for _ in range(4)]
    reader = Raw(pooler.host, pooler.port, rcvbuf=64_000)
    assert [other.value("select 1") for other in others] == ["1"] * 4
    before = pooler.rss_bytes()
    most = before
    slowest_s = 0.0
    reader.send(rawclient.simple(f"select repeat('x', 990), generate_series(1, {rows})"))
    read, end = 0, b""
    buffer = bytearray(MB)
    for turn in itertools.count():
        if turn % 100 < 5:  # five times in a row it does not read, and its worker has to stand still
            begun = time.monotonic()
            assert [other.value("select 'go on'") for other in others] == ["go on"] * 4
            slowest_s = max(slowest_s, time.monotonic() - begun)
            most = max(most, pooler.rss_bytes())
            continue
        size = reader.sock.recv_into(buffer)
        assert size, "the connection ended"
        read += size
        end = bytes(end + buffer[max(0, size - 6) : size])[-6:]
        if end == messages.READY[b"I"]:
            break
    assert read > GIGABYTE
    assert most - before < MEMORY
    assert slowest_s < 10.0
    rawclient.closed_all([reader, *others])


@pytest.mark.parametrize("name", LARGE_ANSWERS)
def test_a_frontend_that_does_not_read_stops_its_own_worker_and_no_other(cluster, pooler, name):
    before = pooler.rss_bytes()
    stuck = Raw(pooler.host, pooler.port, rcvbuf=4096)
    other = Raw(pooler.host, pooler.port, database=roles.OTHER_DATABASE)
    stuck.send(LARGE_ANSWERS[name])
    blocked = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and usename = 'app_trust'"
    wait_until(lambda: query(cluster, blocked)[0][0], what="the backend to stand still")
    for _ in range(20):
        assert other.value("select 'go on'") == "go on"
    assert pooler.rss_bytes() - before < MEMORY
    stuck.vanish()
    wait_nothing_open(cluster)
    other.close()


@pytest.mark.parametrize("text", ["select repeat('x', 1000)", "selekt", ""], ids=["answers", "errors", "empty"])
def test_a_frontend_that_only_sends_is_not_read_for_ever(cluster, pooler, text):
    """A pipeline without end whose answers nobody reads must not fill the memory of the pooler."""
    before = pooler.rss_bytes()
    sender = Raw(pooler.host, pooler.port)
    other = Raw(pooler.host, pooler.port, database=roles.OTHER_DATABASE)
    sender.sock.setblocking(False)
    piece = rawclient.simple(text) * 1000
    sent, offset = 0, 0
    while select.select([], [sender.sock], [], 0.3)[1]:
        size = sender.sock.send(piece[offset:])
        offset = (offset + size) % len(piece)
        sent += size
        assert sent < 200 * MB, "it is still being read"
        assert pooler.rss_bytes() - before < MEMORY
    assert other.value("select 'go on'") == "go on"
    sender.vanish()
    wait_nothing_open(cluster)
    other.close()
