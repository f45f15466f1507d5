"""Riders on fake servers: moments between two messages that a real server cannot be made to have."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from lib import net
from lib.backend.unit import Stale
from lib.backend.worker import Worker
from lib.errors import ServerUnreachable
from lib.route.known import LEAST_BYTES, Known
from lib.turns import Turns
from lib.wire.messages import READY
from tests.green.fake_server import FakeBackend, echo
from tests.green.small_pool import Client, SmallPool, backend_behind, wait_until
from tests.wire_samples import complaint, query
from tests.workplace import PATIENCE_S

HEAD = "select 'the head'"
WRITE = "insert into t values (1)"
SLOW = "select slow"
DIVISION = complaint("ERROR", "22012", "division by zero")
EMPTY_QUERY = b"I\0\0\0\4"
QUICK_S = 0.0001
Start = Callable[..., SmallPool]


@pytest.fixture
def few(start: Start) -> Callable[..., SmallPool]:
    """few(count): a pool of so many workers, on which reads ride whatever --riders says."""

    def few(count: int, **settings: Any) -> SmallPool:
        given = {"worker_min_cnt": [count] * 64, "worker_per_fe_cnt": 1000, "max_workers": 0, "riders": True}
        pool = start(**(given | settings))
        pool.connect().query("select 0")
        wait_until(lambda: len(pool.idle) == count, f"{count} workers")
        return pool

    return few


def known(pool: SmallPool, statement: str) -> Known:
    return pool.cluster.router("shop").known(statement.encode())


def were_quick(pool: SmallPool, *statements: str) -> None:
    for statement in statements:
        known(pool, statement).cost_s = QUICK_S


def worker_of(client: Client) -> Worker:
    wait_until(lambda: client.frontend.unit is not None and client.frontend.unit.worker is not None, "its worker")
    worker = client.frontend.unit.worker
    assert isinstance(worker, Worker)
    return worker


def sent(client: Client, statement: str) -> Worker:
    client.send(query(statement))
    return worker_of(client)


def convoy(pool: SmallPool, riders: int) -> tuple[Worker, Client, list[Client]]:
    """A head that stalls, and so many quick reads in flight behind it."""
    head, *others = (pool.connect() for _ in range(riders + 1))
    were_quick(pool, HEAD, *(f"select r{number}" for number in range(riders)))
    pool.server.stall(HEAD)
    worker = sent(head, HEAD)
    worker.head_since = time.monotonic() + 3600  # however long the machine takes for what follows
    for number, client in enumerate(others):
        assert sent(client, f"select r{number}") is worker
    worker.head_since = time.monotonic()
    return worker, head, others


def go_on(pool: SmallPool) -> None:
    for backend in pool.server.backends:
        backend.go_on()


def writers(pool: SmallPool, count: int) -> list[Client]:
    """So many frontends whose statements wait, each on a worker of its own."""
    pool.server.stall(WRITE)
    clients = [pool.connect() for _ in range(count)]
    for client in clients:
        sent(client, WRITE)
    return clients


# --- who has a worker ------------------------------------------------------------------------------------------------


def test_workers_that_are_held_for_sessions_do_not_make_the_others_be_kept_for_reads(few):
    """The only worker that anybody may have was kept for reads, because there were four with those of sessions: a write
    waited for as long as somebody read."""
    pool = few(1)
    for _ in range(4):
        pool.connect().query("listen a")
    wait_until(lambda: len(pool.workers) == 5 and len(pool.idle) == 1, "a worker for the rest")
    reader, writer = pool.connect(), pool.connect()
    were_quick(pool, HEAD)
    reader.query(HEAD)
    writer.send(query(WRITE))
    deadline = time.monotonic() + PATIENCE_S
    while writer.frontend.unit is not None or not pool.server.statements.count(WRITE):
        reader.query(HEAD)
        assert time.monotonic() < deadline, "the write waits for as long as somebody reads"
    assert writer.until_ready().rows == [WRITE]


def test_a_worker_is_kept_for_reads_however_long_ago_its_batch_began(few):
    """Under load a batch need not end: others ride before all are answered."""
    pool = few(4)
    roster = pool.rosters[0]
    convoy(pool, 2)
    roster.last_batch_at -= 10  # it began long ago, and quick reads have ridden ever since
    wait_until(lambda: roster._kept() == 1, "a worker to be kept")
    go_on(pool)


def test_a_worker_that_was_kept_for_reads_is_given_to_a_write_while_somebody_logs_in(few):
    """Somebody who does not answer the server's question for a password must not keep others from idle workers."""
    pool = few(4)
    reader = pool.connect()
    were_quick(pool, HEAD)
    reader.query(HEAD)
    busy = writers(pool, 3)
    last = pool.connect()
    last.send(query(WRITE))
    wait_until(lambda: last.frontend.unit is not None, "the write to wait")
    roster = pool.rosters[0]
    assert len(roster.waiting.alone) == 1
    roster.starting += 1
    roster.relayed += 1
    try:
        wait_until(lambda: last.frontend.unit is None or last.frontend.unit.worker is not None, "the kept worker")
    finally:
        roster.starting -= 1
        roster.relayed -= 1
        go_on(pool)
    assert all(client.until_ready().rows == [WRITE] for client in [*busy, last])


def test_nobody_rides_behind_a_head_that_has_been_running_for_long(few):
    """Nothing was behind it, so nobody had looked at it."""
    pool = few(2)
    first, second = pool.connect(), pool.connect()
    were_quick(pool, HEAD, "select r0")
    pool.server.stall(HEAD)
    worker = sent(first, HEAD)
    wait_until(lambda: time.monotonic() - worker.head_since > 0.01, "it to run for long")
    assert second.query("select r0").rows == ["select r0"]
    assert len(worker.in_flight) == 1
    go_on(pool)


# --- what is nobody's ------------------------------------------------------------------------------------------------


def test_a_worker_on_which_a_read_that_is_nobodys_has_opened_a_transaction_is_closed(few):
    """It was canceled while it stood behind another one, and would have left a transaction to whoever came next."""
    pool = few(1)
    _, head, (rider,) = convoy(pool, 1)

    def begin(backend: FakeBackend) -> None:
        backend.status = "T"
        backend.say(echo("select r0"))

    pool.server.answers["select r0"] = begin
    rider.frontend.cancel()
    assert rider.until_ready().errors == ["ERROR 57014"]
    go_on(pool)
    assert head.until_ready().rows == [HEAD]
    writer = pool.connect()
    assert writer.query(WRITE).status == "I"
    assert pool.server.backends[0].is_gone
    assert WRITE not in pool.server.backends[0].statements


# --- a server that is left out ---------------------------------------------------------------------------------------


def test_riders_do_not_wait_for_a_head_on_a_standby_that_is_left_out(start):
    pool = start(standbys=1, worker_min_cnt=[2] * 8, worker_per_fe_cnt=1000, max_workers=0, riders=True)
    hint = "/*s*/ "
    pool.connect()
    pool.cluster.start_standby_workers(pool.clients[0].frontend.group.login)
    standby = pool.cluster.standbys[0]
    wait_until(lambda: sum(len(roster.idle) for roster in standby.rosters.values()) == 2, "the standby's workers")
    head, rider = pool.connect(), pool.connect()
    were_quick(pool, hint + HEAD, hint + "select r0")
    pool.servers[1].stall(hint + HEAD)
    worker = sent(head, hint + HEAD)
    worker.head_since = time.monotonic() + 3600
    assert sent(rider, hint + "select r0") is worker
    worker.head_since = time.monotonic()
    pool.servers[1].silent = True
    standby.start_failed(ServerUnreachable("it does not answer"))
    try:
        assert rider.until_ready().rows == [hint + "select r0"]
    finally:
        for backend in pool.servers[1].backends:
            backend.go_on()
    assert head.until_ready().rows == [hint + HEAD]


# --- what is learned -------------------------------------------------------------------------------------------------


def begin_trial(pool: SmallPool, count: int) -> tuple[Worker, list[Client]]:
    """The only worker tries a shape that looks slow, for so many clients, and the server does not answer yet."""
    before, *tried = (pool.connect() for _ in range(1 + count))
    known(pool, SLOW)._low_s = 1.0
    pool.server.stall(SLOW)
    pool.server.stall("select before")
    worker = sent(before, "select before")
    for client in tried:
        client.send(query(SLOW))
    roster = pool.rosters[0]
    wait_until(lambda: len(roster.waiting.alone) == count, "them to wait")
    go_on(pool)
    before.until_ready()
    wait_until(lambda: len(worker.in_flight) == count, "the trial")
    return worker, tried


def end_trial(pool: SmallPool) -> None:
    del pool.server.answers[SLOW]
    go_on(pool)


def test_a_trial_counts_answers_of_what_is_tried_only(few):
    """The one before it, whose end it began at, was counted as its first: it was over before all were answered, and
    timed from when it was sent."""
    pool = few(1)
    worker, tried = begin_trial(pool, 4)
    left = worker._trial_left
    end_trial(pool)
    assert all(client.until_ready().rows == [SLOW] for client in tried)
    assert left == 4


def test_a_trial_of_which_one_was_canceled_ends_with_what_is_in_flight(few):
    pool = few(1)
    worker, tried = begin_trial(pool, 3)
    tried[-1].frontend.cancel()
    end_trial(pool)
    wait_until(lambda: not worker.in_flight, "all to be answered")
    assert worker._trial is None
    assert not known(pool, SLOW)._is_tried


def test_what_callbacks_do_is_not_taken_for_waiting():
    """The turn was taken to end before they ran: what came meanwhile seemed to have been waited for."""
    turns = Turns()
    ours, theirs = socket.socketpair()
    stream = net.Stream(ours)
    waited_s: list[float] = []

    def busy() -> None:
        theirs.send(b"x")
        until = time.monotonic() + 0.005
        while time.monotonic() < until:
            pass

    def at_once(_data: bytes) -> None:
        waited_s.append(turns._loop.now() - turns._ended_at)

    thread = gevent.spawn(stream.recv, at_once)
    gevent.sleep(0)
    turns.start()
    try:
        for count in range(1, 51):  # the machine may be busy with other things now and then, but not each time
            gevent.get_hub().loop.run_callback(busy)
            wait_until(lambda count=count: len(waited_s) == count)
            if count >= 5 and min(waited_s[1:]) < 0.002:
                break
        theirs.close()
        thread.join()
    finally:
        turns.stop()
        stream.close()
    assert min(waited_s[1:]) < 0.002


# --- more ------------------------------------------------------------------------------------------------------------


def test_a_rider_that_is_moved_leaves_a_place_whose_answer_is_nobodys(few):
    pool = few(2)
    worker, head, riders = convoy(pool, 5)
    for number, client in enumerate(riders):
        assert client.until_ready().rows == [f"select r{number}"]
    assert [type(unit) is Stale for unit in worker.in_flight] == [False] + [True] * 5
    go_on(pool)
    assert head.until_ready().rows == [HEAD]
    wait_until(lambda: len(pool.idle) == 2, "both to be idle")
    assert all(client.hears_nothing() for client in riders)


def test_reads_behind_one_that_has_failed_run_elsewhere_when_the_backend_dies_before_it_is_ready(few):
    """The head was told of a loss that made its outcome unknown, behind the error that it had been told."""
    pool = few(1)
    worker, head, others = convoy(pool, 3)
    backend = backend_behind(pool, worker)
    backend.say(DIVISION)
    backend.hang_up()
    answer = head.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 22012"], "I")
    assert [client.until_ready().rows for client in others] == [[f"select r{number}"] for number in range(3)]
    assert head.hears_nothing()


# --- many at a time --------------------------------------------------------------------------------------------------


def test_of_many_answers_half_are_let_come(few):
    pool = few(1)
    worker, head, others = convoy(pool, 31)
    assert worker.stream.wakes_at == 31 * LEAST_BYTES // 2
    go_on(pool)
    assert [client.until_ready().rows for client in others] == [[f"select r{number}"] for number in range(31)]
    assert head.until_ready().rows == [HEAD]
    assert worker.stream.wakes_at == 1


def test_answers_before_one_that_is_slow_are_passed_on_while_it_runs(few):
    """They are fewer bytes than are let come."""
    pool = few(2)
    pool.server.stall("select r2")
    worker, head, others = convoy(pool, 31)
    backend = backend_behind(pool, worker)
    go_on(pool)
    assert head.until_ready().rows == [HEAD]
    assert [client.until_ready().rows for client in others[:2]] == [["select r0"], ["select r1"]]
    wait_until(lambda: backend.is_waiting, "the slow one")
    assert [client.until_ready().rows for client in others[3:]] == [[f"select r{number}"] for number in range(3, 31)]
    assert others[2].hears_nothing()
    backend.go_on()
    assert others[2].until_ready().rows == ["select r2"]


def test_no_more_bytes_are_let_come_than_short_answers_have(few):
    pool = few(1)
    short = EMPTY_QUERY + READY[b"I"]
    pool.server.answers["select r7"] = lambda backend: backend.say(short)
    assert pool.connect().query("select r7").status == "I"
    worker, _, others = convoy(pool, 31)
    assert 1 < worker.stream.wakes_at < 31 * len(short)
    go_on(pool)
    assert all(client.until_ready().status == "I" for client in others)


def test_the_end_of_a_backend_is_seen_though_more_bytes_were_to_come(few):
    pool = few(1)
    worker, head, others = convoy(pool, 31)
    del pool.server.answers[HEAD]
    backend_behind(pool, worker).hang_up()
    assert head.until_ready().rows == [HEAD]
    assert [client.until_ready().rows for client in others] == [[f"select r{number}"] for number in range(31)]
