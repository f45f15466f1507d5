"""SIGHUP: settings change in a running pool, and nobody's statement or connection is lost by it."""

from __future__ import annotations

import contextlib
import threading

import psycopg2
import pytest

from tests import roles
from tests.certificates import Authority
from tests.cluster.conftest import own_pooler
from tests.cluster.rawclient import Raw
from tests.workplace import PATIENCE_S, free_port, wait_until

TRUST = roles.TRUST.name
APP = {"dbname": roles.DATABASE}


@pytest.fixture(scope="module")
def pooler(cluster):
    with own_pooler(cluster, max_workers=1, worker_per_fe_cnt=5000) as pooler:
        yield pooler


@pytest.fixture
def client(pooler):
    with Raw(pooler.host, pooler.port) as client:
        client.query("select 1")
        yield client


def workers(cluster) -> int:
    sql = "select count(*) from pg_stat_activity where usename = %s and backend_type = 'client backend'"
    return cluster.primary.query(sql, [TRUST])[0][0]


def test_a_reload_changes_nothing_of_a_file_that_says_the_same(pooler):
    assert "the conf file was reloaded: nothing has changed" in pooler.reload()


def test_statements_in_flight_and_waiting_are_answered_across_a_reload_that_brings_more_workers(
    pooler, client, cluster
):
    """One worker is busy, and another statement waits for it; with more workers allowed it gets one at once."""
    with Raw(pooler.host, pooler.port) as other, contextlib.closing(cluster.primary.connect(**APP)) as blocker:
        blocker.cursor().execute("select pg_advisory_lock(4711)")
        answers = []
        waits = "select pg_advisory_xact_lock(4711), 'slow'"
        slow = threading.Thread(target=lambda: answers.append(client.query(waits).rows))
        slow.start()
        sql = "select count(*) from pg_stat_activity where query like 'select pg_advisory_xact%%' and state = 'active'"
        wait_until(lambda: cluster.primary.query(sql)[0][0] == 1)
        quick = threading.Thread(target=lambda: answers.append(other.query("select 'quick' from pg_sleep(0)").rows))
        quick.start()
        assert "the conf file was reloaded: changed: max_workers" in pooler.reload(max_workers=4)
        quick.join(PATIENCE_S)
        blocker.close()
        slow.join(PATIENCE_S)
    assert answers == [[("quick",)], [("", "slow")]]


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"max_workers": "many"}, "max_workers is 'many'"),
        ({"max_workres": 3}, "max_workres is not a setting: did you mean max_workers?"),
        ({"admin_cnn": {**roles.ADMIN.login, "password": "wrong"}}, "admin_cnn is not let in by the primary"),
        ({"listen": [("127.0.0.1", 1), ("192.0.2.1", 7777)]}, "listen: 192.0.2.1:7777: Cannot assign"),
    ],
    ids=["value", "name", "login", "address"],
)
def test_a_file_that_is_wrong_is_complained_of_and_changes_nothing(pooler, client, conf, said):
    before = pooler.conf
    try:
        log = pooler.reload(**{"query_wait_timeout": 0.001, **conf})
        assert f"the conf file was not reloaded: {said}" in log
    finally:
        pooler.conf = before
    assert "nothing has changed" in pooler.reload()
    assert client.value("select 7") == "7"


def test_what_needs_a_restart_is_named_and_the_rest_is_taken_over(pooler, client):
    before = pooler.conf
    try:
        log = pooler.reload(track_application_name=False, log_level="debug")
    finally:
        pooler.conf = before
    assert "changed: log_level; needs a restart: track_application_name" in log
    with Raw(pooler.host, pooler.port) as other:
        other.query("select 1")
    wait_until(lambda: " DEBUG " in pooler.log)
    assert "changed: log_level" in pooler.reload()


def test_a_frontend_that_is_there_already_gets_the_limit_to_how_long_it_may_be_idle(pooler, client):
    with Raw(pooler.host, pooler.port, application_name="spared") as spared:
        pooler.reload(active_cnn_timeout=0.3, disable_conds_list=[[("application_name", "spared")]])
        assert client.until("E").code == "57P05"
        assert spared.value("select 1") == "1"
        pooler.reload(active_cnn_timeout=0, disable_conds_list=[])


def test_the_pool_listens_where_the_new_file_says_and_connections_stay(pooler, client):
    before, port = pooler.conf, free_port()
    try:
        pooler.reload(listen=[("127.0.0.1", port), (pooler.unix_dir, pooler.port)])
        with Raw("127.0.0.1", port) as other:
            assert other.value("select 1") == "1"
        with pytest.raises(OSError):
            Raw(pooler.host, pooler.port)
        assert client.value("select 2") == "2"
    finally:
        pooler.conf = before
        pooler.reload()
    with Raw(pooler.host, pooler.port) as other:
        assert other.value("select 3") == "3"


def test_new_frontends_are_in_the_new_mode_and_the_others_stay_in_theirs(pooler, client, cluster):
    rule = {"user": TRUST, "pool_mode": "session"}
    pooler.reload(pool_modes=[rule])
    try:
        with Raw(pooler.host, pooler.port) as session:
            assert session.value("select pg_backend_pid()") == str(session.key[0])
            assert client.value("select pg_backend_pid()") != str(client.key[0])
    finally:
        pooler.reload(pool_modes=[])


def test_riders_are_switched_off_and_on_under_load(pooler):
    """Reads go on all the time; none is lost and each gets its own answer."""
    is_over, wrong, asked = threading.Event(), [], [0] * 6

    def ask(index: int) -> None:
        with Raw(pooler.host, pooler.port) as one:
            while not is_over.is_set():
                number = f"1{index}{asked[index]}"
                answer = one.query(f"select {number}")
                if answer.rows != [(number,)]:
                    wrong.append(answer)
                asked[index] += 1

    threads = [threading.Thread(target=ask, args=[index]) for index in range(len(asked))]
    for thread in threads:
        thread.start()
    for riders in (False, True, False, True):
        before = min(asked)
        pooler.reload(riders=riders)
        wait_until(lambda before=before: min(asked) > before + 20)
    is_over.set()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- servers, TLS, freshness ------------------------------------------------------------------------------------------


def where(client) -> str:
    """The port of the server that answers a read that may go to a standby."""
    return client.value("/*s*/ select inet_server_port()")


def test_standbys_come_and_go(pooler, client, cluster):
    before = pooler.conf
    (one, other) = [(each.host, each.port) for each in cluster.standbys]
    try:
        pooler.reload(slaver=[one])
        wait_until(lambda: where(client) == str(one[1]))
        pooler.reload(slaver=[other])
        wait_until(lambda: where(client) == str(other[1]))
        pooler.reload(slaver=[])
        assert {where(client) for _ in range(4)} == {str(cluster.primary.port)}
    finally:
        pooler.conf = before
        pooler.reload()
    wait_until(lambda: {where(client) for _ in range(4)} == {str(one[1]), str(other[1])})


def test_reads_see_the_writes_before_them_as_soon_as_they_are_to(pooler, cluster):
    """The standbys stand still: with 'off' a read there misses the row, with 'frontend' it does not."""
    before = pooler.conf
    pooler.reload(read_your_writes="off")
    with Raw(pooler.host, pooler.port) as client:
        client.query("create table if not exists seen (n int); truncate seen")
        wait_until(lambda: client.query("/*s*/ select count(*) from seen").rows == [("0",)])
        for each in cluster.standbys:
            each.wait_replayed(cluster.primary.query("select pg_current_wal_lsn()")[0][0])
            each.query("select pg_wal_replay_pause()")
        try:
            client.query("insert into seen values (1)")
            assert client.value("/*s*/ select count(*) from seen") == "0"
            pooler.reload(read_your_writes="frontend")
            assert client.value("/*s*/ select count(*) from seen") == "1"
            pooler.reload(read_your_writes="off")
            assert client.value("/*s*/ select count(*) from seen") == "0"
            pooler.reload(max_lag=0.2, lag_check_interval=0.05)
            client.query("insert into seen values (2)")
            wait_until(lambda: where(client) == str(cluster.primary.port))
            pooler.reload(max_lag=0)
            assert where(client) != str(cluster.primary.port)
        finally:
            for each in cluster.standbys:
                each.query("select pg_wal_replay_resume()")
            client.query("drop table seen")
            pooler.conf = before
            pooler.reload()


def test_tls_is_offered_then_demanded_and_gone_again(pooler, client, tmp_path):
    before, pair = pooler.conf, Authority(tmp_path).issue()
    files = {"client_tls_cert_file": str(pair.cert), "client_tls_key_file": str(pair.key)}

    def is_let_in(sslmode: str) -> bool:
        try:
            login = {"user": TRUST, "dbname": roles.DATABASE}
            pooler.connect(sslmode=sslmode, **login).close()
        except psycopg2.OperationalError:
            return False
        return True

    try:
        assert not is_let_in("require")
        said = pooler.reload(**{**files, "client_tls_cert_file": str(tmp_path / "nothing.crt")})
        assert "was not reloaded: TLS: " in said
        pooler.conf = before
        pooler.reload(**files)
        assert (is_let_in("require"), is_let_in("disable")) == (True, True)
        pooler.reload(client_tls_sslmode="require")
        assert (is_let_in("require"), is_let_in("disable")) == (True, False)
        assert client.value("select 1") == "1"
    finally:
        pooler.conf = before
        pooler.reload()
    assert (is_let_in("require"), is_let_in("disable")) == (False, True)


def test_an_address_that_was_bound_is_given_up_when_another_setting_is_wrong(pooler, client):
    before, port = pooler.conf, free_port()
    try:
        said = pooler.reload(http_listen=port, listen=[("192.0.2.1", 7777)])
        assert "was not reloaded: listen: 192.0.2.1" in said
        pooler.conf = before
        assert "changed: http_listen" in pooler.reload(http_listen=port)
    finally:
        pooler.conf = before
        pooler.reload()
