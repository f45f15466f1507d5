"""What holds a worker for a session, how its frontend is told, and when the worker is given back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests import roles
from tests.cluster import wire
from tests.cluster.wire import Wire, once, query
from tests.servers import Pooler
from tests.workplace import wait_until

CONF = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "max_workers": 1}
ASYNCPG_RESET = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;"


@pytest.fixture(scope="module")
def narrow(cluster) -> Iterator[Pooler]:
    """One worker for everybody of a login, and those that are held."""
    with Pooler({**CONF, "pin_notice": True}, cluster=cluster) as pooler:
        yield pooler
    assert "Traceback" not in pooler.log


@pytest.fixture(scope="module", autouse=True)
def things(cluster) -> Iterator[None]:
    cluster.primary.query("create schema if not exists held; grant all on schema held to public", dbname=roles.DATABASE)
    yield
    cluster.primary.query("drop schema held cascade", dbname=roles.DATABASE)


def pid(session: Wire) -> str | None:
    return session.value("select pg_backend_pid()")


def is_shared(session: Wire, others: list[Wire]) -> bool:
    """Whether it has the same worker as the others, of whom there are more than workers."""
    return len({pid(each) for each in (session, *others)}) == 1


WAYS = {
    "unlisten": ["listen news", "unlisten news"],
    "unlisten_all": ["listen news; listen other", "unlisten other", "unlisten *"],
    "drop": ["create temp table t as select 1", "insert into t values (2)", "drop table t"],
    "discard_temp": ["create temp table t as select 1", "discard temp"],
    "on_commit_drop": ["begin; create temp table t (n int) on commit drop", "commit"],
    "rolled_back": ["begin", "listen news", "create temp table t (n int)", "rollback"],
    "unlock": ["select pg_advisory_lock(1), pg_advisory_lock(2)", "select pg_advisory_unlock(1)",
               "select pg_advisory_unlock(2)"],
    "unlock_all": ["select pg_advisory_lock(1)", "select pg_advisory_unlock_all()"],
    "close": ["begin; declare c cursor with hold for select 1; commit", "close c"],
    "close_all": ["declare c cursor with hold for select generate_series(1, 3)", "fetch 2 from c", "close all"],
    "deallocate": ["prepare p as select 1", "deallocate p"],
    "discard_all": ["listen news", "create temp table t as select 1", "prepare p as select 1", "discard all"],
    "discard_all_after_a_block": ["listen news", "do $$ begin execute 'set work_mem = ''7MB'''; end $$", "discard all"],
    "reset_of_asyncpg": ["listen news", "select pg_advisory_lock(1)", "set work_mem = '3MB'", ASYNCPG_RESET],
    "an_error": ["create temp table t as select 1 / 0", "select pg_advisory_unlock_all()"],
}  # fmt: skip


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("name", WAYS)
def test_a_worker_is_given_back_when_nothing_of_the_session_is_left(narrow, name, extended):
    with Wire(narrow) as session, Wire(narrow) as one, Wire(narrow) as two:
        *before, last = WAYS[name]
        for text in before:
            session.ask(once(text) if extended and ";" not in text else query(text))
            if not text.startswith(("begin", "create temp table t as select 1 /")):
                assert not is_shared(session, [one, two])
        answer = session.ask(once(last) if extended and ";" not in last else query(last))
        assert "E" not in [each.tag for each in answer]
        wait_until(lambda: is_shared(session, [one, two]), what="the worker to be shared again")
        assert one.rows("select * from pg_listening_channels()") == []
        assert one.value("select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()") == "0"


def test_settings_go_along_when_a_worker_is_given_back(narrow):
    with Wire(narrow, DateStyle="German") as session, Wire(narrow) as one, Wire(narrow) as two:
        session.rows("listen news")
        session.rows("set work_mem = '3MB'; set held.mine to 'x'; set timezone to 'Asia/Tokyo'; set datestyle to iso")
        session.rows("reset timezone; reset datestyle")
        session.rows("unlisten *")
        show = "select current_setting('work_mem'), current_setting('held.mine', true), current_setting('datestyle')"
        assert session.rows(show) == [["3MB", "x", "German, DMY"]]
        assert session.parameters["DateStyle"] == "German, DMY"
        assert one.rows(show) == [["4MB", None, "ISO, MDY"]]
        assert two.rows(show) == [["4MB", None, "ISO, MDY"]]


def test_what_is_left_of_a_session_still_holds_the_worker(narrow):
    with Wire(narrow) as session, Wire(narrow) as one, Wire(narrow) as two:
        session.rows("select pg_advisory_lock(1), pg_advisory_lock(2); create temp table t as select 1 as n; listen a")
        for text in ("select pg_advisory_unlock(1)", "drop table t", "unlisten a", "close all", "deallocate all"):
            session.rows(text)
            assert not is_shared(session, [one, two])
        assert one.value("select pg_try_advisory_lock(2)") == "f"
        assert session.value("select pg_advisory_unlock(2)") == "t"


@pytest.mark.parametrize(
    "text",
    [
        "unlisten *", "close all", "deallocate all", "discard plans", "discard temp", "discard sequences", "reset all",
        "select pg_advisory_unlock_all()", "discard all", ASYNCPG_RESET,
    ],
)  # fmt: skip
def test_what_gives_something_back_makes_nobody_hold_a_worker(narrow, text):
    with Wire(narrow) as session, Wire(narrow) as one, Wire(narrow) as two:
        wait_until(lambda: is_shared(session, [one, two]))
        session.rows(text)
        assert is_shared(session, [one, two])


# --- being told -----------------------------------------------------------------------------------------------------


def notices(answer: list[wire.Message]) -> list[dict[str, str]]:
    return [each.fields for each in answer if each.tag == "N"]


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_a_frontend_is_told_once_that_it_holds_a_worker(narrow, extended):
    with Wire(narrow) as session:
        send = once if extended else query
        assert notices(session.ask(send("set work_mem = '3MB'"))) == []
        assert notices(session.ask(send("begin"))) == []
        assert notices(session.ask(send("commit"))) == []
        answer = session.ask(send("listen news"))
        (notice,) = notices(answer)
        assert (notice["S"], notice["V"], notice["C"]) == ("NOTICE", "NOTICE", "01000")
        assert notice["M"] == "this session now has a server connection of its own"
        assert "leaves something in the session" in notice["D"]
        assert [each.tag for each in answer if each.tag in "NCEZ"] == ["N", "C", "Z"]
        assert notices(session.ask(send("listen other"))) == []
        assert notices(session.ask(send("create temp table t (n int)"))) == []


def test_a_frontend_is_told_that_nobody_can_tell_what_it_has_set(narrow):
    with Wire(narrow) as session:
        session.rows("set statement_timeout to 1")
        session.ask(query("begin; select set_config('work_' || 'mem', '3MB', false); commit"))
        session.rows("set statement_timeout to 0")
        assert session.value("show work_mem") == "3MB"


def test_a_frontend_is_not_told_where_that_is_not_wanted(pooler):
    with Wire(pooler) as session:
        assert notices(session.ask(query("listen news"))) == []


# --- what could not be set again --------------------------------------------------------------------------------------


def test_what_another_role_may_set_and_the_own_may_not_keeps_the_worker(cluster, narrow):
    """Nobody could tune another worker to it, and the frontend would hear of that at its next statement."""
    cluster.primary.query(
        f"drop role if exists held_boss; create role held_boss superuser; grant held_boss to {roles.TRUST.name}"
    )
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.primary.query, "drop role held_boss")
        session, one, two = (stack.enter_context(Wire(narrow)) for _ in range(3))
        for texts in (["set role held_boss", "set log_min_duration_statement = 5000"],
                      ["begin; set role held_boss; set deadlock_timeout = '5s'; reset role; commit"]):
            for text in texts:
                session.rows(text)
            assert not is_shared(session, [one, two])
        session.rows("reset role")
        assert session.value("show log_min_duration_statement") == "5s"
        assert session.value("show deadlock_timeout") == "5s"
        assert one.value("show deadlock_timeout") == "1s"
        session.rows("reset all")
        session.rows("discard all")
        wait_until(lambda: is_shared(session, [one, two]), what="the worker to be shared again")


@pytest.mark.parametrize("text", ["select set_config($1, $2, false)", "select set_config('held.' || $1, $2, false)"])
def test_what_is_set_by_a_name_that_is_no_literal_stays_with_its_frontend(narrow, text):
    name = "held.bound" if "||" not in text else "bound"
    with Wire(narrow) as session, Wire(narrow) as other:
        session.ask(once(text, name, "x"))
        assert session.value("select current_setting('held.bound', true)") == "x"
        assert other.value("select current_setting('held.bound', true)") is None
    with Wire(narrow) as other:
        assert other.value("select current_setting('held.bound', true)") is None
