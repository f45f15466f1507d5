"""How many may come, how many workers they have, and for how long what they do may last."""

from __future__ import annotations

import contextlib
import threading
from contextlib import ExitStack

import psycopg2
import pytest

from tests import roles
from tests.cluster.conftest import own_pooler
from tests.cluster.rawclient import Raw, simple
from tests.workplace import wait_until

TRUST = roles.TRUST.name
OTHER = roles.OTHER_DATABASE
SESSIONS = {"pool_modes": [{"user": TRUST, "database": OTHER, "pool_mode": "session"}]}


@pytest.fixture(scope="module")
def pooler(cluster):
    with own_pooler(cluster, max_workers=2, worker_per_fe_cnt=5000, **SESSIONS) as pooler:
        yield pooler


@pytest.fixture(params=[roles.DATABASE, OTHER], ids=["statement", "session"])
def client(pooler, request):
    """A client in statement mode, and one in session mode."""
    with Raw(pooler.host, pooler.port, database=request.param) as client:
        client.query("select 1")
        yield client


@pytest.fixture
def limit(pooler):
    """Change limits for one test."""
    before = pooler.conf
    yield pooler.reload
    pooler.conf = before
    pooler.reload()


def notices(answer) -> list[str]:
    return [body.split(b"\0M")[1].split(b"\0")[0].decode() for tag, body in answer if tag == "N"]


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_statement_that_runs_for_too_long_is_canceled_and_its_client_is_told_why(limit, client, cluster):
    limit(query_timeout=0.3)
    answer = client.query("select pg_sleep(20), 'too long'")
    assert (answer.code, answer.status) == ("57014", "I")
    assert notices(answer) == ["this statement is canceled: it has run for longer than query_timeout"]
    limit(query_timeout=0)
    assert client.value("select 1") == "1"
    sql = "select count(*) from pg_stat_activity where state = 'active' and query like '%%too long%%' and pid <> %s"
    wait_until(lambda: cluster.primary.query(sql, [0])[0][0] <= 1)


def test_many_short_statements_are_not_taken_for_a_long_one(limit, client):
    limit(query_timeout=1.5)
    client.send(*(simple("select pg_sleep(0.1)") for _ in range(16)))
    assert [client.answer().status for _ in range(16)] == ["I"] * 16


def test_a_statement_in_a_transaction_that_is_canceled_fails_the_transaction(limit, client):
    client.query("begin")
    limit(query_timeout=0.3)
    assert client.query("select pg_sleep(20)").status == "E"
    limit(query_timeout=0)
    assert client.query("rollback").status == "I"


def test_a_transaction_that_is_idle_for_too_long_is_ended_and_rolled_back(limit, client, cluster):
    database = client.value("select current_database()")
    client.query("drop table if exists forgotten; create table forgotten (n int)")
    limit(idle_in_transaction_timeout=0.3)
    assert client.query("begin; insert into forgotten values (1)").status == "T"
    assert client.until("E").code == "25P03"
    assert client.is_closed()
    sql = "select count(*) from pg_locks where relation = 'forgotten'::regclass"
    wait_until(lambda: cluster.primary.query(sql, dbname=database)[0][0] == 0)
    assert cluster.primary.query("select count(*) from forgotten", dbname=database)[0][0] == 0


def test_a_transaction_in_which_something_is_run_again_and_again_goes_on(limit, client):
    limit(idle_in_transaction_timeout=1.5)
    client.query("begin")
    for _ in range(8):
        assert client.query("select pg_sleep(0.25)").status == "T"
    assert client.query("commit").status == "I"


def test_a_client_whose_statement_waits_is_told_once_that_it_does(limit, pooler):
    limit(query_wait_notify=0.2, max_workers=1)
    with Raw(pooler.host, pooler.port) as holder, Raw(pooler.host, pooler.port) as waiter:
        holder.query("begin")
        waiter.send(simple("select 'at last'"))
        first = waiter.until("N")
        assert notices(first) == ["this statement still waits for a server connection"]
        holder.query("select pg_sleep(0.5)")
        holder.query("commit")
        assert waiter.answer().tags == "TDCZ"


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "kind", "name"),
    [("max_user_client_connections", "role", TRUST), ("max_db_client_connections", "database", roles.DATABASE)],
)
def test_one_frontend_more_than_a_user_or_database_may_have_is_refused_in_the_servers_words(
    limit, pooler, setting, kind, name
):
    limit(**{setting: 2})
    with ExitStack() as stack:
        for _ in range(2):
            assert stack.enter_context(Raw(pooler.host, pooler.port)).key[0]
        with Raw(pooler.host, pooler.port) as third:
            error = third.greeting.error
            assert (error["S"], error["C"]) == ("FATAL", "53300")
            assert error["M"] == f'too many connections for {kind} "{name}"'
            assert setting in error["H"]
    with Raw(pooler.host, pooler.port) as again:
        assert again.value("select 1") == "1"


def test_the_pseudo_database_does_not_count(limit, pooler):
    limit(max_user_client_connections=1)
    with (
        contextlib.closing(pooler.connect(dbname="pseudo", **roles.ADMIN.login)),
        contextlib.closing(pooler.connect(dbname=roles.DATABASE, **roles.ADMIN.login)),
        contextlib.closing(pooler.connect(dbname="pseudo", **roles.ADMIN.login)),
        pytest.raises(psycopg2.OperationalError, match="too many connections for role"),
    ):
        pooler.connect(dbname=roles.DATABASE, **roles.ADMIN.login)


def backends(cluster) -> int:
    sql = "select count(*) from pg_stat_activity where usename = %s and backend_type = 'client backend'"
    return cluster.primary.query(sql, [TRUST])[0][0]


@pytest.mark.parametrize("setting", ["max_user_connections", "max_db_connections"])
def test_no_more_workers_are_started_than_a_user_or_database_may_have(limit, cluster, setting):
    with own_pooler(cluster, max_workers=10, grow_after=0, **{setting: 2}) as pooler, ExitStack() as stack:
        clients = [stack.enter_context(Raw(pooler.host, pooler.port)) for _ in range(6)]
        most = []
        is_over = threading.Event()
        watcher = threading.Thread(target=lambda: [most.append(backends(cluster)) for _ in iter(is_over.is_set, True)])
        before = backends(cluster)
        watcher.start()
        for each in clients:
            each.send(simple("select pg_sleep(0.2)"))
        assert [each.answer().code for each in clients] == [None] * 6
        is_over.set()
        watcher.join()
        assert max(most) <= before + 2


def test_who_has_no_worker_gets_the_place_of_an_idle_one(cluster):
    """Two databases of one user, who may have one worker: each statement closes the other's, and none is refused."""
    conf = {"max_user_connections": 1, "login_retry": 0.02, **SESSIONS}
    with own_pooler(cluster, **conf) as pooler, Raw(pooler.host, pooler.port) as one:
        for _ in range(3):
            assert one.value("select current_database()") == roles.DATABASE
            with Raw(pooler.host, pooler.port, database=OTHER) as other:
                assert other.value("select current_database()") == OTHER
