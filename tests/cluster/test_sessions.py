"""A session through the pooler is the session that its frontend asked for: settings, and what else lives in one.

Where it can be, the same is done on a connection straight to the primary, and compared.
"""

from __future__ import annotations

import contextlib
import select

import psycopg
import psycopg2
import pytest

from tests import roles
from tests.cluster import wire
from tests.cluster.conftest import own_pooler
from tests.cluster.wire import Wire, bind, execute, once, parse, query
from tests.workplace import wait_until


@pytest.fixture(scope="module", autouse=True)
def log_without_traceback(pooler):
    begin = len(pooler.log)
    yield
    assert "Traceback" not in pooler.log[begin:]


@pytest.fixture(scope="module")
def narrow(cluster):
    """A pooler with one worker for everybody of a login: what one leaves behind, the next must meet."""
    with own_pooler(cluster, max_workers=0, worker_per_fe_cnt=1000) as pooler:
        yield pooler


@pytest.fixture(scope="module", autouse=True)
def things(cluster):
    """A schema with a table of its own, a sequence, and a role to become."""
    statements = f"""
        drop schema if exists mine cascade; create schema mine; create table mine.t as select 'mine' as whose;
        create sequence mine.numbers; create table mine.kept (id serial, note text);
        create table mine.child (parent bigint default currval('mine.numbers'));
        drop role if exists app_group; create role app_group; grant app_group to {roles.TRUST.name};
        grant usage on schema mine to public; grant all on all tables in schema mine to public;
        grant all on all sequences in schema mine to public
    """
    cluster.primary.query(statements, dbname=roles.DATABASE)
    yield
    cluster.primary.query("drop schema mine cascade; drop owned by app_group", dbname=roles.DATABASE)
    cluster.primary.query("drop role app_group")


# --- startup parameters ---------------------------------------------------------------------------------------------

STARTUPS = {
    "none": {},
    "application_name": {"application_name": "my 'app' \\ with $signs$"},
    "client_encoding": {"client_encoding": "LATIN1"},
    "datestyle": {"DateStyle": "SQL, DMY", "TimeZone": "Asia/Tokyo", "intervalstyle": "iso_8601"},
    "extra_float_digits": {"extra_float_digits": "0"},
    "search_path": {"search_path": 'mine, "$user", public'},
    "statement_timeout": {"statement_timeout": "5min", "lock_timeout": "0", "idle_session_timeout": "1h"},
    "role": {"role": "app_group"},
    "custom": {"app.tenant": "42", "search_path": "mine"},
    "read_only": {"default_transaction_read_only": "on", "default_transaction_isolation": "serializable"},
    "escaping_strings": {"standard_conforming_strings": "off", "backslash_quote": "on", "app.x": "a\\'b"},
    "options": {"options": "-c search_path=mine,public -cgeqo=off --work-mem=5MB"},
    "options_with_spaces": {"options": "  -c  app.x=a\\ b\\\\c   -c DateStyle=German,\\ YMD "},
    "options_and_named": {"options": "-c search_path=pg_catalog -c work_mem=7MB", "search_path": "mine"},
    "options_twice": {"options": "-c work_mem=7MB -c work_mem=8MB"},
    "other_switches": {"options": "-B 16 -fs -S 5000"},
    "only_in_a_packet": {"options": "-c ignore_system_indexes=on -c work_mem=9MB"},
    "wrong_case": {"SEARCH_PATH": "mine", "Work_Mem": "6MB"},
}

SESSION = """
    select name, setting, current_user, session_user,
           current_setting('app.tenant', true), current_setting('app.x', true)
      from pg_settings where name not in ('transaction_deferrable') order by name
"""  # fmt: skip


@pytest.mark.parametrize("name", STARTUPS)
def test_every_startup_parameter_makes_the_session_that_the_server_would_make(cluster, narrow, name):
    if name == "other_switches":
        expected = wire.refusal(cluster.primary, **STARTUPS[name])
        found = wire.refusal(narrow, **STARTUPS[name])
        assert {letter: found.get(letter) for letter in "SVCM"} == {letter: expected.get(letter) for letter in "SVCM"}
        return
    with Wire(cluster.primary, **STARTUPS[name]) as direct, Wire(narrow, **STARTUPS[name]) as pooled:
        assert pooled.rows(SESSION) == direct.rows(SESSION)
        assert pooled.parameters == direct.parameters


BAD_STARTUPS = {
    "bad_value": {"DateStyle": "no such style"},
    "bad_number": {"statement_timeout": "soon"},
    "out_of_range": {"extra_float_digits": "99"},
    "unknown": {"no_such_setting": "1"},
    "unknown_in_options": {"options": "-c no_such_setting=1"},
    "options_without_value": {"options": "-c search_path"},
    "unknown_switch": {"options": "-X"},
    "client_encoding": {"client_encoding": "KLINGON"},
    "timezone": {"TimeZone": "Middle/Earth"},
    "role": {"role": "nobody_there"},
    "role_not_granted": {"role": roles.MD5.name},
    "for_superusers": {"session_replication_role": "replica"},
    "at_start_only": {"shared_buffers": "1GB"},
    "cannot_be_changed": {"server_version": "99"},
    "custom_without_a_name": {"app.": "1"},
}


@pytest.mark.parametrize("name", BAD_STARTUPS)
def test_a_bad_startup_parameter_is_refused_at_login_with_the_servers_own_error(cluster, narrow, name):
    expected, found = (wire.refusal(where, **BAD_STARTUPS[name]) for where in (cluster.primary, narrow))
    assert {letter: found.get(letter) for letter in "SVCMDH"} == {letter: expected.get(letter) for letter in "SVCMDH"}
    with Wire(narrow) as other:
        assert other.value("select 1") == "1"


# --- SET and RESET --------------------------------------------------------------------------------------------------

OWN = {"search_path": "mine, public", "DateStyle": "SQL, DMY", "application_name": "own", "app.tenant": "42"}
SHOW = """
    select current_setting('search_path'), current_setting('datestyle'), current_setting('application_name'),
           current_setting('app.tenant', true), current_setting('timezone'), current_user, current_setting('work_mem')
"""
CHANGES = """
    set search_path to public; set datestyle to german; set app.tenant to '7'; set application_name to 'changed';
    set work_mem to '3MB'; set timezone to 'Asia/Tokyo'; set role app_group
"""

WAYS_BACK = {
    "reset_one": ["reset search_path"],
    "reset_in_capitals": ["RESET Search_Path"],
    "reset_custom": ["reset app.tenant"],
    "reset_all": ["reset all"],
    "discard_all": ["discard all"],
    "to_default": ["set datestyle to default", "set search_path = default"],
    "session_to_default": ["set session datestyle to default", "set time zone default", "set time zone local"],
    "role": ["reset role", "set role none", "reset session authorization"],
    "in_a_transaction": ["begin", "reset search_path", "savepoint s", "reset all", "rollback to s", "commit"],
    "rolled_back": ["begin", "reset search_path", "rollback"],
    "local": ["begin", "set local search_path to default", "commit"],
    "in_a_failed_transaction": ["begin; reset search_path; select 1/0", "rollback"],
    "set_again": ["reset search_path", "set search_path to pg_catalog", "reset all"],
}


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("name", WAYS_BACK)
def test_a_reset_goes_back_to_what_the_frontend_started_with(cluster, narrow, name, extended):
    heard = []
    for where in (cluster.primary, narrow):
        with Wire(where, **OWN) as session:
            steps = [session.rows(SHOW)]
            session.rows(CHANGES)
            for way in WAYS_BACK[name]:
                answer = session.ask(once(way) if extended and ";" not in way else query(way))
                steps.append([each for each in answer if each.tag in "CEZ"])
                steps.append(session.ask(query(SHOW))[-2:])
                steps.append(dict(session.parameters))
            steps.append(session.rows(SHOW))
        heard.append(steps)
    assert heard[1] == heard[0]


def test_a_set_that_failed_or_was_rolled_back_changes_nothing(narrow):
    with Wire(narrow, **OWN) as session:
        before = session.rows(SHOW)
        assert session.error("set datestyle to nonsense")["C"] == "22023"
        assert session.error("set search_path to public; select 1 / 0")["C"] == "22012"
        session.rows("begin; set search_path to public; set role app_group; rollback")
        assert session.rows(SHOW) == before


def test_a_frontend_that_resets_and_leaves_at_once_gives_its_worker_back(narrow, cluster):
    """The restoring of its startup values was still on its way, nobody took the worker back: it was held for ever."""
    for _ in range(20):
        with Wire(narrow, **OWN) as session:
            session.send(query("set work_mem to '3MB'"), query("reset all"), wire.TERMINATE)
    with Wire(narrow) as other:
        assert other.value("select 1") == "1"
    count = "select count(*) from pg_stat_activity where usename = %s and backend_type = 'client backend'"
    assert cluster.primary.query(count, [roles.TRUST.name])[0][0] < 10


def test_groups_share_a_worker_and_never_see_the_settings_of_each_other(narrow):
    groups = [
        {"search_path": "mine", "application_name": "one"},
        {"search_path": "public", "DateStyle": "German"},
        {"TimeZone": "Asia/Tokyo", "role": "app_group"},
        {},
        {"statement_timeout": "4s", "work_mem": "3MB"},
    ]
    show = SHOW.replace("select", "select pg_backend_pid(), current_setting('statement_timeout'),")
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Wire(narrow, database=roles.OTHER_DATABASE, **group)) for group in groups]
        first = [session.rows(show)[0] for session in sessions]
        assert len({row[0] for row in first}) == 1, "they have more than one worker"
        assert len({tuple(row) for row in first}) == len(groups), "they do not differ"
        for turn in range(3):
            for session, row in zip(sessions, first, strict=True):
                found = (
                    session.rows(show) if turn else [each.values for each in session.ask(once(show)) if each.tag == "D"]
                )
                assert found == [row]


def test_a_group_with_a_custom_setting_leaves_no_trace_of_its_name(narrow):
    """RESET ALL leaves '' where there was nothing, and `current_setting(..., true) is null` is what policies ask."""
    ask = "select current_setting('trace.tenant', true), current_setting('trace.user', true)"
    with (
        Wire(narrow) as plain,
        Wire(narrow, **{"trace.tenant": "1"}) as tenant,
        Wire(narrow, **{"trace.user": "u"}) as user,
    ):
        for _ in range(3):
            assert plain.rows(ask) == [[None, None]]
            assert tenant.rows(ask) == [["1", None]]
            assert user.rows(ask) == [[None, "u"]]


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(cluster):
    with own_pooler(cluster, transactions="reject", session_features="reject") as pooler:
        yield pooler


@pytest.mark.parametrize(
    "text",
    [
        "begin",
        "start transaction",
        "/* x */ BEGIN ISOLATION LEVEL SERIALIZABLE",
        "select 1; begin",
        "savepoint s",
        "lock mine.t",
    ],
)
def test_transactions_can_be_refused(strict, text):
    for sent in (query(text), once(text)) if ";" not in text else (query(text),):
        with Wire(strict) as session:
            answer = session.ask(sent)
            (error,) = (each.fields for each in answer if each.tag == "E")
            assert (error["C"], error["S"]) == ("0A000", "ERROR")
            assert error["H"]
            assert answer[-1] == ("Z", b"I")
            assert session.value("select 1") == "1"


@pytest.mark.parametrize(
    "text",
    [
        "listen news", "create temp table x (n int)", "select 1 into temp x", "prepare p as select 1",
        "load 'auto_explain'",
        "select pg_advisory_lock(1)", "declare c cursor with hold for select 1", "select 1; listen news",
    ],
)  # fmt: skip
def test_session_features_can_be_refused(strict, text):
    with Wire(strict) as session:
        error = session.error(text)
        assert error["C"] == "0A000"
        assert error["H"]
        assert session.value("select 1") == "1"


def test_what_is_refused_in_a_pipeline_costs_its_own_unit_only(strict):
    with Wire(strict) as session:
        session.send(once("select 1"), once("begin"), query("listen x"), once("select 2"))
        answers = [session.until_ready() for _ in range(4)]
    assert [[each.tag for each in answer if each.tag in "DE"] for answer in answers] == [["D"], ["E"], ["E"], ["D"]]


@pytest.mark.parametrize("text", ["begin", "listen news"])
def test_what_is_refused_is_refused_behind_a_flush_too(strict, text):
    with Wire(strict) as session:
        session.send(parse("select 1"), wire.FLUSH)
        session.until("1")
        session.send(parse(text), bind(), execute(), wire.SYNC)
        answer = session.until_ready()
        assert [each.fields["C"] for each in answer if each.tag == "E"] == ["0A000"]
        assert answer[-1] in (("Z", b"I"), answer[0])


def test_single_statements_and_settings_go_on_where_transactions_and_session_features_are_refused(strict):
    with Wire(strict) as session:
        session.rows("insert into mine.kept (note) values ('strict')")
        assert session.rows(
            "insert into mine.kept (note) values ('a'); select count(*) from mine.kept where note = 'a'"
        )
        session.rows("set work_mem to '3MB'")
        assert session.value("show work_mem") == "3MB"


@pytest.mark.parametrize("text", ["select currval('mine.numbers')", "select lastval()", "SELECT LastVal() + 1"])
def test_currval_is_refused_where_it_would_answer_for_somebody_else(narrow, text):
    with Wire(narrow) as other, Wire(narrow) as session:
        other.rows("select nextval('mine.numbers')")
        for sent in (query(text), once(text)):
            (error,) = (each.fields for each in session.ask(sent) if each.tag == "E")
            assert error["C"] == "55000"
            assert "RETURNING" in error["H"]


def test_currval_is_answered_in_the_transaction_that_drew_the_number(narrow):
    with Wire(narrow) as session:
        session.rows("begin")
        drawn = session.value("select nextval('mine.numbers')")
        assert session.value("select currval('mine.numbers')") == drawn
        assert session.value("select lastval()") == drawn
        session.rows("commit")
        assert session.error("select lastval()")["C"] == "55000"


def test_a_default_that_asks_for_currval_does_not_answer_for_somebody_else(narrow):
    with Wire(narrow) as other, Wire(narrow) as session:
        other.rows("select nextval('mine.numbers')")
        assert session.error("insert into mine.child default values")["C"] == "55000"
        session.rows("begin; select nextval('mine.numbers')")
        session.rows("insert into mine.child default values; commit")


# --- what lives in a session ----------------------------------------------------------------------------------------


def test_a_temporary_table_is_there_until_its_frontend_leaves_and_for_nobody_else(cluster, pooler):
    with Wire(pooler) as session, Wire(pooler) as other:
        session.rows("create temp table secret as select 'mine' as whose")
        session.rows("create temporary view seen as table secret")
        for _ in range(3):
            assert session.value("select whose from secret") == "mine"
            assert other.error("select whose from secret")["C"] == "42P01"
        assert session.value("table seen") == "mine"
    with Wire(pooler) as session:
        assert session.error("select whose from secret")["C"] == "42P01"
    left = "select count(*) from pg_class where relname = 'secret'"
    wait_until(lambda: cluster.primary.query(left, dbname=roles.DATABASE) == [(0,)], what="the table to go")


def test_a_session_lock_is_held_until_its_frontend_leaves(narrow, pooler):
    with Wire(pooler) as other:
        with Wire(pooler) as session:
            session.rows("select pg_advisory_lock(4711)")
            assert [other.value("select pg_try_advisory_lock(4711)") for _ in range(2)] == ["f", "f"]
            assert session.value("select pg_advisory_unlock(4711)") == "t"
            assert other.value("select pg_try_advisory_lock(4711)") == "t"
            assert other.value("select pg_advisory_unlock(4711)") == "t"
            session.rows("select pg_advisory_lock(4711)")
        wait_until(lambda: other.value("select pg_try_advisory_lock(4711)") == "t", what="the lock to be free")


def test_a_listener_hears_at_once_and_only_what_it_listens_to(pooler):
    where = {"host": pooler.host, "port": pooler.port, "dbname": roles.DATABASE}
    with contextlib.closing(psycopg2.connect(**where, **roles.SCRAM.login)) as listener:
        listener.autocommit = True
        with listener.cursor() as cursor, Wire(pooler) as speaker, Wire(pooler) as deaf:
            cursor.execute("listen news")
            speaker.rows("notify other, 'not this'")
            speaker.rows("notify news, 'first'")
            speaker.rows("select pg_notify('news', 'second')")
            while len(listener.notifies) < 2:
                assert select.select([listener], [], [], 10)[0], "nothing was heard"
                listener.poll()
            assert [(each.channel, each.payload) for each in listener.notifies] == [
                ("news", "first"),
                ("news", "second"),
            ]
            assert [each.tag for each in deaf.ask(query("select 1"))] == ["T", "D", "C", "Z"]


def test_nobody_hears_what_a_frontend_that_left_listened_to(narrow):
    with Wire(narrow) as listener:
        listener.rows("listen news")
    with Wire(narrow) as next_one, Wire(narrow) as speaker:
        for _ in range(3):
            assert [each.tag for each in speaker.ask(query("notify news, 'x'"))] == ["C", "Z"]
            assert [each.tag for each in next_one.ask(query("select 1"))] == ["T", "D", "C", "Z"]
        assert next_one.rows("select pg_listening_channels()") == []


def test_named_statements_are_each_frontends_own(pooler):
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Wire(pooler)) for _ in range(8)]
        for number, session in enumerate(sessions):
            session.ask(parse(f"select {number}, $1::int", "s") + wire.SYNC)
        for turn in range(5):
            for number, session in enumerate(sessions):
                answer = session.ask(bind(str(turn), name="s") + execute() + wire.SYNC)
                assert [each.values for each in answer if each.tag == "D"] == [[str(number), str(turn)]]
    with Wire(pooler) as session:
        (error,) = (each.fields for each in session.ask(bind("1", name="s") + wire.SYNC) if each.tag == "E")
        assert error["C"] == "26000"


def test_the_unnamed_statement_is_each_frontends_own(narrow):
    """Seen in prototypes: A's Bind ran B's text, as both had the same worker."""
    run = bind() + execute() + wire.SYNC
    with contextlib.ExitStack() as stack:
        a, b, c = (stack.enter_context(Wire(narrow, **group)) for group in ({}, {}, {"search_path": "mine"}))
        said = {a: "A", b: "B", c: "C"}
        for session, text in said.items():
            session.ask(parse(f"select '{text}'") + wire.SYNC)
        for first in (a, b, c):
            for second in (a, b, c):
                for between in (
                    b"",
                    query("select 'Q'"),
                    parse("select 'F'") + wire.FLUSH + bind() + execute() + wire.SYNC,
                ):
                    if between:
                        with Wire(narrow) as other:
                            other.ask(between)
                    for session in (first, second):
                        answer = session.ask(run)
                        assert [each.values for each in answer if each.tag == "D"] == [[said[session]]], answer


def test_an_unnamed_statement_that_failed_is_nobodys(narrow):
    with Wire(narrow) as a, Wire(narrow) as b:
        a.ask(parse("select 'A'") + wire.SYNC)
        b.ask(parse("select 'B'") + wire.SYNC)
        a.ask(parse("select 1 / 0") + bind() + execute() + parse("select 'never'") + wire.SYNC)
        b.ask(bind() + execute() + wire.SYNC)
        answer = a.ask(bind() + execute() + wire.SYNC)
        assert [each.fields["C"] for each in answer if each.tag == "E"] == ["26000"]
        answer = a.ask(parse("select 'x'", "") + wire.FLUSH + bind() + execute() + wire.SYNC)
        assert [each.values for each in answer if each.tag == "D"] == [["x"]]


def test_a_cursor_with_hold_outlives_its_transaction(pooler):
    with psycopg.connect(
        host=pooler.host, port=pooler.port, dbname=roles.DATABASE, autocommit=True, **roles.SCRAM.login
    ) as session:
        session.execute("declare c cursor with hold for select generate_series(1, 4)")
        assert session.execute("fetch 2 from c").fetchall() == [(1,), (2,)]
        with Wire(pooler) as other:
            assert other.error("fetch 2 from c")["C"] == "34000"
        assert session.execute("fetch 9 from c").fetchall() == [(3,), (4,)]


# --- a server that is told to read its settings again ---------------------------------------------------------------


@pytest.fixture
def reloaded(cluster):
    """A function that changes settings of the server while frontends are connected; undone at the end."""
    changed = []

    def reload(**settings):
        changed.extend(settings)
        for name, value in settings.items():
            cluster.primary.query(f"alter system set {name} to '{value}'")
        cluster.primary.reload()

    yield reload
    for name in changed:
        cluster.primary.query(f"alter system reset {name}")
    cluster.primary.reload()


def test_a_reload_of_the_server_is_told_to_its_frontends(narrow, reloaded):
    with (
        Wire(narrow) as plain,
        Wire(narrow, application_name="other group") as grouped,
        Wire(narrow, TimeZone="Asia/Tokyo") as own,
        Wire(narrow) as holder,
    ):
        before = plain.parameters["TimeZone"]
        holder.rows("create temp table x (n int); set timezone to 'Asia/Kolkata'")
        reloaded(timezone="Pacific/Auckland", datestyle="German, DMY")

        def told(session):
            assert session.value("select 1") == "1"
            return session.parameters["TimeZone"], session.parameters["DateStyle"]

        assert before != "Pacific/Auckland"
        for session in (plain, grouped, holder):
            expected = ("Asia/Kolkata" if session is holder else "Pacific/Auckland", "German, DMY")
            wait_until(
                lambda session=session, expected=expected: told(session) == expected, what=f"{expected} to be told"
            )
        wait_until(lambda: told(own) == ("Asia/Tokyo", "German, DMY"), what="the group's own zone to stay")
        for session in (plain, grouped, own, holder, plain):
            assert session.value("show timezone") == session.parameters["TimeZone"]
            assert session.value("select date '2001-02-03'") == "03.02.2001"
        with Wire(narrow) as late:
            assert late.parameters["TimeZone"] == "Pacific/Auckland"


def test_a_setting_of_its_own_is_not_told_away_by_a_reload(narrow, reloaded):
    with Wire(narrow) as holder, Wire(narrow) as plain:
        holder.rows("set datestyle to iso, ymd")
        reloaded(datestyle="German, DMY")
        wait_until(lambda: plain.value("show datestyle") == "German, DMY", what="the reload to be seen")
        assert holder.value("show datestyle") == "ISO, YMD"
        plain.rows("select 1")
        assert holder.value("select date '2001-02-03'") == "2001-02-03"
        assert holder.parameters["DateStyle"] == "ISO, YMD"
