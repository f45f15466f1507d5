"""Metrics, health and the page over HTTP: what they say, under load, and what they make of garbage."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import roles
from tests.cluster.conftest import own_pooler
from tests.cluster.rawclient import Raw, simple
from tests.servers import Cluster, Pooler
from tests.workplace import free_port, wait_until

TRUST = roles.TRUST.name
EVIL = '<img src=x onerror="document.title=1">'


class Site:
    """A pooler and its HTTP server."""

    def __init__(self, pooler: Pooler, port: int) -> None:
        self.pooler = pooler
        self.port = port

    def ask(self, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
        """(status, body, headers)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())
        finally:
            connection.close()

    def metrics(self) -> dict[tuple[str, ...], float]:
        """The samples: (name, label, value, label, value ...) with the labels sorted."""
        families = text_string_to_metric_families(self.ask("/metrics")[1])
        return {
            (sample.name, *(word for pair in sorted(sample.labels.items()) for word in pair)): sample.value
            for family in families
            for sample in family.samples
        }

    def raw(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            parts = []
            while part := sock.recv(65536):
                parts.append(part)
        return b"".join(parts)


@pytest.fixture(scope="module")
def site(cluster):
    port = free_port()
    with own_pooler(cluster, http_listen=port, max_workers=2, worker_per_fe_cnt=5000) as pooler:
        yield Site(pooler, port)


@contextmanager
def load(pooler: Pooler, clients: int = 4):
    """Clients that ask all the time; none may fail."""
    is_over, failed = threading.Event(), []

    def ask() -> None:
        with Raw(pooler.host, pooler.port) as one:
            while not is_over.is_set():
                if one.query("select 1").rows != [("1",)]:
                    failed.append(one)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert failed == []


def test_it_is_alive_and_ready(site):
    wait_until(lambda: site.ask("/readyz")[:2] == (200, "ready\n"))
    assert site.ask("/healthz")[:2] == (200, "ok\n")


def test_metrics_tell_who_is_here_what_they_do_and_how_much_was_answered(site):
    with load(site.pooler), Raw(site.pooler.host, site.pooler.port) as client:
        client.query("begin")
        before = site.metrics()["pgstmtpool_queries_total",]
        wait_until(lambda: site.metrics()["pgstmtpool_queries_total",] > before + 100)
        found = site.metrics()
    assert found["pgstmtpool_frontends", "state", "in transaction"] == 1
    assert found["pgstmtpool_logins_total", "outcome", "ok"] >= 5
    assert found["pgstmtpool_ready",] == 1
    assert (found["pgstmtpool_switches_total",], found["pgstmtpool_ha_state", "state", "off"]) == (0, 1)
    assert [value for key, value in found.items() if key[0] == "pgstmtpool_server_up"] == [1, 1, 1]
    mine = [(key, value) for key, value in found.items() if key[0] == "pgstmtpool_workers" and TRUST in key]
    assert 0 < sum(value for _, value in mine) <= 3


def test_run_times_are_told_by_the_route_that_statements_took(site):
    def count(route: str) -> float:
        found = site.metrics()
        return sum(value for key, value in found.items() if key[0] == "pgstmtpool_run_seconds_count" and route in key)

    with Raw(site.pooler.host, site.pooler.port) as client:
        wait_until(lambda: client.value("select 1") and count("shared") > 0, what="the catalog to be known")
        before = count("alone")
        for text in ("begin", "select 1", "commit", "create temp table t (a int)"):
            client.query(text)
        assert count("alone") == before + 4
    assert count("session") == 0


def test_refused_logins_are_counted_by_their_sqlstate(site):
    key = ("pgstmtpool_logins_total", "outcome", "28P01")
    before = site.metrics().get(key, 0)
    with pytest.raises(Exception, match="password"):
        site.pooler.connect(user=roles.SCRAM.name, password="wrong", dbname=roles.DATABASE)
    assert site.metrics()[key] == before + 1


def test_who_waits_is_told_with_what_they_wait_for_and_the_last_minutes_are_there(site):
    with Raw(site.pooler.host, site.pooler.port) as one, Raw(site.pooler.host, site.pooler.port) as other, Raw(
        site.pooler.host, site.pooler.port
    ) as third:
        one.query("begin")
        other.query("begin")
        third.send(simple("select 1"))
        wait_until(lambda: json.loads(site.ask("/status.json")[1])["waiters"])
        status = json.loads(site.ask("/status.json")[1])
        assert [each["frontend"] for each in status["waiters"]] == [third.key[0]]
        assert status["frontends"]["waiting"] == 1
        assert sum(each["waiting"] for each in status["rosters"]) == 1
        wait_until(lambda: any(json.loads(site.ask("/status.json")[1])["history"]["waiting"]))
        one.query("commit")
        third.answer()


def test_nothing_secret_is_told(site):
    told = site.ask("/status.json")[1] + site.ask("/metrics")[1]
    assert "secret" not in told


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nothing", "GET", 404),
        ("/../../etc/passwd", "GET", 404),
        ("/%2e%2e/%2e%2e/etc/passwd", "GET", 404),
        ("//etc/passwd", "GET", 404),
        ("/metrics/", "GET", 404),
        ("/metrics", "POST", 405),
        ("/", "DELETE", 405),
        ("/healthz?x=" + "y" * 3000, "GET", 200),
    ],
)
def test_other_paths_and_methods_are_refused(site, path, method, status):
    found, body, _ = site.ask(path, method)
    assert found == status
    assert "root:" not in body


def test_head_has_the_headers_and_no_body(site):
    status, body, headers = site.ask("/", "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 1000
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\xff" * 500, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 20_000, b"GET / HTTP/1.1\r\n" + b"x" * 90_000,
     b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
     b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 120 + b"\r\n"],
    ids=["bytes", "no path", "version", "a long line", "a long header", "a length", "tls", "many headers"],
)  # fmt: skip
def test_garbage_is_refused_and_nobody_notices(site, garbage):
    answer = site.raw(garbage)
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert site.ask("/healthz")[0] == 200
    assert "Traceback" not in site.pooler.log


@pytest.mark.parametrize("mode", ["statement", "session"])
def test_errors_that_end_a_client_are_counted_too(cluster, mode):
    """Only those after which it stays were: a limit that disconnects clients was not to be seen."""
    port = free_port()
    with own_pooler(cluster, http_listen=port, pool_mode=mode, idle_in_transaction_timeout=0.2) as pooler:
        with Raw(pooler.host, pooler.port) as client:
            client.query("begin")
            assert client.until("E").code == "25P03"
        labels = ("database", roles.DATABASE, "pool", "0", "sqlstate", "25P03", "user", TRUST)
        assert Site(pooler, port).metrics()["pgstmtpool_errors_total", *labels] == 1


def test_connections_that_say_nothing_keep_no_query_from_its_answer(site):
    silent = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(60)]
    try:
        with Raw(site.pooler.host, site.pooler.port) as client:
            assert client.value("select 1") == "1"
        assert len(site.metrics()) > 10
    finally:
        for sock in silent:
            sock.close()
    wait_until(lambda: site.ask("/healthz")[0] == 200)


def test_scrapers_that_do_not_read_keep_nobody_from_his_answer(site):
    """32 of them kept all others waiting for 30 s, whoever watches over the process among them."""
    slow = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(40)]
    try:
        for sock in slow:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        with load(site.pooler):
            for _ in range(40):
                began = time.monotonic()
                assert site.ask("/healthz")[0] == 200
                assert time.monotonic() - began < 25  # and not when their time was over
    finally:
        for sock in slow:
            sock.close()


def test_while_the_primary_is_down_it_is_alive_and_not_ready():
    with Cluster(hba=roles.hba_lines()) as alone:
        roles.create(alone.primary)
        port = free_port()
        with own_pooler(alone, http_listen=port, worker_min_cnt=[1], shutdown_timeout=0) as pooler:
            site = Site(pooler, port)
            wait_until(lambda: site.ask("/readyz")[0] == 200)
            with Raw(pooler.host, pooler.port) as client:
                client.query("select 1")
                alone.primary.kill9()
                client.send(simple("select 2"))
                wait_until(lambda: site.ask("/readyz")[0] == 503)
                assert "cannot be used" in site.ask("/readyz")[1]
                assert site.ask("/healthz")[0] == 200
                assert site.metrics()["pgstmtpool_ready",] == 0


def test_it_moves_to_another_port_by_a_reload_and_is_switched_off_by_one(site):
    before, port = site.pooler.conf, free_port()
    try:
        site.pooler.reload(http_listen=f"127.0.0.1:{port}")
        assert Site(site.pooler, port).ask("/healthz")[0] == 200
        assert "http_listen:" in site.pooler.reload(http_listen=("192.0.2.1", port))
        site.pooler.reload(http_listen="")
        with pytest.raises(ConnectionRefusedError):
            Site(site.pooler, port).ask("/healthz")
    finally:
        site.pooler.conf = before
        site.pooler.reload()
    assert site.ask("/healthz")[0] == 200


# --- the page in a browser -------------------------------------------------------------------------------------------


def browse(site: Site, tmp_path: Path, size: str = "1200,1000") -> tuple[str, Path]:
    """The page as Debian's chromium has drawn it after a few seconds: its DOM, and a screenshot."""
    picture = tmp_path / f"page-{size.replace(',', 'x')}.png"
    base = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{site.port}/"
    try:
        subprocess.run([*base, f"--screenshot={picture}", url], check=True, capture_output=True, timeout=90)
        done = subprocess.run([*base, "--dump-dom", url], check=True, capture_output=True, text=True, timeout=90)
    except FileNotFoundError:
        pytest.fail("there is no chromium: apt-get install chromium")
    return done.stdout, picture


@pytest.mark.needs_debian
@pytest.mark.time_limit_s(240)
def test_the_page_shows_servers_workers_and_who_waits_in_a_browser(cluster, tmp_path):
    """A database whose name is HTML is shown as text; on a narrow screen nothing is wider than the screen."""
    cluster.primary.query(f"""create database "{EVIL.replace('"', '""')}" """)
    port = free_port()
    try:
        with own_pooler(cluster, http_listen=port, max_workers=1, worker_per_fe_cnt=5000) as pooler:
            site = Site(pooler, port)
            with Raw(pooler.host, pooler.port, database=EVIL) as one, Raw(
                pooler.host, pooler.port, database=EVIL
            ) as other, load(pooler, 2):
                one.query("begin")
                other.send(simple("select 1"))
                wait_until(lambda: len(json.loads(site.ask("/status.json")[1])["history"]["queries"]) >= 3)
                dom, picture = browse(site, tmp_path)
                _, narrow = browse(site, tmp_path, "400,900")
                one.query("rollback")
                other.answer()
    finally:
        cluster.primary.query(f"""drop database "{EVIL.replace('"', '""')}" """)
    assert "<title>pgstmtpool</title>" in dom
    assert '<b id="ready" class="good">ready</b>' in dom
    assert "&lt;img src=x" in dom
    assert "<img" not in dom
    assert str(other.key[0]) in dom
    assert all(each.read_bytes().startswith(b"\x89PNG") for each in (picture, narrow))
