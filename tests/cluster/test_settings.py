"""A frontend's settings are its own, wherever its statements run: the same is done directly and through the pooler."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import roles
from tests.cluster import wire
from tests.cluster.wire import SYNC, Wire, bind, describe, execute, once, parse, query
from tests.servers import Pooler
from tests.workplace import wait_until

CONF = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}}
TUNED = {"search_path": "mine, public", "DateStyle": "SQL, DMY", "application_name": "own", "app.tenant": "42"}


@pytest.fixture(scope="module")
def narrow(cluster):
    """One worker for everybody of a login, so that whoever holds it keeps the others waiting."""
    with Pooler({**CONF, "max_workers": 1, "query_wait_timeout": 5}, cluster=cluster) as pooler:
        yield pooler
    assert "Traceback" not in pooler.log


SHOW = """
    select current_setting('search_path'), current_setting('datestyle'), current_setting('application_name'),
           current_setting('app.tenant', true), convert_to(current_setting('app.member', true), 'UTF8'),
           current_setting('timezone'),
           current_user, session_user, current_setting('work_mem'), current_setting('client_encoding'),
           current_setting('default_transaction_read_only'), current_setting('extra_float_digits'),
           current_setting('plpgsql.check_asserts', true), current_setting('statement_timeout')
"""

CHECK_ASSERTS = 12

STORIES = {
    "set": ["set work_mem = '3MB'", "set session work_mem to 4096", "set work_mem to default"],
    "time_zone": ["set time zone 'Asia/Tokyo'", "set time zone 5.5", "set time zone local",
                  "set time zone interval '+08:00' hour to minute", "set timezone to default"],
    "names": ["set names 'latin1'", "set client_encoding to 'utf-8'", "set names default", "set names 'klingon'"],
    "schema": ["set schema 'mine'", "set search_path to mine, \"$user\", public", "set search_path to ''",
               "reset search_path"],
    "datestyle": ["set datestyle to german", "set datestyle to dmy", "set datestyle to iso, ymd", "reset datestyle"],
    "xml": ["set xml option document", "show xmloption", "set xml option content"],
    "characteristics": ["set session characteristics as transaction read only, isolation level serializable",
                        "create table never (n int)", "set session characteristics as transaction read write",
                        "show default_transaction_isolation"],
    "role": ["set role settings_role", "set role none", "set role settings_role", "reset role",
             "set role nobody_there", "set role settings_role", "reset all", "discard all"],
    "custom": ["set app.tenant to 7", "set app.member = 'it''s me'", "reset app.member", "set app.tenant to default",
               "set app.member to ''", "discard all"],
    "extension": ["set plpgsql.check_asserts to off", "do $$ begin end $$",
                  "set plpgsql.check_asserts to on"],
    "bad": ["set work_mem to 'much'", "set no_such_setting to 1", "set datestyle to nonsense", "reset no_such_setting",
            "set shared_buffers to '1GB'", "set server_version to 1", "set session authorization nobody_there", "set",
            "set work_mem", "set session_replication_role to replica", "reset", "set app. to 1"],
    "several": ["set work_mem = '3MB'; set timezone to 'Asia/Tokyo'", "set work_mem = '5MB'; reset work_mem",
                "reset all; set datestyle to german", "set work_mem = '6MB'; select 1/0", "select 1; reset all",
                "select pg_advisory_unlock_all(); close all; unlisten *; reset all;"],
    "transaction": ["begin", "set work_mem = '3MB'", "set app.member to 'x'", "commit"],
    "rolled_back": ["begin", "set work_mem = '3MB'", "set app.member to 'x'", "rollback"],
    "failed": ["begin", "set work_mem = '3MB'", "select 1/0", "set work_mem = '4MB'", "commit"],
    "savepoints": ["begin", "set work_mem = '3MB'", "savepoint a", "set work_mem = '4MB'; set datestyle to german",
                   "rollback to a", "set timezone to 'Asia/Tokyo'", "release a", "commit"],
    "local": ["begin", "set local work_mem = '3MB'", "set local datestyle to german", "commit",
              "begin; set work_mem = '7MB'; set local work_mem = '3MB'; commit"],
    "local_default": ["begin", "set local datestyle to german", "set local datestyle to default",
                      "set local search_path to default", "set local app.tenant to default", "rollback",
                      "set local datestyle to default", "begin; set local datestyle to default", "set work_mem = '1MB'",
                      "commit"],
    "reset_of_nothing": ["reset app.member", "reset work_mem", "reset search_path", "set app.member to default"],
    "one_text": ["begin; set work_mem = '3MB'; commit", "begin; set work_mem = '5MB'; rollback",
                 "begin; reset search_path; set datestyle to german; commit", "begin; discard all; commit", "rollback"],
    "reset_in_a_transaction": ["begin", "reset search_path", "reset all", "set role settings_role", "reset role",
                               "rollback", "begin", "set search_path to public", "reset all", "commit"],
    "set_config": ["select set_config('work_mem', '3MB', false)", "select set_config('app.member', 'me', false)",
                   "select set_config('work_mem', '4MB', true)", "select set_config('DateStyle', 'German', false)",
                   "select set_config('work_mem', '9MB', false) from generate_series(1, 0)",
                   "select set_config('app.' || 'member', 'you', false)", "select 1",
                   "select set_config('work_mem', null, false)"],
    "custom_by_call": ["select set_config('app.' || 'member', 'you', false)",
                       "select case when 1 > 2 then set_config('app.member', 'me', false) end",
                       "select set_config('app.member', upper('me'), false), set_config('app.tenant', '8', false)",
                       "select set_config('app.member', 'him', false) from generate_series(1, 0)",
                       "begin", "select set_config('app.member', lower('YOU'), false)", "savepoint a",
                       "select set_config('app.tenant', '9', false)", "rollback to a", "commit",
                       "begin; select set_config('app.tenant', '3', false); rollback", "reset app.tenant",
                       "select set_config('app.member', null, false)"],
    "functions": ["select set_tenant('5')", "select set_tenant('6'), set_tenant('7')",
                  "begin", "select set_tenant('8')", "rollback", "select set_zone('Asia/Tokyo')",
                  "select set_tenant('9') from generate_series(1, 0)",
                  "do $$ begin perform set_tenant('9'); set work_mem to '3MB'; reset search_path; end $$",
                  "do $$ begin execute 'set role settings_role'; end $$", "call set_role_back()",
                  "select set_zone('nowhere')", "do $$ begin set work_mem to '5MB'; raise 'no'; end $$",
                  "update pg_settings set setting = '2048' where name = 'work_mem'", "reset all"],
    "encodings": ["set app.member to 'Zoë'", "set client_encoding to 'latin1'", "select 1",
                  "set client_encoding to 'utf8'"],
    "discard": ["set work_mem = '3MB'", "discard plans", "discard temp", "discard sequences", "discard all"],
    "statement_timeout": ["set statement_timeout to 1", "set statement_timeout to 0"],
    "hidden": ["set dynamic_library_path to 'x'", "set local_preload_libraries to 'x'"],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def things(cluster):
    cluster.primary.query(
        f"create schema if not exists mine; drop role if exists settings_role; create role settings_role; "
        f"grant settings_role to {roles.TRUST.name}; grant usage on schema mine to public;"
        """
        create or replace function set_tenant(tenant text) returns text language sql as
            $$select set_config('app.tenant', tenant, false)$$;
        create or replace function set_zone(zone text) returns void language plpgsql as
            $$begin execute format('set timezone to %L', zone); end$$;
        create or replace procedure set_role_back() language plpgsql as $$begin reset role; end$$;
        """,
        dbname=roles.DATABASE,
    )
    yield
    cluster.primary.query("drop routine set_tenant, set_zone, set_role_back", dbname=roles.DATABASE)
    cluster.primary.query("drop schema mine cascade", dbname=roles.DATABASE)
    cluster.primary.query("drop role settings_role")


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("startup", [{}, TUNED], ids=["plain", "tuned"])
@pytest.mark.parametrize("name", STORIES)
def test_settings_are_what_they_are_on_a_connection_of_ones_own(cluster, narrow, name, startup, extended):
    heard = []
    for where in (cluster.primary, narrow):
        with Wire(where, **startup) as session, Wire(where) as other:
            before = other.rows(SHOW)
            steps = [session.rows(SHOW)]
            for text in STORIES[name]:
                answer = session.ask(once(text) if extended and ";" not in text else query(text))
                shown = [each.values for each in session.ask(query(SHOW)) if each.tag == "D"]
                if name == "functions":  # whether its worker has run PL/pgSQL before can be seen in one setting
                    shown = [row[:CHECK_ASSERTS] + row[CHECK_ASSERTS + 1 :] for row in shown]
                said = [each.fields["M"] if each.tag == "E" else each for each in answer if each.tag != "S"]
                said += sorted(each for each in answer if each.tag == "S")  # the server has no order for those
                steps.append((text, said, shown, dict(session.parameters)))
                if answer[-1] == ("Z", b"I"):
                    assert other.rows(SHOW) == before
            heard.append(steps)
    for direct, pooled in zip(*heard, strict=True):
        assert pooled == direct


# --- what it costs ----------------------------------------------------------------------------------------------------

DJANGO = [
    "set client_encoding to 'utf8'",
    "set default_transaction_isolation to 'read committed'",
    "set timezone to 'UTC'",
    "select set_config('search_path', 'mine, public', false)",
    "set statement_timeout to '30s'",
    "set application_name to 'shop'",
]
COUNT = "select count(*) from pg_stat_activity where usename = %s and backend_type = 'client backend'"


def test_frontends_that_begin_with_six_sets_need_no_more_backends_than_others(cluster):
    """A Django-like start, forty at a time."""
    with Pooler({**CONF, "max_workers": 0, "worker_per_fe_cnt": 20}, cluster=cluster) as pooler:
        others = cluster.primary.query(COUNT, [roles.TRUST.name])[0][0]
        with contextlib.ExitStack() as stack:
            sessions = [stack.enter_context(Wire(pooler)) for _ in range(40)]
            for session in sessions:
                session.send(*(query(text) for text in DJANGO), query(SHOW), query("select pg_backend_pid()"))
            pids = set()
            for session in sessions:
                answers = [session.until_ready() for _ in range(len(DJANGO) + 2)]
                row = next(each.values for each in answers[-2] if each.tag == "D")
                assert (row[0], row[2], row[5], row[-1]) == ("mine, public", "shop", "UTC", "30s")
                pids |= {tuple(each.values) for each in answers[-1] if each.tag == "D"}
            assert len(pids) <= 2
            assert cluster.primary.query(COUNT, [roles.TRUST.name])[0][0] - others <= 2


def test_a_new_value_for_every_request_leaves_nothing_behind(cluster):
    with Pooler({**CONF, "max_workers": 2}, cluster=cluster) as pooler:
        others = cluster.primary.query(COUNT, [roles.TRUST.name])[0][0]
        with Wire(pooler) as first, Wire(pooler) as second:

            def rounds(begin: int) -> int:
                for number in range(begin, begin + 1500):
                    session = (first, second)[number % 2]
                    session.rows(f"set app.member to 'user {number} {'x' * 100}'")
                    assert session.value("show app.member").startswith(f"user {number} ")
                return pooler.rss_bytes()

            rounds(0)
            memory = rounds(10_000)
            assert rounds(20_000) - memory < 2_000_000
            # One who sets it and one who never has cannot have the same backend.
            assert cluster.primary.query(COUNT, [roles.TRUST.name])[0][0] - others <= 3
            first.rows("reset app.member")
            assert first.value("show app.member") == ""
            assert second.value("show app.member").startswith("user 21499 ")


def _pids_of_both_kinds(pooler: Pooler, frontends: int, rounds: int, seconds: float) -> set[object]:
    """The backends of so many frontends that all ask at the same time; every other one knows a custom setting."""
    ask = f"select pg_backend_pid(), current_setting('app.kind', true) from pg_sleep({seconds})"
    pids = set()
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Wire(pooler)) for _ in range(frontends)]
        for session in sessions[::2]:
            session.rows("set app.kind to 'known'")
        for _ in range(rounds):
            for session in sessions:
                session.send(query(ask))
            for number, session in enumerate(sessions):
                ((pid, kind),) = (each.values for each in session.until_ready() if each.tag == "D")
                assert kind == (None if number % 2 else "known")
                pids.add(pid)
    return pids


def test_those_who_know_a_custom_setting_and_those_who_do_not_have_workers_of_their_own(cluster):
    """A backend never forgets the name of one. Each turn from the one kind to the other replaced a worker."""
    with Pooler({**CONF, "max_workers": 4}, cluster=cluster) as pooler:
        assert len(_pids_of_both_kinds(pooler, 16, rounds=30, seconds=0.001)) <= 24, "480 statements"


def test_each_kind_has_its_share_of_the_workers_where_everybody_waits_long(cluster):
    """Whoever had waited for long had a worker that was not fit for him replaced, though it was for those behind him;
    and the new one was the next moment given to one who set the custom setting again."""
    with Pooler({**CONF, "max_workers": 4}, cluster=cluster) as pooler:
        assert len(_pids_of_both_kinds(pooler, 40, rounds=8, seconds=0.02)) <= 20, "320 statements"


def test_a_reload_of_the_server_is_heard_of_by_those_who_have_set_something_else(cluster, narrow):
    with Wire(narrow) as session, Wire(narrow) as other:
        session.rows("set work_mem to '3MB'")
        cluster.primary.query("alter system set timezone to 'Asia/Tokyo'")
        try:
            cluster.primary.reload()
            for each in (session, other):
                wait_until(lambda each=each: each.value("show timezone") == "Asia/Tokyo", what="the reload to be seen")
                assert each.rows("select 1")
                assert each.parameters["TimeZone"] == "Asia/Tokyo"
            assert session.value("show work_mem") == "3MB"
        finally:
            cluster.primary.query("alter system reset timezone")
            cluster.primary.reload()


# What an ORM sends on every new connection, before its first query.
AT_CONNECT = (
    "select set_config('TimeZone', 'UTC', false)", "set client_encoding to 'UTF8'",
    "set default_transaction_isolation to 'read committed'", "set statement_timeout to '30s'",
    "set search_path to mine, public", "set application_name to 'shop'",
)  # fmt: skip


def test_clients_that_come_and_go_with_settings_have_the_workers_of_the_formula(cluster):
    with Pooler({**CONF, "max_workers": 0, "worker_per_fe_cnt": 40}, cluster=cluster) as pooler:
        with Wire(pooler) as session:  # until then a set_config() could be anything, and holds its worker
            wait_until(lambda: session.rows("select 1") and "catalog of app: " in pooler.log, what="the first scan")
        ask = "select pg_backend_pid(), current_setting('search_path'), current_setting('statement_timeout')"

        def come_and_go(_: int) -> set[str | None]:
            """The backends that five connections have had, one after the other."""
            pids = set()
            for _ in range(5):
                with Wire(pooler, client_encoding="UTF8") as session:
                    for text in AT_CONNECT:
                        session.rows(text)
                    ((pid, *own),) = session.rows(ask)
                    assert own == ["mine, public", "30s"]
                    pids.add(pid)
            return pids

        with ThreadPoolExecutor(20) as clients:
            pids = set().union(*clients.map(come_and_go, range(20)))
        # The next one of a client may come before the last one is seen to be gone.
        assert len(pids) == 1, "100 connections, at most 40 at a time, for each 40 of which there is a worker"


def test_a_statement_is_asked_after_with_the_settings_that_it_was_parsed_with(cluster, narrow):
    """The worker had last served somebody with another search_path, with which it has other columns: so its frontend
    was told that its result type had changed."""
    for schema, kind in (("asked_one", "int"), ("asked_two", "text")):
        cluster.primary.query(
            f"create schema {schema}; create table {schema}.typed as select 1::{kind} as n;"
            f"grant usage on schema {schema} to public; grant select on {schema}.typed to public",
            dbname=roles.DATABASE,
        )
    with contextlib.ExitStack() as stack:
        told, untold = (stack.enter_context(Wire(narrow, search_path="asked_one")) for _ in range(2))
        far = stack.enter_context(Wire(narrow, search_path="asked_two"))
        wait_until(lambda: far.rows("select 1") and "catalog of app: " in narrow.log, what="the first scan")
        told.ask(parse("select n from typed", "s") + describe("S", "s") + SYNC)
        untold.ask(parse("select n from typed", "s") + SYNC)  # from here on nobody knows what the backend takes it for
        assert far.rows("select n from typed") == [["1"]]
        for session in (told, untold):
            answer = session.ask(bind(name="s") + execute() + SYNC)
            assert [each.values for each in answer if each.tag == "D"] == [["1"]]


def test_application_names_can_be_cosmetic(cluster):
    with (
        Pooler({**CONF, "max_workers": 1, "track_application_name": False}, cluster=cluster) as pooler,
        Wire(pooler, application_name="first") as first,
        Wire(pooler, application_name="second") as second,
    ):
        assert (first.parameters["application_name"], second.parameters["application_name"]) == ("first", "second")
        assert first.value("show application_name") == second.value("show application_name") == ""
        first.rows("set application_name to 'third'")
        assert first.parameters["application_name"] == "third"
        second.rows("set work_mem to '3MB'")
        second.rows("begin; select set_config('work_mem', '5MB', false); commit")
        assert second.parameters["application_name"] == "second"
        assert first.value("show work_mem") == "4MB"
        assert second.value("show work_mem") == "5MB"
        pids = {session.value("select pg_backend_pid()") for session in (first, second)}
        assert len(pids) == 1
    assert "Traceback" not in pooler.log


# --- nobody else is affected ------------------------------------------------------------------------------------------


def test_a_frontend_that_leaves_behind_a_set_leaves_nothing_to_the_next(narrow):
    texts = ("set work_mem to '3MB'", "begin; set work_mem to '3MB'; commit", "set app.member to 'x'", "discard all")
    for text in texts:
        with Wire(narrow) as session:
            session.send(query(text), wire.TERMINATE)
        session = Wire(narrow)
        session.send(query(text))
        session.sock.close()
        with Wire(narrow) as next_one:
            assert next_one.value("show work_mem") == "4MB"
            assert next_one.value("select current_setting('app.member', true)") is None


def test_what_is_pipelined_behind_a_set_runs_with_it(narrow):
    with Wire(narrow) as session:
        session.send(*(query(f"set work_mem to '{n}MB'") + query("show work_mem") for n in range(2, 40)))
        found = []
        for _ in range(2, 40):
            session.until_ready()
            found += [each.values for each in session.until_ready() if each.tag == "D"]
        assert found == [[f"{n}MB"] for n in range(2, 40)]


def test_a_role_that_may_not_be_taken_on_any_more_is_told_to_its_frontend_alone(cluster, narrow):
    cluster.primary.query("drop role if exists settings_lost; create role settings_lost")
    cluster.primary.query(f"grant settings_lost to {roles.TRUST.name}")
    try:
        with Wire(narrow) as session, Wire(narrow) as other:
            session.rows("set role settings_lost")
            assert other.value("select current_user") == roles.TRUST.name
            cluster.primary.query(f"revoke settings_lost from {roles.TRUST.name}")
            assert session.error("select 1")["C"] == "42501"
            assert other.value("select current_user") == roles.TRUST.name
    finally:
        cluster.primary.query("drop role settings_lost")
