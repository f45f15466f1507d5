"""Where a client in statement mode can tell the pooler from PostgreSQL: each row of the list in docs/clients.md.

A test that fails here because both do the same is good news, and its row is to be taken out of the list.
"""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

import psycopg
import pytest

from tests import roles
from tests.cluster.clients.test_idle import DOCUMENT, rows
from tests.cluster.clients.tools import new_role
from tests.cluster.conftest import Address
from tests.cluster.wire import FLUSH, SYNC, Wire, bind, describe, execute, parse, query, refusal, startup
from tests.pooler import Pooler
from tests.servers import Server
from tests.workplace import wait_until

SECTION = "Where a client can tell"


class Both(NamedTuple):
    directly: Address
    pooled: Address


@pytest.fixture
def both(cluster, pooler) -> Both:
    primary = cluster.primary
    return Both(Address(primary.host, primary.port, primary), Address(pooler.host, pooler.port, primary))


def test_every_difference_in_the_document_has_its_test_and_every_test_its_row():
    named = {name for row in rows(SECTION).values() for name in re.findall(r"`(test_\w+)`", row[-1])}
    here = {name for name in vars(sys.modules[__name__]) if name.startswith("test_") and "document" not in name}
    assert named == here, DOCUMENT


def test_currval_is_refused_outside_of_a_transaction(both):
    both.directly.query("drop sequence if exists numbers; create sequence numbers; grant all on numbers to public")
    with Wire(both.directly) as wire:
        assert wire.value("select nextval('numbers')") == wire.value("select currval('numbers')") == "1"
    with Wire(both.pooled) as wire:
        assert wire.value("select nextval('numbers')") == "2"
        assert wire.error("select currval('numbers')")["C"] == "55000"
        wire.rows("begin")
        assert wire.value("select nextval('numbers')") == "3"
        assert wire.value("select lastval() + currval('numbers')") == "6"
        wire.rows("commit")


def test_pid_and_port_are_those_of_a_worker(both):
    mine = "select pg_backend_pid(), inet_client_port()"
    with Wire(both.directly) as wire:
        assert wire.rows(mine) == [[str(wire.key[0]), str(wire.sock.getsockname()[1])]]
    with Wire(both.pooled) as wire:
        pid, port = wire.rows(mine)[0]
        assert pid != str(wire.key[0])
        assert port != str(wire.sock.getsockname()[1])
        wire.rows("begin")  # the same one until its end
        assert len({wire.value("select pg_backend_pid()") for _ in range(5)}) == 1
        wire.rows("commit")
        wire.rows("listen pids")  # as long as this lasts, too
        (told,) = (each for each in wire.ask(query("notify pids")) if each.tag == "A")
        assert int.from_bytes(told.body[:4], "big") == int(wire.value("select pg_backend_pid()")) != wire.key[0]


def test_what_code_sets_under_a_name_that_no_text_shows_is_gone(both):
    hidden = "do $$ begin execute 'set hid' || 'den.tenant to 5; set work_mem to ''5432kB'''; end $$"
    asked = "select current_setting('work_mem'), nullif(current_setting('hidden.tenant', true), '')"
    with Wire(both.directly) as wire:
        wire.rows(hidden)
        assert wire.rows(asked) == [["5432kB", "5"]]
    with Wire(both.pooled) as wire:
        wire.rows(hidden)
        assert wire.rows(asked) == [["5432kB", None]]
        wire.rows("begin")  # here it lasts as long as the transaction
        wire.rows(hidden)
        assert wire.rows(asked) == [["5432kB", "5"]]
        wire.rows("rollback")


def test_startup_values_that_are_brought_back_go_with_the_next_transaction_of_the_text(both):
    for where, shown in ((both.directly, "German, DMY"), (both.pooled, "ISO, MDY")):
        with Wire(where, DateStyle="German, DMY") as wire:
            wire.rows("listen held")
            wire.ask(query("reset all; commit; begin"))
            assert wire.value("show datestyle") == "German, DMY"
            wire.rows("rollback")
            assert wire.value("show datestyle") == shown
            wire.rows("reset all")
            assert wire.value("show datestyle") == "German, DMY"


def test_program_that_waits_for_itself_is_told_when_there_is_no_worker(cluster):
    conf = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "max_workers": 1, "query_wait_timeout": 0.2}
    with Pooler(conf, cluster=cluster) as pooler, Wire(pooler) as one, Wire(pooler) as other:
        one.rows("begin")
        assert other.error("select 1")["C"] == "53300"
        one.rows("commit")
        assert other.value("select 1") == "1"


def test_execute_that_is_prepared_itself_is_not_described(both):
    def described(where: Address) -> list[str]:
        with Wire(where) as wire:
            wire.ask(parse("select 1 as n", "own"), SYNC)
            wire.send(parse("execute own", "outer"), describe("S", "outer"), FLUSH)
            tags = [wire.receive().tag for _ in range(3)]
            wire.ask(SYNC)
            assert wire.value("execute own") == "1"
            return tags

    assert described(both.directly) == ["1", "t", "T"]
    assert described(both.pooled) == ["1", "t", "n"]


def test_view_of_prepared_statements_fails_where_one_cannot_be_parsed(both):
    def seen(where: Address) -> list[str]:
        both.directly.query("create table goes (n int); grant select on goes to public")
        with Wire(where) as wire:
            wire.ask(parse("select n from goes", "own"), SYNC)
            assert wire.value("select name from pg_prepared_statements") == "own"
            both.directly.query("drop table goes")
            return [each.tag for each in wire.ask(query("select name from pg_prepared_statements"))]

    assert seen(both.directly) == ["T", "D", "C", "Z"]
    assert seen(both.pooled) == ["E", "Z"]


def test_unnamed_statement_is_gone_after_a_pipeline_of_several_that_failed(both):
    def again(where: Address) -> str:
        with Wire(where) as wire:
            run = bind() + execute()
            wire.ask(parse("select 1 / 0"), run, parse("select 2"), run, SYNC)
            return next(each.fields["C"] for each in wire.ask(run, SYNC) if each.tag == "E")

    assert again(both.directly) == "22012"
    assert again(both.pooled) == "26000"


def test_literal_of_a_prepared_statement_is_read_by_what_a_transaction_has_set(both):
    def day(where: Address) -> str | None:
        with Wire(where) as wire:
            wire.ask(query("set datestyle to 'ISO, MDY'"))
            wire.ask(parse("select '02/03/2001'::date", "s"), SYNC)
            roles.end_backends(where.primary, roles.TRUST, but_pid=wire.key[0])
            # On the pool a worker may be lost with what it is given first.
            wait_until(lambda: wire.ask(query("begin"))[-1].body == b"T", what="a worker that is there")
            wire.ask(query("set local datestyle to 'ISO, DMY'"))
            inside = wire.ask(bind(name="s"), execute(), SYNC)[1].values[0]
            wire.ask(query("rollback"))
            assert wire.ask(bind(name="s"), execute(), SYNC)[1].values[0] == "2001-02-03"
            return inside

    assert day(both.directly) == "2001-02-03"
    assert day(both.pooled) == "2001-03-02"


@pytest.mark.needs_npm
def test_value_that_a_reset_leaves_as_it_was_is_not_reported_again():
    def reported(where: Server | Pooler) -> list[str]:
        with Wire(where, DateStyle="ISO, MDY") as wire:
            return [each.body.decode() for each in wire.ask(query("reset datestyle")) if each.tag == "S"]

    with Server("before-14", version=13, hba=roles.hba_lines()) as server:
        roles.create(server)
        conf = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "master": (server.host, server.port)}
        with Pooler(conf, name="before-14") as pooler:
            assert reported(server) == ["DateStyle\0ISO, MDY\0"]
            assert reported(pooler) == []


def test_replication_is_refused(both):
    request = startup(3 << 16, {"user": roles.TRUST.name, "database": roles.DATABASE, "replication": "database"})
    both.directly.query(f"alter role {roles.TRUST.name} replication")
    try:
        with Wire(both.directly, login=False) as wire:
            wire.send(request)
            assert wire.until_ready()[-1].tag == "Z"
        assert refusal(both.pooled, replication="database")["C"] == "0A000"
    finally:
        both.directly.query(f"alter role {roles.TRUST.name} noreplication")


def test_idle_session_timeout_does_not_end_the_client(both):
    role = new_role(both.directly, "app_idle_timeout")
    both.directly.query("alter role app_idle_timeout set idle_session_timeout = 100")
    with psycopg.connect(**both.directly.libpq(role), autocommit=True) as connection:
        wait_until(lambda: not both.directly.query("select 1 from pg_stat_activity where usename = 'app_idle_timeout'"))
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    with psycopg.connect(**both.pooled.libpq(role), autocommit=True) as connection:
        assert connection.execute("show idle_session_timeout").fetchone() == ("100ms",)
        wait_until(lambda: not both.directly.query("select 1 from pg_stat_activity where usename = 'app_idle_timeout'"))
        assert connection.execute("select 'alive'").fetchone() == ("alive",)


def test_client_outlives_its_backend_in_a_single_statement(both):
    end = "select pg_terminate_backend(pid) from pg_stat_activity where query = 'select pg_sleep(32)'"
    for address, state in ((both.directly, "57P01"), (both.pooled, "08007")):
        with Wire(address) as wire:
            wire.send(query("select pg_sleep(32)"))
            wait_until(lambda: both.directly.query(end), what="the statement to run")
            error = wire.until("E")[-1].fields
            assert error["C"] == state
            if address is both.pooled:
                assert error["S"] == "ERROR"
                wire.until_ready()
                assert wire.value("select 'alive'") == "alive"
