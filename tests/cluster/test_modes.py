"""Modes of pooling: transaction mode, names with @ro, and idle frontends in every mode."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from tests import roles
from tests.cluster.conftest import own_pooler
from tests.cluster.rawclient import Raw, bind, copy_data, execute, parse, simple

TRUST = roles.TRUST.name


def connect(where, **params) -> Raw:
    return Raw(where.host, where.port, **params)


# --- transaction mode -----------------------------------------------------------------------------------------------


def test_nothing_rides_in_transaction_mode(cluster):
    with own_pooler(cluster, pool_mode="transaction", max_workers=0) as pooler, contextlib.ExitStack() as stack:
        frontends = [stack.enter_context(connect(pooler)) for _ in range(8)]
        for each in frontends:
            each.query("select 1")
        sql = "select count(*) from pg_stat_activity where state = 'active' and query = 'select 2'"
        for _ in range(20):
            for each in frontends:
                each.send(simple("select 2"))
            assert all(each.answer().rows == [("2",)] for each in frontends)
        assert frontends[0].value(sql) == "0"


# --- @ro ------------------------------------------------------------------------------------------------------------

WHERE = "select inet_server_port(), pg_is_in_recovery()"


def ports(cluster) -> set[str]:
    return {str(standby.port) for standby in cluster.standbys}


@pytest.fixture(scope="module")
def pooler_of_both(cluster):
    """A pooler in which the role app_trust is in session mode, and all others in statement mode."""
    with own_pooler(cluster, pool_modes=[{"user": TRUST, "pool_mode": "session"}]) as pooler:
        yield pooler


@pytest.mark.parametrize("name", ["user", "database"])
def test_sessions_of_a_name_with_ro_are_each_on_a_standby_in_turn(cluster, pooler_of_both, name):
    names = {name: {"user": TRUST, "database": roles.DATABASE}[name] + "@ro"}
    with connect(pooler_of_both, **names) as one, connect(pooler_of_both, **names) as other:
        for session in (one, other):
            assert {session.value("select inet_server_port()") for _ in range(4)} < ports(cluster)
            assert session.value("select current_user") == TRUST
            assert session.query("create table never_made (n int)").code == "25006"
        assert one.value("select inet_server_port()") != other.value("select inet_server_port()")
        assert one.value("select pg_backend_pid()") == str(one.key[0])
    with connect(pooler_of_both) as session:
        assert session.value("select inet_server_port()") == str(cluster.primary.port)


def test_every_statement_of_a_name_with_ro_goes_to_the_standbys_in_statement_mode(cluster, pooler_of_both):
    params = {"host": pooler_of_both.host, "port": pooler_of_both.port, "dbname": roles.DATABASE}
    for role in (roles.SCRAM, roles.PASSWORD, roles.MD5):
        login = {**params, **role.login, "user": f"{role.name}@ro"}
        if role is roles.MD5:  # its clients hash their own idea of the user's name with the password
            login = {**params, **role.login, "dbname": f"{roles.DATABASE}@ro"}
        with psycopg.connect(**login, autocommit=True, prepare_threshold=None) as session:
            found = set()
            while {str(port) for port, _ in found} != ports(cluster):  # one may have its workers later than the other
                found.add(session.execute(WHERE).fetchone())
            assert all(in_recovery for _, in_recovery in found)
            with session.transaction():
                assert len({session.execute(WHERE).fetchone() for _ in range(4)}) == 1
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                session.execute("create table never_made (n int)")
        with psycopg.connect(**params, **role.login, autocommit=True) as session:
            assert session.execute(WHERE).fetchone() == (cluster.primary.port, False)


@pytest.mark.parametrize("user", [TRUST, roles.SCRAM.name], ids=["session", "statement"])
def test_without_a_standby_a_name_with_ro_reads_on_the_primary_and_does_not_write(cluster, user):
    conf = {"slaver": [("127.0.0.1", 9)], "pool_modes": [{"user": TRUST, "pool_mode": "session"}], "connect_timeout": 2}
    with own_pooler(cluster, **conf) as pooler:
        login = {"host": pooler.host, "port": pooler.port, "dbname": roles.DATABASE, "password": roles.SCRAM.password}
        with psycopg.connect(**login, user=f"{user}@ro", autocommit=True) as session:
            assert session.execute(WHERE).fetchone() == (cluster.primary.port, False)
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                session.execute("create table never_made (n int)")


# --- idle frontends -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(cluster):
    """A pooler that disconnects who idles for as long as a test says, but for those who call themselves patient."""
    conf = {
        "pool_modes": [{"database": roles.DATABASE, "pool_mode": "session"}],
        "disable_conds_list": [[("user", TRUST), ("application_name", "patient")]],
    }
    with own_pooler(cluster, **conf) as pooler:
        yield pooler


@pytest.fixture
def limit(impatient):
    """Has nobody idle for longer than half a second, from when it is called to the end of the test."""
    yield lambda: impatient.reload(active_cnn_timeout=0.5)
    impatient.reload(active_cnn_timeout=0)


BOTH_MODES = pytest.mark.parametrize("database", [roles.DATABASE, roles.OTHER_DATABASE], ids=["session", "statement"])


@BOTH_MODES
@pytest.mark.parametrize("last", ["select 1", "begin", "listen news"])
def test_who_is_idle_for_too_long_is_disconnected_and_who_is_spared_is_not(impatient, limit, database, last):
    with connect(impatient, database=database, application_name="patient") as patient:
        with connect(impatient, database=database) as idle:
            patient.query("select 1")
            idle.query(last)
            limit()
            error = idle.until("E").error
            assert (error["S"], error["C"]) == ("FATAL", "57P05")
            assert error["M"] == "terminating connection due to idle-session timeout"
            assert idle.is_closed()
        assert patient.value("select 1") == "1"


@BOTH_MODES
def test_nobody_is_idle_in_the_middle_of_a_statement(impatient, limit, database):
    with connect(impatient, database=database) as busy, connect(impatient, database=database) as copying:
        copying.query("create temp table t (n int)")
        copying.send(simple("copy t from stdin"))
        copying.until("G")
        sleeps = [simple("select pg_sleep(1.2)"), parse("select pg_sleep(1.2)") + bind() + execute() + b"S\0\0\0\4"]
        busy.send(*sleeps, simple("select 1"))
        limit()
        assert [busy.answer().tags for _ in range(3)] == ["TDCZ", "12DCZ", "TDCZ"]
        copying.send(copy_data(b"1\n"), b"c\0\0\0\4")
        assert copying.answer().commands == ["COPY 1"]
