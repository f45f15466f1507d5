"""Which server runs what: `/*s*/` to the standbys in turn while they are there, everything else to the primary."""

from __future__ import annotations

import contextlib
from collections import Counter

import psycopg
import pytest

from tests.cluster.wire import FLUSH, SYNC, Wire, bind, describe, execute, once, parse, query
from tests.servers import Cluster, Pooler
from tests.workplace import wait_until

HBA = ["local all all trust", "host all all 127.0.0.1/32 trust"]
CONF = {"admin_cnn": {"user": "postgres", "database": "postgres"}, "standby_check_interval": 0.1, "login_retry": 0.05}
LOGIN = {"user": "app", "database": "app"}
WHERE = "select inet_server_port(), pg_is_in_recovery()"


@pytest.fixture(scope="module")
def farm():
    """A primary and two standbys of our own, as they are stopped here."""
    with Cluster(standbys=2, hba=HBA) as farm:
        farm.primary.query("create role app login superuser; create role reading login")
        farm.primary.query("create database app")
        farm.primary.query("create table things as select generate_series(1, 3) as n; create schema mine", dbname="app")
        farm.primary.query("create table mine.things as select 'mine' as n", dbname="app")
        farm.wait_caught_up()
        yield farm


@contextlib.contextmanager
def pooled(farm, **conf):
    with Pooler({**CONF, **conf}, cluster=farm) as pooler:
        yield pooler
    assert "Traceback" not in pooler.log


@pytest.fixture(scope="module")
def pool(farm):
    with pooled(farm) as pooler:
        wait_for_standbys(pooler, farm)
        yield pooler


def port(session: Wire, text: str = "/*s*/ " + WHERE, extended: bool = False) -> int:
    """The port of the server that answered."""
    answer = session.ask(once(text) if extended else query(text))
    row = next(each.values for each in answer if each.tag == "D")
    return int(row[0])


def ports(farm) -> set[int]:
    return {standby.port for standby in farm.standbys}


def wait_for_standbys(pooler, farm, wanted=None) -> None:
    """Until all of them (or those that are wanted) have workers and take their turn."""
    wanted = ports(farm) if wanted is None else wanted
    with Wire(pooler, **LOGIN) as session:
        wait_until(lambda: {port(session) for _ in range(6)} == wanted, what=f"{wanted} to be used")


def test_the_hint_is_for_the_primary_until_the_standbys_have_workers(farm):
    with pooled(farm) as pooler, Wire(pooler, **LOGIN) as session:
        assert port(session) == farm.primary.port
        wait_until(lambda: {port(session) for _ in range(4)} == ports(farm), what="the standbys to have workers")


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_statements_with_the_hint_go_to_the_standbys_in_turn_and_others_to_the_primary(farm, pool, extended):
    with Wire(pool, **LOGIN) as session:
        assert Counter(port(session, extended=extended) for _ in range(10)) == dict.fromkeys(ports(farm), 5)
        for text in (WHERE, " /*s*/ " + WHERE, "/* s */ " + WHERE, "/*S*/" + WHERE, "-- /*s*/\n" + WHERE):
            assert port(session, text, extended) == farm.primary.port


def test_a_pipeline_goes_where_each_of_its_units_belongs(farm, pool):
    with Wire(pool, **LOGIN) as session:
        texts = ["/*s*/" + WHERE, WHERE] * 10
        session.send(*(once(text) if number % 3 else query(text) for number, text in enumerate(texts)))
        rows = [next(each.values for each in session.until_ready() if each.tag == "D") for _ in texts]
    assert [row[1] for row in rows] == ["t", "f"] * 10


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (query("/*s*/begin"), query("commit")), (once("/*s*/ begin read only"), once("rollback")),
        (query("/*s*/begin; select 1"), query("end")),
    ],
)  # fmt: skip
def test_a_transaction_stays_where_its_begin_went(farm, pool, begin, end):
    used = set()
    with Wire(pool, **LOGIN) as session:
        for _ in range(4):
            session.ask(begin)
            within = {port(session, WHERE), port(session, WHERE, extended=True), port(session)}
            assert len(within) == 1
            used |= within
            session.ask(end)
            assert port(session, WHERE) == farm.primary.port
        session.ask(query("begin"))
        assert port(session) == farm.primary.port
        session.ask(query("commit"))
    assert used == ports(farm)


def test_a_transaction_in_one_text_runs_on_a_standby_as_a_whole(farm, pool):
    with Wire(pool, **LOGIN) as session:
        assert port(session, f"/*s*/begin; {WHERE}; commit") in ports(farm)
        assert port(session, WHERE) == farm.primary.port


def test_statements_that_are_streamed_or_prepared_first_go_to_the_standbys_too(farm, pool):
    with Wire(pool, **LOGIN) as session:
        session.send(parse("/*s*/" + WHERE), describe("S"), FLUSH)
        session.until("T")
        row = next(each.values for each in session.ask(bind(), execute(), SYNC) if each.tag == "D")
        assert row[1] == "t"
        session.ask(parse("/*s*/" + WHERE) + SYNC)
        for _ in range(4):
            row = next(each.values for each in session.ask(bind(), execute(), SYNC) if each.tag == "D")
            assert row[1] == "t"
        assert port(session, WHERE) == farm.primary.port
        long = f"/*s*/ select pg_is_in_recovery(), '{'x' * 100_000}'"
        for unit in (query(long), once(long)):
            assert next(each.values for each in session.ask(unit) if each.tag == "D")[0] == "t"


def test_a_driver_that_prepares_by_name_reads_from_a_standby(farm, pool):
    with psycopg.connect(host=pool.host, port=pool.port, user="app", dbname="app", autocommit=True) as connection:
        connection.prepare_threshold = 0
        for number in range(4):
            found = connection.execute("/*s*/ select pg_is_in_recovery(), %s::int", [number]).fetchone()
            assert found == (True, number)


@pytest.mark.parametrize(
    "text",
    ["insert into things values (4)", "create table x (n int)", "select nextval('s')", "table things for update",
     "begin read write", "vacuum things", "select * from nowhere", "notify x", "create temp table x (n int)"],
)  # fmt: skip
def test_what_a_standby_cannot_do_it_says_itself(farm, pool, text):
    with Wire(farm.standbys[0], **LOGIN) as direct, Wire(pool, **LOGIN) as session:
        for unit in (query("/*s*/" + text), once("/*s*/" + text)):
            assert session.ask(unit) == direct.ask(unit)


def test_what_was_written_on_the_primary_is_read_on_a_standby(farm, pool):
    with Wire(pool, **LOGIN) as session:
        session.rows("insert into things values (1000)")
        farm.wait_caught_up()
        assert session.rows("/*s*/ select n from things where n = 1000") == [["1000"]]
        session.rows("delete from things where n = 1000")


def test_settings_hold_on_the_standbys_too_and_their_own_parameters_are_not_told(farm, pool):
    with Wire(pool, search_path="mine", DateStyle="German", **LOGIN) as session, Wire(pool, **LOGIN) as other:
        before = dict(session.parameters)
        for _ in range(4):
            assert session.rows("/*s*/ select n, date '2001-02-03', pg_is_in_recovery() from things") == [
                ["mine", "03.02.2001", "t"]
            ]
            assert other.value("/*s*/ select count(*) from things") == "3"
            assert session.value("select n from things") == "mine"
        assert session.parameters == before
        assert before["in_hot_standby"] == "off"


def test_a_frontend_that_holds_its_worker_stays_with_it(farm, pool):
    with Wire(pool, **LOGIN) as session:
        session.rows("create temp table x as select 1")
        assert port(session) == farm.primary.port
        assert session.value("/*s*/ select count(*) from x") == "1"


def test_a_statement_on_a_standby_is_cancelled_there(farm, pool):
    with Wire(pool, **LOGIN) as session:
        session.send(query("/*s*/ select pg_sleep(100)"))
        active = "select count(*) from pg_stat_activity where state = 'active' and query like '/*s*/ select pg_sleep%'"
        wait_until(lambda: any(standby.query(active)[0][0] for standby in farm.standbys), what="it to run")
        session.cancel()
        (error,) = (each.fields for each in session.until_ready() if each.tag == "E")
        assert error["C"] == "57014"
        assert port(session) in ports(farm)


def test_only_frontends_of_conn_params_use_the_standbys_where_it_is_given(farm):
    given = [{"user": "reading", "database": "app", "application_name": "reader"}, {"user": "other", "dbname": "app"}]
    login = {"user": "reading", "database": "app"}
    with pooled(farm, conn_params=given) as pooler:
        count = "select count(*) from pg_stat_activity where usename = 'reading'"
        with Wire(pooler, **login) as session:
            for _ in range(4):
                assert port(session) == farm.primary.port
            assert [standby.query(count)[0][0] for standby in farm.standbys] == [0, 0]
            with Wire(pooler, application_name="reader", **login) as reader:
                wait_until(lambda: all(standby.query(count)[0][0] for standby in farm.standbys), what="their workers")
                assert Counter(port(reader) for _ in range(8)) == dict.fromkeys(ports(farm), 4)
                assert port(session) == farm.primary.port
            with Wire(pooler, application_name="writer", **login) as writer:
                assert port(writer) == farm.primary.port


def test_a_standby_that_is_stopped_is_left_out_and_comes_back(farm):
    gone, stays = farm.standbys
    with pooled(farm) as pooler, Wire(pooler, **LOGIN) as session:
        wait_for_standbys(pooler, farm)
        session.ask(query("/*s*/ select 1"))
        gone.stop("immediate")
        for _ in range(10):
            assert port(session) == stays.port
            assert port(session, WHERE) == farm.primary.port
        gone.start()
        wait_until(lambda: {port(session) for _ in range(4)} == ports(farm), what="the standby to be used again")


def test_the_primary_reads_when_all_standbys_are_gone(farm):
    with pooled(farm) as pooler, Wire(pooler, **LOGIN) as session:
        wait_for_standbys(pooler, farm)
        session.ask(parse("/*s*/" + WHERE) + SYNC)
        for standby in farm.standbys:
            standby.stop("fast")
        try:
            for _ in range(6):
                assert port(session) == farm.primary.port
                assert port(session, extended=True) == farm.primary.port
            with Wire(pooler, **LOGIN) as late:
                assert port(late) == farm.primary.port
        finally:
            for standby in farm.standbys:
                standby.start()
        wait_until(lambda: {port(session) for _ in range(4)} == ports(farm), what="the standbys to be used again")


def test_a_read_that_dies_with_its_standby_is_answered_by_another_and_a_transaction_is_not(farm):
    with pooled(farm) as pooler, Wire(pooler, **LOGIN) as session, Wire(pooler, **LOGIN) as reader:
        wait_for_standbys(pooler, farm)
        session.rows("/*s*/begin")
        used = port(session, WHERE)
        server = next(standby for standby in farm.standbys if standby.port == used)
        server.stop("immediate")
        try:
            error = session.error("select 1")
            assert error["C"] in ("08006", "08007")
            assert session.error("select 1")["C"] == "25P02"
            assert session.ask(query("rollback"))[-1] == ("Z", b"I")
            for _ in range(4):
                assert port(reader) != used
        finally:
            server.start()


def test_a_standby_that_is_down_at_the_start_does_no_harm(farm):
    farm.standbys[0].stop("fast")
    try:
        with pooled(farm) as pooler, Wire(pooler, **LOGIN) as session:
            wait_for_standbys(pooler, farm, {farm.standbys[1].port})
            farm.standbys[0].start()
            wait_until(lambda: {port(session) for _ in range(4)} == ports(farm), what="both to be used")
    finally:
        if not farm.standbys[0].is_running:
            farm.standbys[0].start()
