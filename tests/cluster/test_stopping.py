"""The pool stops within its limits, whatever its frontends and its server do meanwhile."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests import roles
from tests.cluster import rawclient
from tests.cluster.rawclient import Raw
from tests.servers import Pooler, Server
from tests.workplace import wait_until

SLEEP = rawclient.simple("select pg_sleep(1000)")
LONG = rawclient.simple(f"select '{'x' * 200_000}' from pg_sleep(1000)")
SETS = rawclient.simple("do $$ begin perform set_config('work_mem', '1MB', false); end $$")
STATES: dict[str, list[bytes]] = {
    "idle": [],
    "in a transaction": [rawclient.simple("begin")],
    "runs": [SLEEP],
    "runs in a transaction": [rawclient.simple("begin"), SLEEP, SLEEP],
    "runs with a session": [rawclient.simple("listen stopping"), SLEEP],
    "has pipelined much": [SLEEP] * 300,
    "has pipelined behind a SET": [SETS, SLEEP, SLEEP],
    "has pipelined what is long behind a SET": [SETS, LONG, LONG],
    "has pipelined behind a RESET": [rawclient.simple("begin"), rawclient.simple("reset all"), SLEEP],
    "is in a COPY": [rawclient.simple("copy stopped from stdin"), rawclient.copy_data(b"1\n")],
    "does not read": [rawclient.simple("select repeat('x', 1000000) from generate_series(1, 100)")],
    "has sent half a statement": [SLEEP[:-4]],
    "has sent half of a long one": [LONG[:100_000]],
    "has sent Flush": [rawclient.parse("select 1") + rawclient.FLUSH],
    "waits for a lock": [rawclient.simple("begin; lock stopped; select pg_sleep(1000)")],
}


@pytest.fixture(scope="module")
def server():
    with Server("stopping", hba=roles.hba_lines()) as server:
        roles.create(server)
        server.query("create table stopped (i int); grant all on stopped to public", dbname=roles.DATABASE)
        yield server


@pytest.fixture
def stopping(server):
    """A pooler that lets nothing go on for long, and its frontends in every state."""
    conf = {
        "master": [server.host, server.port], "admin_cnn": {**roles.ADMIN.login, "database": "postgres"},
        "max_workers": 40, "shutdown_timeout": 1,
        "pool_modes": [{"database": roles.OTHER_DATABASE, "pool_mode": "session"}],
    }  # fmt: skip
    with ExitStack() as stack:
        pooler = stack.enter_context(Pooler(conf, name="stopping"))
        frontends = [
            stack.enter_context(Raw(pooler.host, pooler.port, database=database, datestyle="German"))
            for database in (roles.DATABASE, roles.OTHER_DATABASE)
            for _ in STATES
        ]
        yield pooler, frontends


def not_at_all(server: Server) -> None:
    """It answers."""


def frozen(server: Server) -> None:
    server.sigstop()


@pytest.mark.parametrize("halts", [not_at_all, frozen], ids=["server answers", "server is frozen"])
def test_a_stop_ends_in_time_whatever_frontends_do(server, stopping, halts: Callable[[Server], None]):
    pooler, frontends = stopping
    silent = socket.create_connection((pooler.host, pooler.port))  # it has not said yet who it is
    for frontend, sent in zip(frontends, [*STATES.values()] * 2, strict=True):
        frontend.send(*sent[:1])
    wait_until(lambda: server.query("select count(*) > 3 from pg_stat_activity where query like '%%sleep%%'")[0][0])
    halts(server)
    try:
        for frontend, sent in zip(frontends, [*STATES.values()] * 2, strict=True):
            frontend.send(*sent[1:])
        begun = time.monotonic()
        pooler.stop()
        took_s = time.monotonic() - begun
    finally:
        server.sigcont()
        silent.close()
    assert took_s < 10, f"it took {took_s:.1f} s"
    assert "Traceback" not in pooler.log
    if halts is not_at_all:  # else a statement may arrive behind its own cancel request
        left = "select pid from pg_stat_activity where usename = %s"
        wait_until(lambda: not server.query(left, [roles.TRUST.name]), what="all backends of the pool to be gone")
