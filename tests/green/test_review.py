"""What a second look found: units that nobody woke, statements that ran in another's place, answers that were cut."""

from __future__ import annotations

import socket

import gevent
import pytest
from gevent.event import Event

from lib import connecting
from lib.backend import dialogue
from lib.errors import ServerUnreachable
from lib.frontend import Frontend
from lib.process import Process
from tests.green.fake_server import FakeBackend
from tests.green.small_pool import Client, SmallPool, in_transaction, wait_until
from tests.wire_samples import SYNC, TERMINATE, bind, complaint, complete, describe, execute, parse, query, row

READ = "select 1"
WRITE = "insert into t values (1)"
RUN = bind() + execute() + SYNC
FULL = complaint("FATAL", "53300", "sorry, too many clients already")


def begun(pool: SmallPool, statement: str) -> FakeBackend:
    """The backend that runs `statement`, which stalls."""
    wait_until(lambda: any(each.is_waiting and each.statements[-1:] == [statement] for each in pool.server.backends))
    return next(each for each in pool.server.backends if each.is_waiting and each.statements[-1:] == [statement])


# --- who waits is woken ----------------------------------------------------------------------------------------------


def test_a_read_that_lost_its_backend_is_given_to_an_idle_worker_when_the_server_is_full(start):
    """It was put into the queue beside the idle worker, and all that came later waited behind it: nobody woke them."""
    pool = start(worker_min_cnt=[2, 2], max_workers=0)
    one, other = pool.connect(), pool.connect()
    one.query("select 0")
    wait_until(lambda: len(pool.idle) == 2, "two workers")
    pool.server.stall(READ)
    one.send(query(READ))
    backend = begun(pool, READ)
    pool.server.refusal = FULL
    del pool.server.answers[READ]
    backend.hang_up()
    assert one.until_ready().rows == [READ]
    assert other.query("select 2").rows == ["select 2"]


def test_whoever_waits_gets_an_idle_worker_when_the_one_in_the_place_of_an_unfit_one_cannot_be_started(start):
    """One worker had known a custom setting; it went, no other came, and the idle ones were not looked at again."""
    pool = start(max_workers=0, worker_per_fe_cnt=1000)
    tenants = [pool.connect(**{"app.tenant": str(number)}) for number in range(2)]
    pool.server.stall(READ)
    tenants[0].send(query(READ))
    backend = begun(pool, READ)
    pool.rosters[0].grow()
    tenants[1].query("select 2")
    del pool.server.answers[READ]
    backend.go_on()
    tenants[0].until_ready()
    wait_until(lambda: len(pool.idle) == 2, "two idle workers that know a custom setting")
    pool.server.refusal = FULL
    plain = pool.connect()
    plain.send(query("select 3"))
    wait_until(lambda: pool.rosters[0].waiting, "the one that no worker may serve")
    pool.server.refusal = None
    assert plain.until_ready().errors == []


def test_whoever_knows_another_custom_setting_is_not_passed_over_while_a_transaction_has_the_worker_that_is_fit(start):
    """Whatever an idle worker knew, it was taken for the share of those who want custom settings: it was kept, for
    nobody, from the only one that waited, until somebody else's transaction was over."""
    pool = start(max_workers=2, worker_min_cnt=[2] * 3)
    in_transaction(pool)
    for name in ("app.one", "app.other", "app.one"):
        assert pool.connect(**{name: "1"}).query(WRITE).rows == [WRITE]


@pytest.mark.parametrize(
    ("many", "one"),
    [({"app.tenant": "1"}, {}), ({}, {"app.tenant": "1"})],
    ids=["the others know one", "it knows one"],
)
def test_nobody_is_passed_over_for_ever_for_those_who_keep_a_worker_busy(start, many, one):
    """The share of those who know a custom setting, or of those who know none, was in the hands of a transaction: so
    each free worker went to the others, as long as one of these waited."""
    pool = start(max_workers=3, worker_min_cnt=[3] * 9)
    holder = pool.connect(**one)
    assert holder.query("begin").status == "T"
    in_transaction(pool)
    others = [pool.connect(**many) for _ in range(6)]
    for each in others:
        assert each.query(WRITE).errors == []

    def go_on(client: Client) -> None:
        client.send(*[query(WRITE)] * 5)  # it has always sent the next one when one is answered
        while True:
            assert client.query(WRITE).rows == [WRITE]

    busy = [gevent.spawn(go_on, each) for each in others]
    try:
        wait_until(lambda: len(pool.rosters[0].waiting) == len(others) - 1, "all but one of them to wait")
        assert pool.connect(**one).query("insert into t values (2)").errors == []
    finally:
        gevent.killall(busy)
    assert holder.query("commit").status == "I"


def test_a_process_without_file_descriptors_cannot_reach_a_server_and_says_so(monkeypatch):
    """The error was none of ours, so the worker that wanted to cancel was kept from everybody for ever."""

    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    with pytest.raises(ServerUnreachable, match="Too many open files"):
        connecting.connect(("127.0.0.1", 1), 1.0)
    assert dialogue.cancel(("127.0.0.1", 1), (1, b"four"), 1.0, lambda: True)


# --- what runs is what was sent --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [query("rollback"), parse("rollback") + RUN], ids=["simple", "extended"])
def test_an_unnamed_statement_of_a_lost_transaction_is_gone_when_another_has_taken_its_place(pool, end):
    """It ran again outside of any transaction, and its worker was not cleaned of what it leaves."""
    client = pool.connect()
    client.query("begin")
    client.send(parse("do $$ leaves something $$") + SYNC)
    client.until_ready()
    pool.server.backends[-1].hang_up()
    wait_until(lambda: client.frontend.worker is None)
    client.send(RUN)
    assert client.until_ready().status == "E"
    client.send(end)
    assert client.until_ready().status == "I"
    client.send(bind() + execute() + SYNC)
    client.until_ready()
    assert "do $$ leaves something $$" not in pool.server.statements


def test_a_commit_of_a_lost_transaction_ends_it_when_it_is_executed_and_not_when_it_is_parsed(pool):
    """Drivers parse and describe first. That ended the transaction, and what was executed then was something else."""
    client = pool.connect()
    client.query("begin")
    client.send(parse(WRITE) + SYNC)
    client.until_ready()
    pool.server.backends[-1].hang_up()
    wait_until(lambda: client.frontend.worker is None)
    client.send(RUN)
    assert client.until_ready().status == "E"
    client.send(parse("commit") + describe("S") + SYNC)
    answer = client.until_ready()
    assert (answer.tags, answer.status) == ("1tnZ", "E")
    client.send(RUN)
    answer = client.until_ready()
    assert (answer.tags, answer.status) == ("2CZ", "I")
    assert WRITE not in pool.server.statements


def test_what_was_pipelined_in_front_of_a_goodbye_runs(start):
    """A script that sends its last statements and leaves: the server would run them all."""
    pool = start(worker_per_fe_cnt=1000, max_workers=0)
    other, client = pool.connect(), pool.connect()
    pool.server.stall(READ)
    other.send(query(READ))
    backend = begun(pool, READ)
    client.send(query("insert 1"), query("insert 2"), TERMINATE)
    gevent.sleep(0.02)
    backend.go_on()
    wait_until(lambda: pool.server.statements == [READ, "insert 1", "insert 2"], "both statements")
    client.thread.join(30)
    assert client.thread.dead


# --- who reads slowly ------------------------------------------------------------------------------------------------


def test_a_slow_reader_has_the_whole_answer_before_the_pool_stops(start):
    """What the client had not read yet was thrown away, though its statement had been answered in time."""
    pool = start(worker_per_fe_cnt=1000, max_workers=0, client_buffer=10_000_000)
    pool.server.answers[READ] = row("x" * 10_000) * 300 + complete("SELECT 300")
    client = pool.connect()
    client.send(query(READ))
    wait_until(lambda: client.frontend.stream.pending and client.frontend.unit is None, "an answer that is not read")
    client.frontend.stop()
    assert len(client.until_ready().rows) == 300
    assert client.until_end().errors == ["FATAL 57P01"]


# --- what nobody thought of costs no more than itself ----------------------------------------------------------------


def test_a_worker_whose_thread_fails_is_closed_and_not_left_with_nobody_to_read_from_it(pool, monkeypatch):
    """It stayed in its roster, with what was in flight, and nobody was ever told."""
    client, other = pool.connect(), pool.connect()
    client.query(READ)
    failing = set(pool.workers)

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Frontend, "read_done", fail)
        client.send(query(READ))
        client.until_ready()
        wait_until(lambda: not failing & set(pool.workers), "the end of the worker")
    client.vanish()
    assert other.query("select 2").rows == ["select 2"]


def test_limits_are_kept_after_one_of_them_could_not_be():
    class Cluster:
        crowded = Event()
        sweeps = 0

        def sweep(self, now: float) -> bool:
            self.sweeps += 1
            if self.sweeps == 1:
                raise RuntimeError("a bug")
            return False

    process = Process.__new__(Process)
    process.cluster = cluster = Cluster()  # type: ignore[assignment]
    thread = gevent.spawn(process._sweep)
    wait_until(lambda: cluster.sweeps > 1, "another sweep")
    thread.kill()
