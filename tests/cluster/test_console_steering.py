"""What the pseudo database changes: frontends, workers, pause and resume, settings, the end. No statement is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from lib.console import commands
from lib.console.commands import Kind, Privilege
from tests import roles
from tests.cluster.conftest import own_pooler
from tests.cluster.rawclient import Raw
from tests.cluster.test_console import PASSWORD, SCRAPER, WATCHER, console, people, row_of  # noqa: F401 (a fixture)
from tests.servers import Cluster, Pooler, Server, wait_until
from tests.wire_samples import query

ARGUMENTS = {Kind.ID: "7", Kind.IDS: "7", Kind.ADDRESS: "127.0.0.1:1", Kind.NAME: "nowhere", Kind.PARAMETERS: "user=a",
             Kind.SETTING: "max_workers=5", Kind.SQL: "in app select 1"}  # fmt: skip


@pytest.fixture(scope="module")
def steered(cluster: Cluster, people: None) -> Iterator[Pooler]:  # noqa: F811
    with own_pooler(cluster, pseudo_stats_users=[SCRAPER]) as pooler:
        yield pooler


@pytest.fixture
def boss(steered: Pooler) -> Iterator[psycopg.Connection]:
    with console(steered) as connection:
        yield connection


@pytest.fixture
def app(steered: Pooler) -> Iterator[Raw]:
    with Raw(steered.host, steered.port) as raw:
        yield raw


def workers(boss: psycopg.Connection, condition: str = "pool_id = 1") -> list[int]:
    return [row[1] for row in boss.execute(f"pool show where {condition}").fetchall()]


def answered(boss: psycopg.Connection) -> int:
    return row_of(boss, "show stats_totals where database = app")["query_count"]


# --- privileges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", commands.TABLE, ids=lambda each: each.words)
@pytest.mark.parametrize("name", [WATCHER, SCRAPER])
def test_who_may_only_watch_changes_nothing(steered, app, command, name):
    arguments = [ARGUMENTS.get(each.kind, "") for each in command.arguments if not each.is_optional]
    text = " ".join((command.words, *arguments))
    with console(steered, name) as connection:
        if command.privilege is Privilege.OPERATE:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for command"):
                connection.execute(text)
        else:
            connection.execute(text)


@pytest.mark.parametrize("command", commands.TABLE, ids=lambda each: each.words)
def test_who_has_lost_his_rights_may_do_nothing(lost, command):
    arguments = [ARGUMENTS.get(each.kind, "") for each in command.arguments if not each.is_optional]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for command"):
        lost.execute(" ".join((command.words, *arguments)))


@pytest.fixture(scope="module")
def lost(steered: Pooler, cluster: Cluster) -> Iterator[psycopg.Connection]:
    """A superuser's connection, who is none any more since somebody has said so through the pool."""
    cluster.primary.query(f"create role falling login superuser password '{PASSWORD}' in role {roles.MEMBERS}")
    admin = steered.connect(**roles.ADMIN.login, dbname=roles.DATABASE)
    admin.autocommit = True
    with console(steered, "falling") as connection, admin.cursor() as cursor:
        assert connection.execute("show version").rowcount == 1
        cursor.execute("alter role falling nosuperuser")
        wait_until(lambda: not may(connection, "show version"), 30, "the pool to know of it")
        yield connection
    admin.close()
    cluster.primary.query("drop role falling")


def may(connection: psycopg.Connection, text: str) -> bool:
    try:
        connection.execute(text)
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


@pytest.mark.parametrize(
    "change", ["alter role {} nosuperuser", "alter role {} nologin", "drop role {}"], ids=lambda text: text.split()[-1]
)
def test_right_that_is_taken_away_past_the_pool_is_gone_after_a_look_at_the_roles(cluster, change):
    with own_pooler(cluster, hba_interval=0.1) as pooler:
        cluster.primary.query(f"create role shortly login superuser password '{PASSWORD}' in role {roles.MEMBERS}")
        try:
            with console(pooler, "shortly") as connection:
                assert may(connection, "show version")
                cluster.primary.query(change.format("shortly"))
                wait_until(lambda: not may(connection, "show version"), 30, "the pool to see it")
        finally:
            cluster.primary.query("drop role if exists shortly")


def test_reload_gives_and_takes_rights_at_once(cluster, people):  # noqa: F811
    with (
        own_pooler(cluster, pseudo_stats_users=[SCRAPER], hba_interval=3600) as pooler,
        console(pooler, SCRAPER) as scraper, console(pooler) as boss,
    ):  # fmt: skip
        assert not may(scraper, "reconnect")
        pooler.conf["pseudo_admin_users"] = [SCRAPER]
        pooler.write_conf()
        boss.execute("reload")
        assert may(scraper, "reconnect")
        pooler.conf.update(pseudo_admin_users=[], pseudo_stats_users=[])
        pooler.write_conf()
        boss.execute("reload")
        assert not may(scraper, "show version")


@pytest.mark.parametrize(
    "command", [each for each in commands.TABLE if each.privilege is Privilege.OPERATE], ids=lambda each: each.words
)
def test_nothing_is_changed_inside_a_transaction_block(boss, command):
    arguments = [ARGUMENTS.get(each.kind, "") for each in command.arguments if not each.is_optional]
    boss.execute("begin")
    with pytest.raises(psycopg.errors.ActiveSqlTransaction):
        boss.execute(" ".join((command.words, *arguments)))
    boss.execute("rollback")


# --- frontends -------------------------------------------------------------------------------------------------------


def test_killed_frontend_is_told_and_its_statement_is_canceled(cluster, boss, app):
    app.send(query("select pg_sleep(60), 'to be killed'"))
    wait_until(lambda: row_of(boss, f"fe list where id = {app.key[0]}")["state"] == "active", what="it to run")
    boss.execute("fe kill %s", (str(app.key[0]),))
    assert app.answer().code == "57P01"
    assert app.is_closed()
    running = "select count(*) from pg_stat_activity where state = 'active' and query like '%be killed'')'"
    wait_until(lambda: cluster.primary.query(running) == [(0,)], what="the statement to be canceled")


def test_killing_who_is_in_a_transaction_rolls_it_back(cluster, boss, steered, app):
    cluster.primary.query("create table killed (a int)", dbname=roles.DATABASE)
    cluster.primary.query("grant all on killed to public", dbname=roles.DATABASE)
    app.query("begin")
    app.query("insert into killed values (1)")
    boss.execute("kill_client " + str(app.key[0]))
    assert app.answer().code == "57P01"
    with Raw(steered.host, steered.port) as other:
        assert other.value("select count(*) from killed") == "0"
    cluster.primary.query("drop table killed", dbname=roles.DATABASE)


def test_canceled_statement_fails_and_its_frontend_stays(cluster, boss, app):
    app.send(query("select pg_sleep(60)"))
    wait_until(lambda: row_of(boss, f"fe list where id = {app.key[0]}")["state"] == "active", what="it to be sent")
    runs = "select 1 from pg_stat_activity where state = 'active' and query = 'select pg_sleep(60)'"
    wait_until(lambda: cluster.primary.query(runs), what="it to run")  # else there is nothing to be canceled
    boss.execute(f"fe cancel {app.key[0]}")
    assert app.answer().code == "57014"
    assert app.value("select 1") == "1"


@pytest.mark.parametrize("command", ["fe kill 1", "fe cancel 1", "kill_client 1"])
def test_unknown_frontend(boss, command):
    with pytest.raises(psycopg.errors.UndefinedObject, match="there is no frontend 1"):
        boss.execute(command)


# --- workers ---------------------------------------------------------------------------------------------------------


def test_worker_is_removed_when_its_transaction_is_over(boss, app):
    app.query("begin")
    (number,) = workers(boss, f"frontend_id = {app.key[0]}")
    assert boss.execute(f"pool remove_worker 1 {number}").fetchone() == (1, number)
    assert "retiring" in row_of(boss, f"pool show 1 where worker_id = {number}")["state"]
    assert app.query("commit").commands == ["COMMIT"]
    wait_until(lambda: number not in workers(boss), what="the worker to go")
    assert app.value("select 1") == "1"


def test_worker_that_is_not_there_cannot_be_removed(boss):
    with pytest.raises(psycopg.errors.UndefinedObject, match="pool 1 has no worker 12345"):
        boss.execute("pool remove_worker 1 12345")
    with pytest.raises(psycopg.errors.UndefinedObject, match="there is no pool 9"):
        boss.execute("pool remove_worker 9 1")


@pytest.mark.parametrize("pool", [1, 2])
def test_worker_is_started_with_given_parameters(boss, pool):
    password = roles.SCRAM.password
    given = f"user={roles.SCRAM.name},database={roles.OTHER_DATABASE},application_name=by_hand,password='{password}'"
    ((where, number),) = boss.execute(f"pool new_worker {pool} {given}").fetchall()
    assert where == pool
    row = row_of(boss, f"pool show {pool} where worker_id = {number}")
    assert (row["user"], row["database"], row["state"]) == (roles.SCRAM.name, roles.OTHER_DATABASE, "idle")
    assert row["settings"] == "application_name=by_hand"
    boss.execute(f"pool remove_worker {pool} {number}")
    wait_until(lambda: not workers(boss, f"worker_id = {number} and pool_id = {pool}"), what="it to go")


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("user=app_scram,database=app,password=wrong", psycopg.errors.InvalidPassword, "authentication failed"),
        ("user=app_trust,database=nowhere", psycopg.errors.InvalidCatalogName, "does not exist"),
        ("user=app_trust,database=app,work_mem=much", psycopg.errors.InvalidParameterValue, "work_mem"),
        ("database=app", psycopg.errors.InvalidParameterValue, "needs a user"),
        ("user=app_trust,host=elsewhere", psycopg.errors.InvalidParameterValue, "means nothing here"),
        ("nonsense", psycopg.errors.SyntaxError, "not a list of parameters"),
    ],
)
def test_worker_that_cannot_be_started_is_an_error_and_leaves_nothing(boss, given, error, said):
    before = set(workers(boss, "pool_id = 2"))
    with pytest.raises(error, match=said):
        boss.execute(f"pool new_worker 2 {given}")
    wait_until(lambda: set(workers(boss, "pool_id = 2")) <= before, what="nothing to be left")


# --- pools -----------------------------------------------------------------------------------------------------------

WHERE = "/*s*/ select pg_is_in_recovery()"


def at(server: Server) -> str:
    return f"{server.host}:{server.port}"


@pytest.fixture
def alone(cluster: Cluster) -> Iterator[Pooler]:
    """A pooler that does not know the standbys yet."""
    with own_pooler(cluster, slaver=[]) as pooler:
        yield pooler


def test_standby_that_is_added_serves_at_once_and_sees_what_was_written_before(cluster, alone):
    cluster.primary.query("create table added (a int)", dbname=roles.DATABASE)
    cluster.primary.query("grant all on added to public", dbname=roles.DATABASE)
    with Raw(alone.host, alone.port) as raw, console(alone) as boss:
        assert raw.value(WHERE) == "f"
        for number, standby in enumerate(cluster.standbys, 2):
            raw.query("insert into added values (1)")
            assert boss.execute(f"pool add {at(standby)}").fetchall() == [(number, at(standby))]
            assert raw.value("/*s*/ select count(*) from added") == str(number - 1)
            wait_until(lambda: raw.value(WHERE) == "t", what="reads to go to the standby")
        assert [row[1] for row in boss.execute("pool list")] == [True, False, False]
    cluster.primary.query("drop table added", dbname=roles.DATABASE)


def test_standby_that_is_removed_finishes_what_it_runs(cluster, alone):
    with (
        Raw(alone.host, alone.port) as busy, Raw(alone.host, alone.port) as holder, Raw(alone.host, alone.port) as raw,
        console(alone) as boss,
    ):  # fmt: skip
        boss.execute(f"pool add {at(cluster.standbys[0])}")
        wait_until(lambda: raw.value(WHERE) == "t", what="reads to go to the standby")
        wait_until(lambda: holder.query("/*s*/ begin") and holder.value("select pg_is_in_recovery()") == "t", what="it")
        busy.send(query("/*s*/ select pg_sleep(1), pg_is_in_recovery()"))
        wait_until(lambda: row_of(boss, f"fe list where id = {busy.key[0]}")["pool_id"] == 2, what="it to run there")
        assert boss.execute("pool remove 2").fetchone() == (2, at(cluster.standbys[0]))
        assert raw.value(WHERE) == "f"
        assert holder.value("select pg_is_in_recovery()") == "t"
        assert row_of(boss, "pool list where pool_id = 2")["state"] == "leaving"
        assert row_of(boss, "pool show where state = 'held, retiring'")["worker_id"] in workers(boss, "pool_id = 2")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="has been removed"):
            boss.execute("pool remove 2")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="has been removed"):
            boss.execute("pool new_worker 2 user=app_trust,database=app")
        seen = answered(boss)
        assert holder.query("commit").commands == ["COMMIT"]
        assert busy.answer().rows[0][1] == "t"
        wait_until(lambda: boss.execute("pool list").rowcount == 1, 10, "it to have finished")
        assert answered(boss) == seen + 2
        with pytest.raises(psycopg.errors.UndefinedObject):
            boss.execute("pool remove 2")


def test_reads_go_on_while_a_standby_comes_and_goes(cluster, alone):
    with Raw(alone.host, alone.port) as raw, console(alone) as boss:
        done = threading.Event()

        def steer() -> None:
            for _ in range(5):
                ((number, _),) = boss.execute(f"pool add {at(cluster.standbys[1])}").fetchall()
                boss.execute(f"pool remove {number}")
            done.set()

        thread = threading.Thread(target=steer)
        thread.start()
        while not done.is_set() and thread.is_alive():
            assert raw.value(WHERE) in ("t", "f")
        thread.join()
        assert done.is_set()


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("pool add {standby}", psycopg.errors.DuplicateObject, "is pool 2 already"),
        ("pool add {primary}", psycopg.errors.DuplicateObject, "is pool 1 already"),
        ("pool add 127.0.0.1:1", psycopg.errors.ConnectionFailure, "no connection to server"),
        ("pool add nonsense", psycopg.errors.InvalidParameterValue, "not an address"),
        ("pool add", psycopg.errors.SyntaxError, "wrong arguments"),
        ("pool remove 1", psycopg.errors.ObjectNotInPrerequisiteState, "is the primary"),
        ("pool remove 9", psycopg.errors.UndefinedObject, "there is no pool 9"),
    ],
)
def test_wrong_pools_are_refused(cluster, boss, text, error, said):
    before = boss.execute("pool list").fetchall()
    with pytest.raises(error, match=said):
        boss.execute(text.format(standby=at(cluster.standbys[0]), primary=at(cluster.primary)))
    assert [row[0] for row in boss.execute("pool list")] == [row[0] for row in before]


@pytest.mark.parametrize(("checksums", "said"), [(True, "no standby of this primary"), (False, "is no standby")])
def test_foreign_server_is_not_taken_for_a_standby(boss, checksums, said):
    """Data directories of the tests are copies of one another, but for those with checksums."""
    with Server("foreign", hba=roles.hba_lines(), checksums=checksums) as foreign:
        roles.create(foreign)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=said):
            boss.execute(f"pool add {at(foreign)}")


# --- pause -----------------------------------------------------------------------------------------------------------


def test_pause_waits_for_what_runs_and_lets_what_comes_wait(steered, boss):
    with Raw(steered.host, steered.port) as holder, Raw(steered.host, steered.port) as late:
        holder.query("begin")
        done = threading.Event()

        def pause() -> None:
            with console(steered) as other:
                other.execute("pause app")
                done.set()

        thread = threading.Thread(target=pause)
        thread.start()
        wait_until(lambda: boss.execute("show databases where name = app and paused = 1").rowcount, what="the pause")
        late.send(query("select 'late'"))
        wait_until(lambda: row_of(boss, f"fe list where id = {late.key[0]}")["state"] == "waiting", what="it to wait")
        assert not done.is_set()
        assert holder.query("select 1").rows == [("1",)]
        holder.query("commit")
        thread.join(20)
        assert done.is_set()
        wait_until(lambda: workers(boss, "database = app") == [], what="all workers to go")
        with Raw(steered.host, steered.port, database=roles.OTHER_DATABASE) as other:
            assert other.value("select 1") == "1"
        assert late.says_nothing(0.1)
        boss.execute("resume app")
        assert late.answer().rows == [("late",)]


def test_pause_that_is_canceled_pauses_nothing(steered, app):
    app.query("begin")
    with console(steered) as connection:
        timer = threading.Timer(0.3, connection.cancel)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("pause")
        assert connection.execute("show state where key = paused").fetchone() == ("paused", "no")
    app.query("commit")


def test_server_is_restarted_behind_a_pause_and_nobody_notices(people):  # noqa: F811
    with Cluster(standbys=0, hba=roles.hba_lines()) as cluster:
        roles.create(cluster.primary)
        with own_pooler(cluster) as pooler, Raw(pooler.host, pooler.port) as raw, console(pooler) as boss:
            assert raw.value("select 1") == "1"
            boss.execute("pause")
            cluster.primary.restart()
            raw.send(query("select 'after'"))
            boss.execute("resume")
            assert raw.answer().rows == [("after",)]


def test_pause_that_somebody_else_ends_is_no_pause(steered, boss, app):
    """It went on waiting, and said PAUSE at last when nothing was paused any more."""
    app.query("begin")
    said: list[str] = []

    def pause() -> None:
        with console(steered) as other, pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as error:
            other.execute("pause")
        said.append(str(error.value))

    thread = threading.Thread(target=pause)
    thread.start()
    wait_until(lambda: row_of(boss, "show state where key = paused")["value"] == "yes", what="it to be paused")
    boss.execute("resume")
    thread.join(30)
    app.query("commit")
    assert "resumed by somebody else" in said[0]


@pytest.mark.parametrize("command", ["pause", "kill", "reconnect"])
def test_database_whose_name_is_wrong_is_an_error_and_nothing_is_paused(boss, app, command):
    with pytest.raises(psycopg.errors.UndefinedObject, match='database "ap" does not exist'):
        boss.execute(f"{command} ap")
    assert boss.execute("show databases where paused = 1").rowcount == 0
    assert app.value("select 1") == "1"


def test_log_says_who_has_changed_what_and_nothing_secret(steered, boss):
    for text in ("fe kill 17", "pool remove 9", "pool new_worker 9 user=a,password=s3cret", "reconnect other"):
        try:
            boss.execute(text)
        except psycopg.errors.UndefinedObject:
            continue
    for said in ("admin: fe kill 17", "admin: pool remove 9", "admin: pool new_worker 9", "admin: reconnect other"):
        steered.wait_said(f", as {said}\n")
    assert "s3cret" not in steered.log


def test_resume_without_pause_is_an_error(boss):
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not paused"):
        boss.execute("resume")


def test_reconnect_replaces_workers_and_loses_no_statement(boss, app):
    app.query("begin")
    before = set(workers(boss, "database = app"))
    boss.execute("reconnect")
    assert app.query("select 1").rows == [("1",)]
    app.query("commit")
    assert app.value("select 1") == "1"
    wait_until(lambda: not before & set(workers(boss, "database = app")), what="the old ones to go")


def test_kill_disconnects_all_of_a_database_until_resume(steered, boss, app):
    app.send(query("select pg_sleep(60)"))
    wait_until(lambda: row_of(boss, f"fe list where id = {app.key[0]}")["state"] == "active", what="it to run")
    with Raw(steered.host, steered.port, database=roles.OTHER_DATABASE) as other:
        boss.execute("kill app")
        assert app.answer().code == "57P01"
        assert other.value("select 1") == "1"
    assert workers(boss, "database = app") == []
    boss.execute("resume app")
    with Raw(steered.host, steered.port) as again:
        assert again.value("select 1") == "1"


def test_session_mode_waits_while_it_is_paused(cluster):
    with own_pooler(cluster, pool_mode="session") as pooler, console(pooler) as boss:
        boss.execute("pause")
        found: list[Any] = []

        def connect() -> None:
            with Raw(pooler.host, pooler.port) as raw:
                found.append(raw.value("select 1"))

        thread = threading.Thread(target=connect)
        thread.start()
        thread.join(0.3)
        assert not found
        boss.execute("resume")
        thread.join(20)
        assert found == ["1"]


# --- settings --------------------------------------------------------------------------------------------------------


def test_setting_is_set_shown_and_goes_with_the_next_reload(boss):
    boss.execute("set max_workers = 7")
    assert row_of(boss, "show config where key = max_workers")["value"] == "7"
    assert boss.execute("reload").fetchall() == [("max_workers", "changed")]
    assert row_of(boss, "show config where key = max_workers")["value"] == "20"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("set max_workers = many", psycopg.errors.InvalidParameterValue),
        ("set max_worker = 5", psycopg.errors.UndefinedObject),
        ("set master = '127.0.0.1:1'", psycopg.errors.InvalidParameterValue),
        ("set max_workers", psycopg.errors.SyntaxError),
    ],
)
def test_wrong_setting_changes_nothing(boss, text, error):
    with pytest.raises(error):
        boss.execute(text)
    assert boss.execute("reload").fetchall() == []


def test_reload_of_a_broken_file_tells_all_complaints_and_changes_nothing(cluster):
    with own_pooler(cluster) as pooler, console(pooler) as boss:
        pooler.conf |= {"max_workers": "many", "grow_after": -1}
        pooler.write_conf()
        with pytest.raises(psycopg.Error, match="nothing has changed") as caught:
            boss.execute("reload")
        assert "max_workers" in caught.value.diag.message_detail
        assert "grow_after" in caught.value.diag.message_detail
        assert row_of(boss, "show config where key = max_workers")["value"] == "20"


# --- the end ---------------------------------------------------------------------------------------------------------


def test_shutdown_lets_statements_finish(cluster):
    with own_pooler(cluster) as pooler, Raw(pooler.host, pooler.port) as raw:
        raw.send(query("select pg_sleep(0.5), 'done'"))
        with console(pooler) as boss:
            wait_until(lambda: row_of(boss, f"fe list where id = {raw.key[0]}")["state"] == "active", what="it to run")
            boss.execute("shutdown")
        assert raw.answer().rows[0][1] == "done"
        wait_until(lambda: not pooler.is_running, what="the pool to end")


def test_shutdown_waits_for_clients(cluster):
    with own_pooler(cluster) as pooler:
        with Raw(pooler.host, pooler.port) as raw:
            with console(pooler) as boss:
                boss.execute("shutdown wait_for_clients")
                wait_until(lambda: "stopping" in pooler.log, what="the pool to stop listening")
                assert raw.value("select 1") == "1"
            with pytest.raises(psycopg.OperationalError):
                console(pooler)
        wait_until(lambda: not pooler.is_running, what="the pool to end")


def test_administrators_at_the_same_time_are_in_nobody_s_way(steered, boss):
    """Eight of them start and remove workers at once, while reads go on: each has its own, and no read fails."""
    failures: list[str] = []

    def steer() -> None:
        try:
            with console(steered) as mine:
                for _ in range(5):
                    given = f"user={roles.TRUST.name},database={roles.OTHER_DATABASE}"
                    ((pool, number),) = mine.execute(f"pool new_worker 1 {given}").fetchall()
                    mine.execute(f"pool remove_worker {pool} {number}")
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=steer) for _ in range(8)]
    with Raw(steered.host, steered.port, database=roles.OTHER_DATABASE) as raw:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert raw.value("select 1") == "1"
        for thread in threads:
            thread.join()
    assert failures == []
