"""When servers are asked how far they are, and what becomes of reads that wait for the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from lib.backend.freshness import REPLAYED_SQL, WRITTEN_SQL
from lib.errors import ServerUnreachable
from tests.green.fake_server import FakeServer
from tests.green.small_pool import Client, SmallPool, wait_until
from tests.wire_samples import query

WRITE, READ = "insert into t values (1)", "/*s*/ select 1"


class Asked(SmallPool):
    """A primary and two standbys whose answers a test gives.

    ends       how far each server is
    held       servers that do not answer before their event is set
    failing    servers that cannot be asked
    asked      how often each was
    """

    def __init__(self, *servers: FakeServer, **settings: Any) -> None:
        self.ends = [100, 100, 100]
        self.held: dict[int, Event] = {}
        self.failing: set[int] = set()
        self.asked = [0, 0, 0]
        super().__init__(*servers, **settings)

    def _query(self, address: Any, database: str, sql: str) -> list[tuple]:  # type: ignore[override]
        if sql not in (WRITTEN_SQL, REPLAYED_SQL):
            return SmallPool._query(address, database, sql)
        index = [server.address for server in self.servers].index(tuple(address))
        assert (sql == WRITTEN_SQL) == (index == 0)
        self.asked[index] += 1
        end = self.ends[index]
        if index in self.held:
            self.held[index].wait()
        if index in self.failing:
            raise ServerUnreachable("no connection to a server")
        return [(f"0/{end:X}", 8192, 16 << 20)] if index == 0 else [(f"0/{end:X}",)]

    def answered_by(self, text: str = READ) -> list[int]:
        """How often each server has run `text`."""
        return [server.statements.count(text) for server in self.servers]


@pytest.fixture
def begin() -> Iterator[Callable[..., Asked]]:
    pools: list[Asked] = []

    def begin(**settings: Any) -> Asked:
        pool = Asked(*(FakeServer() for _ in range(3)), **settings)
        pools.append(pool)
        return pool

    yield begin
    for pool in pools:
        pool.settle()
        pool.close()


def connected(pool: Asked) -> Client:
    """A client whose login has workers everywhere."""
    client = pool.connect()
    wait_until(lambda: client.query(READ) and all(each.workers for each in pool.rosters) and len(pool.rosters) == 3)
    for server in pool.servers:
        server.statements.clear()
    return client


def test_a_read_goes_to_a_standby_that_has_the_write(begin):
    pool = begin(read_your_writes_timeout=60)
    client = connected(pool)
    pool.ends = [200, 100, 200]
    client.query(WRITE)
    for _ in range(5):
        client.query(READ)
    assert pool.answered_by() == [0, 0, 5]


def test_a_question_that_was_begun_before_a_write_does_not_serve_the_read_behind_it(begin):
    pool = begin(read_your_writes_timeout=60)
    one, other = connected(pool), connected(pool)
    one.query(WRITE)
    pool.held[0] = Event()
    one.send(query(READ))
    wait_until(lambda: pool.asked[0] == 1)
    other.query(WRITE)
    pool.ends[0] = 200  # what was asked before does not have it
    other.send(query(READ))
    pool.held.pop(0).set()
    assert one.until_ready().rows == [READ]
    wait_until(lambda: pool.asked[0] == 2, "a question of its own")
    assert other.hears_nothing()
    pool.ends[1:] = [200, 200]
    assert other.until_ready().rows == [READ]
    assert pool.answered_by()[0] == 0


def test_one_question_serves_all_who_have_written_before_it(begin):
    pool = begin(read_your_writes_timeout=60)
    clients = [connected(pool) for _ in range(20)]
    for client in clients:
        client.query(WRITE)
    for client in clients:
        client.send(query(READ))
    for client in clients:
        assert client.until_ready().rows == [READ]
    assert pool.asked[0] == 1
    assert pool.answered_by()[0] == 0


def test_who_has_not_written_asks_nothing(begin):
    pool = begin(read_your_writes_timeout=60)
    client = connected(pool)
    for _ in range(20):
        client.query(READ)
    assert pool.asked == [0, 0, 0]


@pytest.mark.parametrize("failing", [{0}, {1, 2}], ids=["primary", "standbys"])
def test_the_primary_reads_when_those_who_would_have_to_be_asked_cannot_be(begin, failing):
    pool = begin(read_your_writes_timeout=60)
    client = connected(pool)
    pool.failing = failing
    for _ in range(3):
        client.query(WRITE)
        client.query(READ)
    assert pool.answered_by() == [3, 0, 0]
    assert sum(pool.asked) <= 3, "they are left alone for a while"


def test_a_standby_that_says_nothing_keeps_nobody_from_the_other(begin):
    pool = begin(read_your_writes_timeout=60)
    client = connected(pool)
    pool.held[1] = Event()
    for _ in range(5):
        client.query(WRITE)
        client.query(READ)
    assert pool.answered_by() == [0, 0, 5]
    pool.held[1].set()


def test_nobody_waits_behind_one_who_has_waited_in_vain_until_a_standby_has_come_as_far(begin):
    pool = begin(read_your_writes_timeout=0.05)
    client = connected(pool)
    pool.ends[0] = 200
    client.query(WRITE)
    client.query(READ)
    assert pool.answered_by() == [1, 0, 0]
    pool.cluster.replay._patience_s = 60  # whoever waits now waits for ever
    for _ in range(5):
        client.query(WRITE)
        client.query(READ)
    assert pool.answered_by() == [6, 0, 0]
    pool.ends[2] = 200
    wait_until(lambda: client.query(READ) and pool.answered_by()[2], "the standby to be used")


def test_what_the_primary_has_lost_is_not_waited_for_again(begin):
    """It was restarted, and what nobody has written to disk is gone: no standby will ever have it."""
    pool = begin(read_your_writes_timeout=0.05)
    client = connected(pool)
    pool.ends = [300, 200, 200]
    client.query(WRITE)
    client.query(READ)
    pool.ends[0] = 200
    wait_until(lambda: client.query(READ) and all(pool.answered_by()[1:]), "the standbys to be used")


def test_a_read_that_waits_for_a_worker_is_looked_at_again_when_its_standby_may_have_been_restarted(begin):
    pool = begin(read_your_writes_timeout=0, worker_per_fe_cnt=1000, max_workers=0)
    client, other = connected(pool), connected(pool)
    pool.ends = [200, 200, 0]
    client.query(WRITE)
    wait_until(lambda: client.query(READ) and pool.answered_by()[1], "the standby to be known to have it")
    slow = "/*s*/ select slow"
    pool.servers[1].stall(slow)
    while not any(backend.is_waiting for backend in pool.servers[1].backends):
        other = connected(pool) if other.frontend.unit else other
        other.send(query(slow))
        wait_until(lambda: other.frontend.unit is None or other.frontend.unit.worker is not None)  # noqa: B023
        gevent.sleep(0.01)
    before = pool.answered_by()
    client.send(query(READ))
    wait_until(lambda: any(roster.waiting for roster in pool.rosters), "it to wait for a worker")
    pool.ends[1] = 100
    next(backend for backend in pool.servers[1].backends if backend.is_waiting).hang_up()
    assert client.until_ready().rows == [READ]
    assert [now - then for now, then in zip(pool.answered_by(), before, strict=True)] == [1, 0, 0]


def test_a_read_that_waits_is_not_run_when_its_client_has_left_or_cancels(begin):
    pool = begin(read_your_writes_timeout=60)
    clients = [connected(pool), connected(pool)]
    pool.ends[0] = 200
    for client in clients:
        client.query(WRITE)
        client.send(query(READ))
        wait_until(lambda client=client: client.frontend.unit is not None)
    clients[0].frontend.cancel()
    assert clients[0].until_ready().errors == ["ERROR 57014"]
    clients[1].vanish()
    wait_until(lambda: clients[1].frontend.is_gone)
    pool.ends[1:] = [200, 200]
    clients[0].query(READ)
    wait_until(lambda: "waiting=0" in repr(pool.cluster.replay), repr(pool.cluster.replay))
    assert sum(pool.answered_by()) == 1


def test_standbys_that_are_too_far_behind_are_asked_as_often_as_max_lag_needs(begin):
    pool = begin(max_lag=0.02, lag_check_interval=10)
    thread = gevent.spawn(pool.cluster.replay.watch)
    try:
        client = connected(pool)
        pool.ends[0] = 200
        wait_until(lambda: all(each.is_behind for each in pool.cluster.standbys))
        client.query(READ)
        assert pool.answered_by()[0] >= 1
        pool.ends[1:] = [200, 200]
        wait_until(lambda: not any(each.is_behind for each in pool.cluster.standbys))
    finally:
        thread.kill()
