"""What is counted, as the pseudo database tells it: SHOW STATS, top, and an exporter that knows only PgBouncer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests import roles
from tests.cluster.conftest import own_pooler
from tests.cluster.rawclient import Raw, extended
from tests.cluster.test_console import console, row_of
from tests.servers import Cluster, NotThere, Pooler, free_port, wait_until
from tests.wire_samples import query

STATS = "show stats where database = app"


@pytest.fixture
def pooler(cluster: Cluster) -> Iterator[Pooler]:
    """One that has counted nothing yet."""
    with own_pooler(cluster, max_workers=2) as pooler:
        yield pooler


@pytest.fixture
def boss(pooler: Pooler) -> Iterator[psycopg.Connection]:
    with console(pooler) as connection:
        yield connection


@pytest.fixture
def raw(pooler: Pooler) -> Iterator[Raw]:
    with Raw(pooler.host, pooler.port) as raw:
        yield raw


def shape(boss: psycopg.Connection, beginning: str) -> dict[str, Any]:
    return row_of(boss, f"top where database = app and shape like '{beginning}%'")


def test_statements_and_transactions_are_counted(boss, raw):
    for text in ("select 1", "begin", "select 2", "select 3", "commit", "select nothing"):
        raw.query(text)
    raw.send(extended("select 4"))
    raw.answer()
    seen = row_of(boss, STATS)
    assert seen["total_query_count"] == seen["total_requests"] == 7
    assert seen["total_xact_count"] == 4  # three by themselves, one of four statements


def test_times_are_counted_in_microseconds(boss, raw):
    raw.query("select pg_sleep(0.2)")
    raw.query("begin")
    raw.query("select pg_sleep(0.1)")
    raw.query("commit")
    seen = row_of(boss, STATS)
    assert 300_000 <= seen["total_query_time"] <= 30_000_000
    assert seen["total_query_time"] <= seen["total_xact_time"] + 1000


def test_waiting_is_counted(boss, pooler, raw):
    with Raw(pooler.host, pooler.port) as one, Raw(pooler.host, pooler.port) as other:
        one.query("begin")
        other.query("begin")
        raw.send(query("select pg_sleep(0)"))
        wait_until(lambda: row_of(boss, f"fe list where id = {raw.key[0]}")["state"] == "waiting", what="it to wait")
        one.query("commit")
        raw.answer()
        other.query("commit")
    assert row_of(boss, STATS)["total_wait_time"] > 0
    assert shape(boss, "select pg_sleep")["wait_ms"] > 0


def test_bytes_are_those_of_clients_that_are_there_and_of_those_that_have_left(boss, pooler):
    text = "select '" + "x" * 10_000 + "'"
    with Raw(pooler.host, pooler.port) as raw:
        raw.query(text)
        there = row_of(boss, STATS)
        assert 10_000 <= there["total_received"] < 12_000
        assert 10_000 <= there["total_sent"] < 12_000
    wait_until(lambda: boss.execute("fe list where database = app").rowcount == 0, what="it to leave")
    left = row_of(boss, STATS)
    assert left["total_received"] >= there["total_received"]
    assert left["total_sent"] >= there["total_sent"]


def test_who_could_not_log_in_is_no_database_that_is_counted(boss):
    with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification):
        boss.execute("pool new_worker 1 user=nobody,database=nowhere")
    assert boss.execute("show stats where database = nowhere").rowcount == 0


def test_clients_and_servers_tell_their_own_address_and_when_they_asked_last(boss, pooler, raw):
    """They told neither: request_time was now for every client, and for every server when it was connected to."""

    def last() -> list[dict[str, Any]]:
        return [row_of(boss, f"show {what} where database = app order by request_time desc limit 1") for what in BOTH]

    raw.query("select 1")
    before = last()
    assert [each["local_addr"] for each in before] == ["127.0.0.1", "127.0.0.1"]
    assert before[0]["local_port"] == pooler.port and before[1]["local_port"] > 0
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 0.2, what="a while in which nothing is asked")
    quiet = last()
    assert all(abs(a["request_time"] - b["request_time"]) < SLACK for a, b in zip(before, quiet, strict=True))
    assert row_of(boss, "fe list where database = app")["idle"] >= 0.2
    raw.query("select 1")
    assert all(a["request_time"] - b["request_time"] > SLACK for a, b in zip(last(), before, strict=True))


BOTH = ("clients", "servers")
SLACK = timedelta(seconds=0.1)


def test_nothing_is_forgotten_with_the_workers_that_have_counted_it(boss, raw):
    raw.query("select 1")
    before = {row[1] for row in boss.execute("pool show 1").fetchall()}
    boss.execute("reconnect")
    wait_until(lambda: not before & {row[1] for row in boss.execute("pool show 1")}, what="all workers to be others")
    assert row_of(boss, STATS)["total_query_count"] == 1


def test_worker_tells_how_long_its_last_statement_ran(boss, raw):
    raw.query("select pg_sleep(0.1)")
    assert 0.1 <= row_of(boss, "pool show where processed > 0")["last_run"] < 60


def test_session_mode_is_counted_too(cluster):
    with own_pooler(cluster, pool_mode="session") as pooler, console(pooler) as boss:
        with Raw(pooler.host, pooler.port) as raw:
            for text in ("begin", "select 1", "commit", "select pg_sleep(0.1)"):
                raw.query(text)
            seen = row_of(boss, "pool show 1")
            assert seen["processed"] == 4
            assert seen["last_run"] >= 0.1
            assert row_of(boss, STATS)["total_query_count"] == 4
        seen = row_of(boss, "show stats_totals where database = app")
        assert (seen["query_count"], seen["xact_count"]) == (4, 2)
        assert seen["query_time"] >= 100_000


def test_averages_are_there_from_the_first_statement_on(boss, raw):
    """They were 0 until the first minute was over; PgBouncer's are those since its start."""
    raw.query("select pg_sleep(0.1)")
    seen = row_of(boss, STATS)
    assert seen["avg_query_time"] == seen["total_query_time"] > 100_000
    assert seen["avg_recv"] > 0
    averages = row_of(boss, "show stats_averages where database = app")
    assert averages["query_time"] == seen["avg_query_time"]


def test_averages_have_pgbouncer_s_columns(boss, raw):
    raw.query("select 1")
    totals = [each.name for each in boss.execute("show stats_totals").description]
    assert [each.name for each in boss.execute("show stats_averages").description] == totals
    assert boss.execute("show stats_averages where database = app").rowcount == 1


# --- top -------------------------------------------------------------------------------------------------------------


def test_shapes_are_counted_without_their_values(boss, raw):
    for number in range(20):
        raw.query(f"select {number}, 'secret {number}'")
    seen = shape(boss, "select 0, ")
    assert seen["shape"] == "select 0, ''"
    assert (seen["calls"], seen["rows"]) == (20, 1)
    assert 0 < seen["mean_ms"] <= seen["total_ms"]
    assert seen["p99_ms"] > 0


def test_writes_are_counted_with_their_rows(cluster, boss, raw):
    cluster.primary.query("create table counted (a int)", dbname=roles.DATABASE)
    cluster.primary.query("grant all on counted to public", dbname=roles.DATABASE)
    for _ in range(3):
        raw.query("insert into counted select generate_series(1, 5)")
    seen = shape(boss, "insert into counted")
    assert (seen["calls"], seen["rows"]) == (3, 5)
    cluster.primary.query("drop table counted", dbname=roles.DATABASE)


def test_what_has_cost_most_comes_first(boss, raw):
    raw.query("select 1")
    raw.query("select pg_sleep(0.2)")
    assert row_of(boss, "top limit 1")["shape"].startswith("select pg_sleep(")


def test_riders_are_all_counted(boss, pooler):
    """Eight clients at once, until their reads ride: none of them is missing."""
    clients = [Raw(pooler.host, pooler.port) for _ in range(8)]
    for number in range(200):
        for each in clients:
            each.send(query(f"select {number}"))
        for each in clients:
            assert each.answer().rows == [(str(number),)]
    assert row_of(boss, STATS)["total_query_count"] == 1600
    assert shape(boss, "select 0")["calls"] <= 1600
    for each in clients:
        each.close()


# --- others who read it ----------------------------------------------------------------------------------------------


def test_pseudo_database_is_called_pgbouncer_too_where_there_is_no_such_database(pooler, cluster):
    who = {"host": pooler.host, "port": pooler.port, "dbname": "pgbouncer", **roles.ADMIN.login}

    def is_real() -> bool:
        with psycopg.connect(**who, autocommit=True) as connection:
            return connection.execute("select current_database()").fetchone() == ("pgbouncer",)

    with psycopg.connect(**who, autocommit=True) as connection:
        assert connection.execute("show version").rowcount == 1
    cluster.primary.query("create database pgbouncer")
    try:
        wait_until(is_real, what="the database of that name to be found")
    finally:
        cluster.primary.query("drop database pgbouncer with (force)")


@pytest.mark.needs_debian
def test_debian_s_exporter_reads_the_pool_as_it_reads_pgbouncer(pooler, raw):
    program = shutil.which("prometheus-pgbouncer-exporter")
    if program is None:
        raise NotThere("the exporter is not installed: apt-get install prometheus-pgbouncer-exporter")
    raw.query("select 1")
    port = free_port()
    exporter = subprocess.Popen(
        [
            program, "--host", "127.0.0.1", "--port", str(port), "--pgbouncer-host", pooler.host,
            "--pgbouncer-port", str(pooler.port), "--pgbouncer-user", roles.ADMIN.name,
        ],
        env={"PATH": os.environ["PATH"], "PGPASSWORD": str(roles.ADMIN.password)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def metrics() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    try:
        found = wait_until(metrics, what="the exporter to answer")
        seen = {name: float(value) for name, value in re.findall(r"^(pgbouncer_\S+) (\S+)$", found, re.MULTILINE)}
        assert seen['pgbouncer_requests_total{database="app"}'] == 1
        assert seen['pgbouncer_received_bytes_total{database="app"}'] > 0
        assert seen['pgbouncer_active_clients{database="app",user="app_trust"}'] == 1
        assert seen['pgbouncer_pool_size{database="app"}'] == 2
        assert seen["pgbouncer_used_clients"] == 2
    finally:
        exporter.kill()
        exporter.wait()
