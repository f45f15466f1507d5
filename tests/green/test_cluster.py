"""How many workers there are, who gets which, and which server is asked: rosters, pools and the cluster at work."""

from __future__ import annotations

import gc
import time
import weakref
from itertools import pairwise

import gevent
import pytest

from lib.backend import staff
from lib.backend.groups import Group
from lib.backend.unit import Visit
from lib.backend.worker import Worker
from lib.counting import queries
from tests.green.fake_server import GREETING, FakeBackend
from tests.green.small_pool import Client, SmallPool, tuned, wait_until
from tests.wire_samples import built, complaint, parameter, query, ready, row

SLOW = "select slow"
READ = "select 1"
HINTED = "/*s*/ select 1"
FULL = complaint("FATAL", "53300", "sorry, too many clients already")
STARTING = complaint("FATAL", "57P03", "the database system is starting up")


def waiting(pool: SmallPool) -> int:
    return sum(backend.is_waiting for server in pool.servers for backend in server.backends)


def all_slow(pool: SmallPool, count: int) -> list[Client]:
    """So many clients, each with a statement that stalls or waits."""
    for server in pool.servers:
        server.stall(SLOW)
    clients = [pool.connect() for _ in range(count)]
    for client in clients:
        client.send(query(SLOW))
    return clients


def nobody_logs_in(pool: SmallPool) -> bool:
    return not any(roster.starting for roster in pool.rosters)


def let_all_go_on(pool: SmallPool, clients: list[Client]) -> None:
    def step() -> bool:
        for server in pool.servers:
            for backend in server.backends:
                if backend.is_waiting:
                    backend.go_on()
        return all(client.frontend.unit is None for client in clients)

    wait_until(step, "the end of all statements")
    for client in clients:
        assert client.until_ready().rows == [SLOW]


# --- how many workers ------------------------------------------------------------------------------------------------


def test_workers_are_as_many_as_the_specification_says(start):
    pool = start(worker_min_cnt=[2, 3, 5], worker_per_fe_cnt=2, max_workers=0)
    for frontends, workers in ((1, 2), (2, 3), (3, 5), (4, 5), (5, 5)):
        pool.connect().query(READ)
        wait_until(lambda workers=workers: len(pool.idle) == workers, f"{workers} workers for {frontends} frontends")
    gevent.sleep(0.02)
    assert len(pool.server.backends) == 5


def test_workers_are_added_one_at_a_time_while_statements_wait(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=3, grow_after=0.02)
    clients = all_slow(pool, 6)
    wait_until(lambda: waiting(pool) == 3, "the third worker")
    gevent.sleep(0.06)
    assert len(pool.server.backends) == 3
    let_all_go_on(pool, clients)


def test_no_worker_is_added_while_none_waits_for_long(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=10, grow_after=60)
    clients = all_slow(pool, 4)
    wait_until(lambda: waiting(pool) == 1)
    gevent.sleep(0.03)
    assert len(pool.server.backends) == 1
    let_all_go_on(pool, clients)


def test_a_server_that_has_no_place_for_one_more_is_shared(start, monkeypatch):
    monkeypatch.setattr(staff, "_REFUSED_PAUSE_S", 3600)
    pool = start(worker_per_fe_cnt=1000, max_workers=10, grow_after=0.01)
    pool.connect().query(READ)
    wait_until(lambda: nobody_logs_in(pool), "those that began while the first one took its time")
    there, before = len(pool.server.backends), pool.logins
    pool.server.refusal = FULL
    clients = all_slow(pool, there + 3)
    wait_until(lambda: pool.logins > before and nobody_logs_in(pool), "the attempt to grow to fail")
    attempts = pool.logins
    gevent.sleep(0.05)
    let_all_go_on(pool, clients)
    assert pool.logins == attempts
    assert len(pool.server.backends) == there


def test_a_worker_beyond_the_formula_goes_when_it_was_idle_for_long(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=3, grow_after=0.01, idle_timeout=0.05)
    clients = all_slow(pool, 3)
    wait_until(lambda: waiting(pool) == 3)
    let_all_go_on(pool, clients)
    wait_until(lambda: len(pool.workers) == 1, "the end of two workers")
    gevent.sleep(0.1)
    assert len(pool.workers) == 1
    assert clients[0].query(READ).rows == [READ]


def test_an_old_worker_is_replaced_when_it_is_idle(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=0, server_lifetime=0.05)
    client = pool.connect()
    client.query("begin")
    gevent.sleep(0.1)
    assert not pool.server.backends[0].is_gone
    client.query("commit")
    wait_until(lambda: pool.server.backends[0].is_gone, "the end of the old worker")
    wait_until(lambda: pool.idle, "the new worker")
    assert client.query(READ).rows == [READ]


def test_a_worker_that_somebody_keeps_for_a_session_is_not_one_of_those_that_are_shared(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=0)
    for _ in range(3):
        client = pool.connect()
        client.query("listen channel")
    assert pool.connect().query(READ).rows == [READ]
    assert len(pool.workers) == 4


def test_a_worker_that_nobody_has_asked_for_is_known_however_long_its_login_takes(start):
    """`pool new_worker` made a roster without frontends, which a sweep took away while the worker logged in: it was in
    no listing, could not be removed, and kept its connection for ever."""
    pool = start(max_workers=0)
    login = pool.cluster.login("app", "shop", ())
    starting = gevent.spawn(lambda: pool.cluster.primary.roster(login).start(pool._answer_for(login)))
    wait_until(lambda: pool.logins)
    pool.cluster.sweep(time.monotonic())
    worker = starting.get(timeout=30)
    assert pool.workers == [worker]


def test_workers_are_retired_when_what_they_logged_in_with_does_not_hold_any_more(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=2, grow_after=0.01)
    busy, idle = pool.connect(), pool.connect()
    busy.query("begin")
    idle.query(READ)
    pool.cluster.retire_workers("app")
    wait_until(lambda: sum(backend.is_gone for backend in pool.server.backends) == 1)
    assert busy.query(READ).status == "T"
    busy.query("commit")
    wait_until(lambda: pool.server.backends[0].is_gone and pool.server.backends[1].is_gone)
    assert idle.query(READ).rows == [READ]


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_a_statement_waits_for_a_worker_no_longer_than_it_may(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=0, query_wait_timeout=0.05)
    holder, other = pool.connect(), pool.connect()
    holder.query("begin")
    answer = other.query(READ)
    assert (answer.tags, answer.errors, answer.status) == ("EZ", ["ERROR 53300"], "I")
    assert answer[0].fields["H"]
    holder.query("commit")
    assert other.query(READ).rows == [READ]
    assert pool.server.statements == ["begin", "commit", READ]


def test_statements_that_wait_run_in_the_order_in_which_they_came(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=0)
    holder = pool.connect()
    holder.query("begin")
    clients = [pool.connect() for _ in range(5)]
    for number, client in enumerate(clients):
        client.send(query(f"select {number}"))
        wait_until(lambda client=client: client.frontend.unit is not None)
    holder.query("commit")
    for client in clients:
        client.until_ready()
    assert pool.server.statements[2:] == [f"select {number}" for number in range(5)]


def visit(pool: SmallPool, group: Group) -> tuple[list[bytes | None], Visit]:
    """A frontend that is being let in; what it was told is in the list: None for a worker, or an ErrorResponse."""
    told: list[bytes | None] = []
    visit = Visit(group, lambda: told.append(None), told.append)
    pool.cluster.dispatch(visit)
    return told, visit


def test_a_frontend_that_comes_in_learns_what_the_server_reports_for_its_settings(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=0)
    group = pool.connect(application_name="mine").frontend.group
    told, _ = visit(pool, group)
    wait_until(lambda: told)
    assert told == [None]
    assert group.parameters == {"server_version": "15.0", "application_name": "mine"}


def test_a_frontend_whose_settings_are_refused_learns_why(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=0)
    group = pool.connect(role="nobody").frontend.group
    error = complaint("ERROR", "22023", 'role "nobody" does not exist')
    pool.server.answers[tuned(group)] = error
    told, _ = visit(pool, group)
    wait_until(lambda: told)
    assert told == [error]


def test_many_who_come_in_at_once_are_not_too_many_for_a_worker(start):
    """Each visit was served within the one before: at some three hundred that waited the worker ended in a
    RecursionError, and those who waited had another one started."""
    pool = start(worker_per_fe_cnt=1000, max_workers=0)
    holder = pool.connect()
    holder.query("begin")
    (worker,) = pool.workers
    all_told = [visit(pool, holder.frontend.group)[0] for _ in range(600)]
    client = pool.connect()
    client.send(query(READ))
    wait_until(lambda: client.frontend.unit is not None)
    holder.query("commit")
    assert client.until_ready().rows == [READ]
    assert all_told == [[None]] * 600
    assert pool.workers == [worker] and pool.logins == 1


def test_a_frontend_that_left_while_it_was_being_let_in_is_told_nothing(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=0)
    holder = pool.connect()
    holder.query("begin")
    told, left = visit(pool, holder.frontend.group)
    left.is_wanted = False
    holder.query("commit")
    assert pool.connect().query(READ).rows == [READ]
    assert told == []


# --- a server that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["is down", "starts up", "is full"])
def test_statements_wait_for_a_primary_that_is_away_for_a_while(start, how):
    pool = start()
    client = pool.connect()
    client.query(READ)
    pool.server.refusal = {"is down": None, "starts up": STARTING, "is full": FULL}[how]
    pool.server.go_down()
    wait_until(lambda: not pool.workers, "the end of the worker")
    if how != "is down":
        pool.server.come_up()
    client.send(query("insert into t values (1)"))
    tried = pool.logins
    wait_until(lambda: pool.logins > tried + 1, "another attempt")
    assert client.hears_nothing()
    pool.server.refusal = None
    if how == "is down":
        pool.server.come_up()
    assert client.until_ready().rows == ["insert into t values (1)"]


def test_what_a_server_refuses_for_good_is_told_to_whoever_waits_and_they_stay(start):
    pool = start()
    pool.server.refusal = complaint("FATAL", "28P01", "password authentication failed")
    client = pool.connect()
    answer = client.query(READ)
    assert (answer.tags, answer.errors, answer.status) == ("EZ", ["ERROR 28P01"], "I")
    pool.server.refusal = None
    assert client.query(READ).rows == [READ]


def test_a_server_that_says_nothing_is_given_up_in_time_and_tried_again(start):
    pool = start(connect_timeout=0.1)
    pool.server.silent = True
    client = pool.connect()
    client.send(query(READ))
    wait_until(lambda: pool.logins == 2, "the second attempt")
    pool.server.silent = False
    assert client.until_ready().rows == [READ]


def test_a_server_that_is_down_is_tried_again_at_intervals(start):
    """While statements waited it was tried with every sweep, a hundred times in a second."""
    pool = start(login_retry=0.1)
    client = pool.connect()
    pool.server.go_down()
    client.send(query(READ))
    began = time.monotonic()
    wait_until(lambda: pool.logins >= 4, "some attempts")
    assert time.monotonic() - began > 0.2
    pool.server.come_up()
    assert client.until_ready().rows == [READ]


def test_a_worker_that_is_lost_before_it_has_answered_anything_is_not_replaced_at_once(start):
    """Settings that end every backend that is tuned to them took the server six hundred logins in a second."""
    pool = start(login_retry=0.1, query_wait_timeout=1, max_workers=0)
    client = pool.connect(application_name="mine")
    pool.server.answers[tuned(client.frontend.group)] = FakeBackend.hang_up
    began = time.monotonic()
    assert client.query(READ).errors == ["ERROR 53300"]
    assert 2 <= pool.logins <= 2 + (time.monotonic() - began) / 0.1
    del pool.server.answers[tuned(client.frontend.group)]
    assert client.query(READ).rows == [READ]


def test_a_server_that_is_cut_at_any_byte_of_a_login_is_tried_again(start):
    pool = start()
    client = pool.connect()
    greeting = GREETING + built("K", bytes(8)) + ready()

    def is_empty() -> bool:
        pool.cluster.retire_workers()  # those that began to log in a moment ago, too
        return not any(roster.workers or roster.starting for roster in pool.rosters)

    for size in range(0, len(greeting), 3):
        pool.server.greeting = greeting[:size]
        wait_until(is_empty, "the end of the worker")
        client.send(query("insert into t values (1)"))
        tried = pool.logins
        wait_until(lambda tried=tried: pool.logins > tried + 1, "another attempt")
        assert client.hears_nothing()
        pool.server.greeting = None
        assert client.until_ready().rows == ["insert into t values (1)"]


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"R\0\0\0\0", row("early"), b"\xff" * 100])
def test_something_that_is_no_server_is_told_to_whoever_waits(start, garbage):
    pool = start()
    pool.server.greeting = garbage
    client = pool.connect()
    answer = client.query(READ)
    assert (answer.tags, answer.errors) == ("EZ", ["ERROR 08P01"])
    pool.server.greeting = None
    assert client.query(READ).rows == [READ]


# --- standbys --------------------------------------------------------------------------------------------------------


def served_by(pool: SmallPool, client: Client, statement: str = HINTED) -> int:
    """Which server it was: 0 is the primary."""
    before = [len(server.statements) for server in pool.servers]
    assert client.query(statement).rows == [statement]
    ran = [len(server.statements) - count for server, count in zip(pool.servers, before, strict=True)]
    assert sum(ran) == 1
    return ran.index(1)


def with_standbys(pool: SmallPool, **options: bool) -> Client:
    """A client, when all standbys have workers."""
    client = pool.connect(**options)
    for _ in pool.servers:
        client.query(HINTED)
    wait_until(lambda: all(idle_on(pool, number) for number in range(len(pool.servers))), "workers everywhere")
    return client


def idle_on(pool: SmallPool, number: int) -> list[Worker]:
    return [worker for worker in pool.idle if worker.roster.address == pool.servers[number].address]


def test_what_is_not_hinted_goes_to_the_primary(start):
    pool = start(standbys=2)
    client = with_standbys(pool)
    for statement in (READ, " /*s*/ select 1", "/*S*/ select 1", "select /*s*/ 1"):
        assert served_by(pool, client, statement) == 0


def test_hinted_statements_go_to_the_standbys_in_turn(start):
    pool = start(standbys=2)
    client = with_standbys(pool)
    servers = [served_by(pool, client) for _ in range(6)]
    assert sorted(servers) == [1, 1, 1, 2, 2, 2]
    assert all(one != following for one, following in pairwise(servers))


def test_a_hinted_statement_of_somebody_who_may_not_use_standbys_goes_to_the_primary(start):
    pool = start(standbys=1)
    client = pool.connect(may_use_standbys=False)
    assert [served_by(pool, client) for _ in range(3)] == [0, 0, 0]
    assert pool.servers[1].backends == []


def test_a_transaction_that_begins_with_the_hint_stays_on_its_standby(start):
    pool = start(standbys=2)
    client = with_standbys(pool)
    begin = "/*s*/ begin"
    for server in pool.servers:
        server.answers[begin] = lambda backend: backend._session("begin", "Q")
        server.statements.clear()
    client.query(begin)
    client.query(READ)
    client.query(HINTED)
    client.query("commit")
    assert sorted(map(len, (server.statements for server in pool.servers))) == [0, 0, 4]


def test_a_standby_that_fails_is_left_out_and_used_again_when_it_is_back(start):
    pool = start(standbys=2, standby_check_interval=0.03)
    client = with_standbys(pool)
    pool.servers[1].go_down()
    wait_until(lambda: not idle_on(pool, 1), "the end of its workers")
    servers = {served_by(pool, client) for _ in range(6)}
    assert servers <= {0, 2}
    assert 2 in servers
    pool.servers[1].come_up()
    wait_until(lambda: idle_on(pool, 1), "the standby that is back")
    assert {served_by(pool, client) for _ in range(4)} == {1, 2}


def test_without_a_standby_that_can_be_used_the_primary_answers(start):
    pool = start(standbys=1, standby_check_interval=3600)
    client = with_standbys(pool)
    pool.servers[1].go_down()
    wait_until(lambda: not idle_on(pool, 1), "the end of its workers")
    assert {served_by(pool, client) for _ in range(3)} == {0}


def test_a_hinted_read_that_its_standby_took_with_it_is_run_elsewhere(start):
    pool = start(standbys=1)
    client = with_standbys(pool)

    def go_down(backend: FakeBackend) -> None:
        backend.server.go_down()

    pool.servers[1].answers["/*s*/ select 2"] = go_down
    assert client.query("/*s*/ select 2").rows == ["/*s*/ select 2"]
    assert pool.servers[0].statements[-1] == "/*s*/ select 2"


def test_what_a_standby_reports_of_itself_is_not_told_to_frontends(start):
    pool = start(standbys=1)
    client = with_standbys(pool)
    pool.servers[1].backends[0].say(parameter("in_hot_standby", "on"))
    assert client.hears_nothing()


@pytest.mark.parametrize("goes", ["removed", "left out"])
def test_a_standby_that_goes_is_swept_and_counted_until_it_has_finished(start, goes):
    """Its last statements had no limits any more, and were missing in counters that may never go down."""
    pool = start(standbys=1)
    client, cluster = with_standbys(pool), pool.cluster
    (standby,) = cluster.standbys
    slow = "/*s*/ select slow"
    pool.servers[1].stall(slow)
    client.send(query(slow))
    wait_until(lambda: waiting(pool) == 1, "it to run")
    before = queries(cluster).total()
    cluster.remove_standby(standby) if goes == "removed" else cluster.leave_out(standby)
    assert standby.state == ("leaving" if goes == "removed" else "left out")
    assert [worker.roster.pool for worker in cluster.busy_workers()] == [standby]
    assert queries(cluster).total() == before
    let_all_go_on_there(pool)
    assert client.until_ready().rows == [slow]
    wait_until(lambda: not standby.outgoing, "all of it to have ended")
    assert queries(cluster).total() == before + 1
    wait_until(lambda: (standby in cluster.all_pools) == (goes == "left out"), "nothing to be left of it")


def let_all_go_on_there(pool: SmallPool) -> None:
    for backend in pool.servers[1].backends:
        if backend.is_waiting:
            backend.go_on()


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_pool_that_is_closed_leaves_no_backend_behind(start):
    pool = start(standbys=1, worker_min_cnt=[3])
    client = pool.connect()
    client.query(HINTED)
    client.query(HINTED)
    wait_until(lambda: len(idle_on(pool, 0)) >= 3 and len(idle_on(pool, 1)) >= 3, "three workers on each server")
    client.query("begin")
    pool.cluster.close()
    backends = [backend for server in pool.servers for backend in server.backends]
    wait_until(lambda: sum(not backend.is_gone for backend in backends) == 1, "the end of the idle ones")
    assert client.query("commit").status == "I"
    wait_until(lambda: all(backend.is_gone for backend in backends), "the end of the last one")
    assert all(backend.received.endswith("X") for backend in backends)


@pytest.mark.loop_gap_ms(200)  # a whole collection is in it
def test_nothing_is_kept_of_frontends_that_have_left(start):
    """A pool that runs for a year must not remember everybody who was ever there."""
    pool = start(worker_per_fe_cnt=1000, max_workers=0)
    stays = pool.connect()
    left = []
    for number in range(30):
        client = pool.connect(application_name=f"number {number}")
        client.query("select 1" if number % 2 else "begin")
        left.append(weakref.ref(client.frontend))
        client.vanish()
        client.thread.join(30)
    stays.query(READ)
    pool.clients[1:] = []
    del client
    gevent.sleep(0)
    gc.collect()
    assert [each for each in left if each() is not None] == []
    assert len(pool.cluster._groups) == 1
    assert len(pool.rosters) == 1


def test_its_repr_says_who_is_who(start):
    pool = start(standbys=1, max_workers=0)
    with_standbys(pool)
    (host, port), (_, standby_port) = (server.address for server in pool.servers)
    assert repr(pool.cluster.primary) == f"<Pool 1 primary {host}:{port} rosters=1>"
    assert repr(pool.cluster.standbys[0]) == f"<Pool 2 standby {host}:{standby_port} rosters=1>"
    assert repr(pool.rosters[0]) == (
        f"<Roster app@shop on primary {host}:{port} workers=1 idle=1 held=0 starting=0 waiting=0>"
    )
