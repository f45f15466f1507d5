"""Nothing of one frontend ever reaches another: directed attempts, and a fuzz of many frontends at once.

The fuzz is seeded: LEAK_SEED repeats a run, LEAK_FRONTENDS and LEAK_STEPS make it larger (200 and 300 in full).
Its frontends are in `fuzz`.
"""

from __future__ import annotations

import contextlib
import os
import random

import pytest

from tests import roles
from tests.cluster.fuzz import DROP, SCHEMA, STATE, Frontend
from tests.cluster.wire import FLUSH, SYNC, Wire, bind, execute, once, parse, query
from tests.servers import Pooler
from tests.workplace import wait_until

FRONTENDS = int(os.environ.get("LEAK_FRONTENDS", "24"))
STEPS = int(os.environ.get("LEAK_STEPS", "80"))
SEED = int(os.environ.get("LEAK_SEED", "0")) or random.randrange(1, 1_000_000)

@pytest.fixture(scope="module")
def schema(cluster):
    cluster.primary.query("drop schema if exists leaks_1, leaks_2, leaks_3 cascade", dbname=roles.DATABASE)
    cluster.primary.query(SCHEMA, dbname=roles.DATABASE)
    cluster.wait_caught_up()
    yield
    cluster.primary.query(DROP, dbname=roles.DATABASE)


@pytest.fixture(scope="module")
def few(cluster, schema):
    """A pooler with very few workers, so that everybody meets what others left behind."""
    conf = {
        "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "max_workers": 3, "worker_per_fe_cnt": 100,
        "catalog_interval": 0.5,
    }  # fmt: skip
    with Pooler(conf, cluster=cluster) as pooler:
        yield pooler
    assert "Traceback" not in pooler.log
    assert "answered with status" not in pooler.log


def state(session: Wire) -> list[str | None]:
    """Everything that somebody could have left in the session."""
    return session.rows(STATE)[0]


# --- one attempt after the other ------------------------------------------------------------------------------------

ATTEMPTS = {
    "set": ["set search_path to leaks_3", "set application_name to 'stolen'", "set datestyle to german"],
    "set_custom": ["set leaks.tenant to 'stolen'"],
    "set_session": ["set session work_mem to '7MB'; set session characteristics as transaction read only"],
    "set_role": ["set role leaks_role"],
    "set_session_authorization": ["set session authorization default; set role leaks_role"],
    "set_config": ["select set_config('search_path', 'leaks_3', false)"],
    "set_config_by_parameter": [once("select set_config($1, $2, $3::bool)", "leaks.tenant", "stolen", "false")],
    "set_config_hidden_in_a_unicode_name": ["select U&\"set\\005fconfig\"('search_path', 'leaks_3', false)"],
    "set_config_with_an_escape": ["select set_config(E'search\\x5fpath', 'leaks_3', (1 = 2))"],
    "set_config_in_a_cte": ["with x as (select set_config('leaks.tenant', 'stolen', false)) select 1 from x"],
    "update_pg_settings": ["update pg_settings set setting = 'leaks_3' where name = 'search_path'"],
    "function": ["select leaks.leaky_set()", "select leaks.leaky_tenant()"],
    "function_by_search_path": ["begin; set local search_path to leaks; select leaky_tenant(); commit"],
    "function_in_the_extended_protocol": [once("select leaks.leaky_set()"), once("select leaks.leaky_lock()")],
    "function_that_locks": ["select leaks.leaky_lock()"],
    "function_that_makes_a_temporary_table": ["select leaks.leaky_temp()"],
    "function_that_listens": ["select leaks.leaky_listen()"],
    "operator": ["select operator(leaks.###) 1", "set search_path to leaks; select ### 1"],
    "view": ["table leaks.leaky_view"],
    "trigger": ["insert into leaks.triggered values (1, 'x')"],
    "trigger_behind_a_view": ["insert into leaks.writable values (1, 'x')"],
    "trigger_by_copy": ["copy leaks.triggered from stdin"],
    "do": ["do $$begin perform set_config('leaks.tenant', 'stolen', false); set search_path to leaks_3; end$$"],
    "call": ["call leaks.leaky_call()"],
    "explain_analyze": ["explain analyze select leaks.leaky_set()", "explain analyze create temp table t as select 1"],
    "lock": ["select pg_advisory_lock(7)", "select pg_try_advisory_lock_shared(8)"],
    "temporary_table": ["create temp table left_behind (n int)", "select 1 as n into temp left_too"],
    "listen": ["listen leaks_heard"],
    "prepare": ["prepare p as select 1", parse("select 2", "left_behind") + SYNC],
    "cursor": ["begin; declare c cursor with hold for select 1; commit"],
    "several": ["select 1; set search_path to leaks_3; select 2"],
    "open_transaction": ["begin; set local search_path to leaks_3; create temp table t (n int) on commit drop"],
    "failed_transaction": ["begin; set search_path to leaks_3; select 1 / 0"],
    "set_local_of_a_custom_setting": ["begin; set local leaks.tenant to 'mine'; commit"],
    "set_config_local_of_a_custom_setting": ["select set_config('leaks.tenant', 'mine', true)"],
    "custom_setting_rolled_back": ["begin; set leaks.tenant to 'mine'; rollback"],
    "execute": ["prepare q as select set_config('search_path', 'leaks_3', false)", "execute q"],
    "streamed": [parse("set search_path to leaks_3") + bind() + execute() + FLUSH + parse("set role leaks_role")
                 + bind() + execute() + SYNC],
    "query_inside_an_unsynced_unit": [
        parse("select 1") + query("set search_path to leaks_3") + SYNC,
        parse("select 1") + FLUSH + query("select leaks.leaky_lock()") + SYNC,
    ],
    "text_that_is_too_long_to_read": ["select '" + "x" * 70_000 + "', set_config('search_path', 'leaks_3', false)"],
    "parse_that_is_too_long_to_read": [
        once("select '" + "x" * 70_000 + "', set_config('leaks.tenant', 'stolen', false)")
    ],
    "text_that_cannot_be_read": ["select 1 /* open", "set search_path to 'leaks_3' /* open"],
    "seed": ["select setseed(0.5)"],
    "load": ["load 'auto_explain'"],
}  # fmt: skip


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stays"])
@pytest.mark.parametrize("name", ATTEMPTS)
def test_nothing_that_a_frontend_does_to_its_session_is_seen_by_another(few, name, leaves):
    with contextlib.ExitStack() as others:
        for group in ({}, {}, {"search_path": "leaks_1"}, {"leaks.tenant": "42"}):
            others.enter_context(watched(few, group))
        for attempt in ATTEMPTS[name]:
            thief = Wire(few)
            thief.send(attempt if isinstance(attempt, bytes) else query(attempt))
            if name == "trigger_by_copy":
                thief.until("G")
                thief.send(b"d\0\0\0\x081\ta\n", b"c\0\0\0\4")
            if not name.startswith("text_that_cannot"):
                thief.until_ready()
            if leaves:
                thief.sock.close()
            else:
                others.enter_context(thief)
            for _ in range(4):  # more than there are workers
                others.enter_context(watched(few, {}))


@contextlib.contextmanager
def watched(pooler, group):
    """A frontend whose session must be at the end what it was at the beginning, and that of any other of its group."""
    expected = {"search_path": '"$user", public', "leaks.tenant": None, "application_name": ""} | group
    with Wire(pooler, **group) as session:
        at_first = state(session)
        assert at_first[2:4] == [expected["search_path"], expected["application_name"]]
        assert at_first[5] == expected["leaks.tenant"]
        assert at_first[7:] == ["0", "0", "0", "0", "0"]
        yield
        assert state(session) == at_first
        assert [each.tag for each in session.ask(query("select 1"))] == ["T", "D", "C", "Z"]


def test_what_was_created_through_the_pool_is_dangerous_for_whoever_uses_it_next(few):
    """The trigger was not there when the catalog was scanned, and the INSERT is another frontend's, right behind it."""
    names = [f"fresh_{number}" for number in range(10)]
    with Wire(few, user=roles.TRUST.name) as maker, Wire(few) as user, Wire(few) as victim:
        for name in names:
            maker.rows(f"create table leaks_{name} (n int); grant all on leaks_{name} to public")
            assert user.rows(f"insert into leaks_{name} values (1) returning n") == [["1"]]
            maker.rows(
                f"""create function {name}() returns trigger language plpgsql as
                    $$begin
                        perform set_config('leaks.tenant', 'stolen', false); set search_path to leaks_3; return new;
                    end$$"""
            )
            maker.rows(f"create trigger t before insert on leaks_{name} for each row execute function {name}()")
            user.rows(f"insert into leaks_{name} values (1)")
            user.rows("discard all")
            assert state(victim)[2:6] == ['"$user", public', "", "4MB", None]
            maker.rows(
                f"create function {name}_f() returns text language sql as "
                "$$select set_config('search_path', 'x', false)$$"
            )
            user.rows(f"select {name}_f()")
            user.rows("discard all")
            assert state(victim)[2:6] == ['"$user", public', "", "4MB", None]
            maker.rows(f"create or replace function {name}_f() returns text language sql as $$select 'harmless'$$")
            assert user.value(f"select {name}_f()") == "harmless"
            maker.rows("begin")
            maker.rows(f"create view {name}_v as select set_config('work_mem', '9MB', false) as n")
            maker.rows(f"grant select on {name}_v to public")
            maker.rows("commit")
            user.rows(f"table {name}_v")
            assert state(victim)[2:6] == ['"$user", public', "", "4MB", None]
            maker.rows(f"drop table leaks_{name}; drop function {name}, {name}_f; drop view {name}_v")


@pytest.mark.parametrize("name", ["ddl", ""], ids=["named", "unnamed"])
def test_what_was_created_by_a_statement_that_was_prepared_before_is_dangerous_too(few, name):
    text = "create or replace view leaks_late as select set_config('work_mem', '{}MB', false) as n"
    with Wire(few) as maker, Wire(few) as user, Wire(few) as victim:
        maker.rows("create or replace view leaks_late as select 'harmless' as n; grant select on leaks_late to public")
        wait_until(lambda: user.value("table leaks_late") == "harmless", what="the view")
        for turn in range(5):
            maker.rows("create or replace view leaks_late as select 'harmless' as n")
            assert user.value("table leaks_late") == "harmless"
            maker.ask(parse(text.format(turn + 5), f"{name}{turn}" if name else "") + SYNC)
            for _ in range(200):  # meanwhile the catalog is scanned, and nothing has changed yet
                assert user.value("table leaks_late") == "harmless"
            answer = maker.ask(bind(name=f"{name}{turn}" if name else "") + execute() + SYNC)
            assert [each.tag for each in answer] == ["2", "C", "Z"]
            user.rows("table leaks_late")
            assert victim.value("show work_mem") == "4MB"
        maker.rows("drop view leaks_late")


def test_a_prepared_statement_is_dangerous_from_when_its_function_is(few):
    """What is known of its text is kept with it while it is run again and again."""
    function = "create or replace function leaks_turning() returns text language sql as $$ select {}::text $$"
    run = bind(name="turning") + execute() + SYNC
    with Wire(few) as maker, Wire(few) as user, Wire(few) as victim:
        maker.rows(function.format("'harmless'"))
        user.ask(parse("select leaks_turning()", "turning") + SYNC)
        for turn in range(3):
            for _ in range(20):  # the catalog is scanned meanwhile, and it is shared
                assert [each.values for each in user.ask(run) if each.tag == "D"] == [["harmless"]]
            maker.rows(function.format(f"set_config('work_mem', '{turn + 5}MB', false)"))
            for _ in range(20):
                assert [each.values for each in user.ask(run) if each.tag == "D"] == [[f"{turn + 5}MB"]]
                assert victim.value("show work_mem") == "4MB"
            user.rows("discard all")
            user.ask(parse("select leaks_turning()", "turning") + SYNC)
            maker.rows(function.format("'harmless'"))
        maker.rows("drop function leaks_turning()")


def test_a_custom_setting_whose_name_was_bound_to_a_prepared_statement_leaves_no_trace(few):
    with Wire(few) as thief:
        thief.ask(parse("select set_config($1, $2, true)", "by_name") + SYNC)
        thief.ask(bind("leaks.bound", "x", name="by_name") + execute() + SYNC)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            session = stack.enter_context(Wire(few))
            assert session.value("select current_setting('leaks.bound', true)") is None


def test_a_failed_transaction_has_not_made_the_name_of_a_custom_setting_known(few):
    """A frontend was taken for one that knows what it had only tried to set, and was shown '' for what it never had."""
    with contextlib.ExitStack() as stack:
        one, other, knowing, session = (stack.enter_context(Wire(few)) for _ in range(4))
        for each in (one, other):
            each.rows("begin")  # so that there is one worker for all else
        for text, tag in (("begin", "C"), ("select 1 / 0", "E"), ("set leaks.tenant to 'x'", "E"), ("rollback", "C")):
            assert [each.tag for each in session.ask(query(text))] == [tag, "Z"]
        knowing.rows("set leaks.tenant to 'mine'")
        assert session.value("select current_setting('leaks.tenant', true)") is None


def test_ddl_past_the_pool_is_seen_after_an_interval(cluster, few):
    with Wire(few) as victim:
        cluster.primary.query(
            "create or replace function leaks.harmless(n int) returns int language plpgsql as "
            "$$begin perform set_config('search_path', 'leaks_3', false); return n; end$$",
            dbname=roles.DATABASE,
        )

        def is_seen():
            with Wire(few) as user:
                user.rows("select leaks.harmless(1)")
            return state(victim)[2] == '"$user", public'

        try:
            # Those workers that were taken in before the scan must be cleaned too, or it would take for ever.
            wait_until(lambda: all(is_seen() for _ in range(20)), what="the catalog to be scanned")
        finally:
            cluster.primary.query(
                "create or replace function leaks.harmless(n int) returns int language sql as 'select n + 1'",
                dbname=roles.DATABASE,
            )


def test_ddl_past_the_pool_is_found_though_other_ddl_goes_through_it(cluster, few):
    """What a scan found was compared with what held, which was nothing any more since there was DDL through the pool:
    so the workers on which a function had been run that was not harmless any more were not cleaned."""
    wait_until(lambda: "catalog of app: " in few.log, what="the first scan")
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Wire(few)) for _ in range(3)]
        maker = stack.enter_context(Wire(few))

        def everywhere(sql: str) -> list[str | None]:
            for session in sessions:
                session.rows("begin")
            values = [session.value(sql) for session in sessions]
            for session in sessions:
                session.rows("commit")
            return values

        wait_until(lambda: everywhere("select leaks.changing()") == ["1"] * 3, what="the function")
        cluster.primary.query(
            "create or replace function leaks.changing() returns int language plpgsql as "
            "$$begin perform set_config('work_mem', '9MB', false); return 1; end$$",
            dbname=roles.DATABASE,
        )
        everywhere("select leaks.changing()")
        for _ in range(3):
            maker.rows("create or replace view leaks_other as select 1 as n")
        # Nobody runs anything meanwhile: while nothing is known of the catalog, whatever is run has its worker cleaned.
        wait_until(lambda: "changing (calls set_config())" in few.log, what="it to be suspect")
        assert everywhere("show work_mem") == ["4MB"] * 3
        maker.rows("drop view leaks_other")


def test_the_answer_of_a_frontend_that_vanished_is_nobody_elses(few):
    for size in (10, 100_000, 3_000_000):
        for _ in range(4):
            with Wire(few) as vanishing:
                vanishing.send(
                    query(f"select repeat('x', 1000) from generate_series(1, {size // 1000 + 1})"), query("listen x")
                )
            with Wire(few) as session:
                assert [each.tag for each in session.ask(query("select 'mine'"))] == ["T", "D", "C", "Z"]


# --- the fuzz -------------------------------------------------------------------------------------------------------


def test_many_frontends_that_do_everything_at_once_never_see_anything_of_each_other(cluster, few):
    frontends = [Frontend(few, number, SEED, STEPS) for number in range(FRONTENDS)]
    for frontend in frontends:
        frontend.start()
    for frontend in frontends:
        frontend.join()
    wrong = [
        f"{frontend.name}: {frontend.failure!r} after {list(frontend.story)}"
        for frontend in frontends
        if frontend.failure
    ]
    assert not wrong, f"LEAK_SEED={SEED}, {len(wrong)} of {len(frontends)}:\n" + "\n".join(wrong[:5])
    held = "select count(*) from pg_stat_activity where usename = %s and backend_type = 'client backend'"
    wait_until(
        lambda: cluster.primary.query(held, [roles.TRUST.name])[0][0] < 30,
        what="the workers of those that left to be free",
    )
