"""The pseudo database on real servers: psql, psycopg 3 and asyncpg look at the pool."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from lib.console import commands
from lib.wire.messages import SYNC
from tests import roles
from tests.cluster.clients import other_languages
from tests.cluster.conftest import own_pooler
from tests.cluster.rawclient import DESCRIBE, Raw, bind, execute, extended, parse
from tests.servers import Cluster, Pooler, wait_until
from tests.wire_samples import close, query

WATCHER = "watcher"  # member of pg_monitor
OPERATOR, SCRAPER = "console_operator", "console_scraper"  # pseudo_admin_users, pseudo_stats_users
PASSWORD = "console secret"


@pytest.fixture(scope="module")
def people(cluster: Cluster) -> Iterator[None]:
    names = (WATCHER, OPERATOR, SCRAPER)
    for name in names:
        cluster.primary.query(f"create role {name} login password '{PASSWORD}' in role {roles.MEMBERS}")
    cluster.primary.query(f"grant pg_monitor to {WATCHER}")
    yield
    for name in names:
        cluster.primary.query(f"drop role {name}")


@pytest.fixture(scope="module")
def steered(cluster: Cluster, people: None) -> Iterator[Pooler]:
    """A pooler that others than superusers may steer."""
    with own_pooler(cluster, pseudo_admin_users=[OPERATOR, roles.TRUST.name], pseudo_stats_users=[SCRAPER]) as pooler:
        yield pooler


def login(name: str = roles.ADMIN.name) -> dict[str, Any]:
    password = roles.ADMIN.password if name == roles.ADMIN.name else PASSWORD
    return {"user": name, "password": password}


def console(pooler: Pooler, name: str = roles.ADMIN.name, **more: Any) -> psycopg.Connection:
    return psycopg.connect(
        host=pooler.host, port=pooler.port, dbname="pseudo", autocommit=True, **login(name), **more
    )


@pytest.fixture
def boss(steered: Pooler) -> Iterator[psycopg.Connection]:
    with console(steered) as connection:
        yield connection


@pytest.fixture(scope="module")
def app(steered: Pooler) -> Iterator[Any]:
    """A client with something to see."""
    connection = steered.connect(**roles.SCRAM.login, dbname=roles.DATABASE, application_name="the app")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    yield connection
    connection.close()


def psql(
    pooler: Pooler, pg_bin: Path, *arguments: str, name: str = roles.ADMIN.name, typed: str = ""
) -> subprocess.CompletedProcess:
    who = login(name)
    env = {
        **os.environ, "PGHOST": pooler.host, "PGPORT": str(pooler.port), "PGDATABASE": "pseudo", "PGUSER": who["user"],
        "PGPASSWORD": who["password"],
    }  # fmt: skip
    return subprocess.run(
        [pg_bin / "psql", "-X", "-v", "VERBOSITY=verbose", *arguments], env=env, input=typed, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip


# --- psql ------------------------------------------------------------------------------------------------------------


def test_psql_lists_frontends_pools_and_workers(steered, pg_bin, app, boss):
    # Its statement was answered, and may be looked at behind that, as long as the catalog has not been scanned.
    wait_until(lambda: boss.execute("fe list where database = app and state = idle").rowcount == 1, what="idleness")
    found = psql(steered, pg_bin, "-At", "-c", "fe where database = app", "-c", "pool", "-c", "pool show 1")
    assert found.stderr == ""
    frontend, *pools_and_worker = found.stdout.splitlines()
    assert "|127.0.0.1|" in frontend
    assert "|app|app_scram|database=app user=app_scram application_name='the app'|idle|" in frontend
    primary, standby, other, worker = pools_and_worker
    assert primary.startswith(f"1|t|127.0.0.1:{steered.conf['master'][1]}|1|up|primary")
    assert standby.startswith("2|f|")
    assert other.startswith("3|f|")
    assert "|app|app_scram|" in worker


def test_several_commands_in_one_text_are_answered_in_their_order(steered, pg_bin):
    found = psql(steered, pg_bin, "-At", "-c", "show version; cmd where command = cmd; select 1")
    version, cmd, one = found.stdout.splitlines()
    assert version.startswith("pgstmtpool ")
    assert cmd.startswith("cmd|")
    assert one == "1"


def test_psql_s_own_statements_fail_politely(steered, pg_bin):
    for command in ("\\d", "\\dt", "\\l", "\\du"):
        found = psql(steered, pg_bin, "-c", command)
        assert "0A000" in found.stderr, found.stderr
        assert "Type cmd for a list of all commands." in found.stderr


def test_unknown_command_names_the_nearest(steered, pg_bin):
    found = psql(steered, pg_bin, "-c", "pool lsit")
    assert "ERROR:  42601: unknown command" in found.stderr
    assert 'Did you mean "pool list"?' in found.stderr


def test_watch_repeats_a_listing(steered, pg_bin):
    found = psql(steered, pg_bin, "-At", typed="show version \\watch interval=0.01 count=3\n")
    assert sum(line.startswith("pgstmtpool ") for line in found.stdout.splitlines()) == 3, found.stderr


# --- drivers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True])
def test_psycopg_gets_values_of_their_types(boss, app, binary):
    cursor = boss.cursor(binary=binary)
    cursor.execute("fe list where database = %s and state = 'idle'", (roles.DATABASE,))
    row = dict(zip((column.name for column in cursor.description), cursor.fetchone(), strict=True))
    assert type(row["id"]) is int
    assert type(row["age"]) is float
    assert row["tls"] is False
    assert row["connected"].tzinfo is not None
    assert row["wait"] is None
    assert cursor.rowcount == 1


def test_psycopg_prepares_and_repeats(boss):
    for _ in range(7):
        assert boss.execute("pool show %s", ("1",), prepare=True).description is not None


def test_psycopg_s_transactions_are_followed(steered):
    with console(steered) as connection:
        connection.autocommit = False
        assert connection.execute("show version").rowcount == 1
        assert connection.info.transaction_status.name == "INTRANS"
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute("pool lst")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("show version")
        connection.rollback()
        assert connection.execute("show version").rowcount == 1


def test_errors_have_their_sqlstates(boss):
    for text, error in [
        ("nonsense", psycopg.errors.SyntaxError),
        ("pool show 1 2", psycopg.errors.SyntaxError),
        ("select * from pg_class", psycopg.errors.FeatureNotSupported),
        ("pool show 77", psycopg.errors.UndefinedObject),
        ("fe list where nothing = 1", psycopg.errors.UndefinedColumn),
        ("fe list limit many", psycopg.errors.InvalidParameterValue),
    ]:
        with pytest.raises(error):
            boss.execute(text)


def test_asyncpg_runs_commands(steered, app):
    async def run() -> None:
        who = {"host": steered.host, "port": steered.port, "database": "pseudo", **login()}
        async with asyncpg.create_pool(**who, min_size=1, max_size=2) as pool:
            for _ in range(2):  # given back in between, and reset
                async with pool.acquire() as connection:
                    rows = await connection.fetch("fe list where user = $1 order by age desc", roles.SCRAM.name)
                    assert rows[0]["database"] == roles.DATABASE
                    assert isinstance(rows[0]["id"], int)
            async with pool.acquire() as connection:
                with pytest.raises(asyncpg.PostgresSyntaxError):
                    await connection.fetch("pool lst")
                async with connection.transaction():
                    seen = [record["command"] async for record in connection.cursor("cmd order by command", prefetch=2)]
                assert "pool list" in seen
                assert seen == sorted(seen)

    asyncio.run(run())


@pytest.mark.needs_debian
def test_jdbc_runs_commands(steered, app):
    program, who = other_languages.jdbc("Console"), login()
    env = {
        **os.environ, "PGHOST": steered.host, "PGPORT": str(steered.port), "PGDATABASE": "pseudo",
        "PGUSER": who["user"], "PGPASSWORD": who["password"],
    }  # fmt: skip
    done = subprocess.run(program.command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    assert done.stdout == """\
columns: id int8, host text, age float8, tls bool, connected timestamptz
values: true true true
prepared: true 8
binary values: right
pool lst: 42601
pool show 77: 42704
select * from pg_class: 0A000
pool add nonsense: 22023
with a fetch size: true
in a transaction: 25001
steering: 0
valid: true
"""


# --- the protocol ----------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(steered: Pooler) -> Iterator[Raw]:
    with Raw(steered.host, steered.port, user=roles.TRUST.name, database="pseudo") as raw:
        yield raw


def test_empty_text_is_an_empty_query(raw):
    assert raw.query(" ; -- nothing").tags == "IZ"
    raw.send(extended(""))
    assert raw.answer().tags == "12nIZ"


def test_portal_is_read_in_parts(raw):
    raw.send(parse("cmd order by command"), bind(), DESCRIBE, execute(max_rows=1), execute(max_rows=1), SYNC)
    answer = raw.answer()
    assert answer.tags == "12TDsDsZ"
    first, second = (row[0] for row in answer.rows)
    assert first < second


def test_error_skips_to_the_next_sync(raw):
    raw.send(parse("pool lst"), bind(), execute(), parse("show version"), SYNC, extended("show version"))
    assert raw.answer().tags == "EZ"
    assert raw.answer().tags == "12TDCZ"


def test_what_was_not_prepared_or_bound_is_not_there(raw):
    raw.send(bind("nobody"), SYNC, execute("nobody"), SYNC)
    assert raw.answer().code == "26000"
    assert raw.answer().code == "34000"


def test_prepared_statement_is_closed_and_prepared_again(raw):
    for _ in range(2):
        raw.send(parse("show version", "s"), bind("s"), execute(), close("S", "s"), SYNC)
        assert raw.answer().tags == "12DC3Z"


def test_function_call_is_refused(raw):
    raw.send(b"F\0\0\0\x0e\0\0\0\1\0\0\0\0\0\0"[:15], query("show version"))
    assert raw.answer().code == "42601"
    assert raw.answer().tags == "TDCZ"


def test_malformed_message_is_an_error_and_no_end(raw):
    raw.send(b"B\0\0\0\6x\0", SYNC)
    assert raw.answer().code == "08P01"
    assert raw.query("show version").tags == "TDCZ"


# --- who may come in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [roles.ADMIN.name, WATCHER, OPERATOR, SCRAPER])
def test_everybody_with_a_privilege_may_watch(steered, name):
    with console(steered, name) as connection:
        assert connection.execute("pool list").rowcount == 3


def test_who_has_no_privilege_is_not_let_in(steered):
    with pytest.raises(psycopg.OperationalError, match='permission denied for database "pseudo"'):
        steered_login = {"user": roles.SCRAM.name, "password": roles.SCRAM.password}
        psycopg.connect(host=steered.host, port=steered.port, dbname="pseudo", **steered_login)


def test_wrong_password_is_refused(steered):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(host=steered.host, port=steered.port, dbname="pseudo", user=OPERATOR, password="wrong")


def test_rules_of_the_server_that_name_the_pseudo_database_count(cluster, people):
    primary = cluster.primary
    before = primary.hba[2:]
    primary.set_hba([f"host pseudo {WATCHER} all reject", *before])
    primary.reload()
    try:
        with own_pooler(cluster) as pooler:
            with pytest.raises(psycopg.OperationalError, match="rejects connection"):
                console(pooler, WATCHER)
            with console(pooler) as connection:
                assert connection.execute("show version").rowcount == 1
    finally:
        primary.set_hba(before)
        primary.reload()


def test_console_is_reached_when_max_client_conn_is(cluster):
    with own_pooler(cluster, max_client_conn=1) as pooler, Raw(pooler.host, pooler.port):
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            pooler_login = {"user": roles.TRUST.name, "dbname": roles.DATABASE}
            psycopg.connect(host=pooler.host, port=pooler.port, **pooler_login)
        with console(pooler) as connection:
            assert connection.execute("fe list where database = app").rowcount == 1


# --- what is seen ----------------------------------------------------------------------------------------------------


def row_of(connection: psycopg.Connection, listing: str) -> dict[str, Any]:
    cursor = connection.execute(listing)
    row = cursor.fetchone()
    assert row is not None, f"{listing} shows nothing"
    return dict(zip((each.name for each in cursor.description or ()), row, strict=True))


@contextlib.contextmanager
def one_waits_for_another(cluster: Cluster) -> Iterator[tuple[psycopg.Connection, Raw, Raw]]:
    """A console, a frontend that has the only worker in a transaction, and one whose write waits for it."""
    with (
        own_pooler(cluster, max_workers=1) as pooler, console(pooler) as boss,
        Raw(pooler.host, pooler.port) as holder, Raw(pooler.host, pooler.port) as waiting,
    ):  # fmt: skip
        holder.query("begin")
        waiting.send(query("update nothing set a = 1"))
        yield boss, holder, waiting
        holder.query("commit")
        waiting.answer()


def test_waiting_frontends_are_seen_with_what_they_wait_for(cluster):
    with one_waits_for_another(cluster) as (boss, holder, waiting):
        listing = "fe list where state = waiting order by wait desc limit 1"
        wait_until(lambda: boss.execute(listing).rowcount == 1, what="the frontend to wait")
        seen = row_of(boss, listing)
        assert seen["id"] == waiting.key[0]
        assert seen["class"] in ("write", "opaque")  # as long as the catalog has not been scanned
        assert seen["wait"] > 0
        assert seen["received"] > 0 and seen["sent"] > 0
        assert row_of(boss, f"pool show 1 where frontend_id = {holder.key[0]}")["state"] == "held"
        assert row_of(boss, f"fe list where id = {holder.key[0]}")["state"] == "idle in transaction"
        pool = row_of(boss, "pool list where master = true")
        assert (pool["worker"], pool["busy"], pool["queue"]) == (1, 1, 1)


def test_session_mode_is_seen_too(cluster):
    with own_pooler(cluster, pool_mode="session") as pooler, Raw(pooler.host, pooler.port), console(pooler) as boss:
        seen = row_of(boss, "fe list where database = app")
        assert (seen["mode"], seen["state"], seen["pool_id"]) == ("session", "held", 1)
        assert seen["received"] > 0 and seen["sent"] > 0
        assert boss.execute("pool show").rowcount == 1


def test_console_goes_with_the_pool(cluster):
    with own_pooler(cluster) as pooler:
        connection = console(pooler)
        pooler.stop()
        with pytest.raises(psycopg.OperationalError, match="administrator command"):
            connection.execute("show version")


def test_garbage_ends_the_connection_and_nothing_else(steered):
    with Raw(steered.host, steered.port, user=roles.TRUST.name, database=roles.DATABASE) as neighbour:
        with console(steered) as boss:
            os.write(boss.pgconn.socket, b"\xff\0\0\0\x04")
            with pytest.raises(psycopg.OperationalError):
                boss.execute("show version")
        neighbour.send(query("select 1"))
        assert neighbour.answer().rows == [("1",)]


# --- PgBouncer's words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first", "columns"),
    [
        ("SHOW POOLS", "database user cl_active cl_waiting", 16),
        ("SHOW CLIENTS", "type user database state addr port local_addr local_port connect_time", 18),
        ("SHOW SERVERS", "type user database state addr port local_addr local_port connect_time", 18),
        ("SHOW DATABASES", "name host port database force_user pool_size min_pool_size reserve_pool", 13),
        ("SHOW USERS", "name pool_mode", 2),
        ("SHOW LISTS", "list items", 2),
        ("SHOW CONFIG", "key value default changeable", 4),
        ("SHOW STATE", "key value", 2),
        ("SHOW MEM", "name size used free memtotal", 5),
        ("SHOW VERSION", "version", 1),
        ("SHOW HELP", "command", 4),
    ],
)
def test_pgbouncer_s_listings_have_its_columns(boss, app, text, first, columns):
    cursor = boss.execute(text)
    names = [each.name for each in cursor.description]
    assert names[: len(first.split())] == first.split()
    assert len(names) == columns
    assert cursor.rowcount > 0


def test_pgbouncer_s_pools_count_clients_and_servers(cluster):
    with one_waits_for_another(cluster) as (boss, _holder, _waiting):
        listing = "show pools where database = app"
        wait_until(lambda: row_of(boss, listing)["cl_waiting"] == 1, what="the frontend to wait")
        seen = row_of(boss, listing)
        assert (seen["user"], seen["cl_active"], seen["sv_active"], seen["sv_idle"]) == (roles.TRUST.name, 1, 1, 0)
        assert seen["maxwait"] * 1_000_000 + seen["maxwait_us"] > 0
        assert seen["pool_mode"] == "statement"
        assert row_of(boss, "show databases where name = app")["current_connections"] == 1
        assert row_of(boss, "show lists where list = used_servers")["items"] == 1


def test_nothing_secret_is_shown(cluster):
    with own_pooler(cluster, conn_params=[{"user": "app_scram", "password": "s3cret word"}]) as pooler:
        options = {"options": "-c app.token=s3cret"}
        with (
            Raw(pooler.host, pooler.port, **options, **{"app.key": "s3cret"}) as raw,
            console(pooler) as boss,
        ):
            raw.query("select 1")
            for command in commands.TABLE:
                if command.is_listing and command.privilege is commands.WATCH:
                    rows = boss.execute(command.words).fetchall()
                    assert "s3cret" not in str(rows), command.words
                    assert roles.ADMIN.password not in str(rows), command.words


# --- explain route ---------------------------------------------------------------------------------------------------


def routed(boss: psycopg.Connection, text: str) -> dict[str, str]:
    return dict(boss.execute(f"explain route in app {text}").fetchall())


@pytest.mark.parametrize(
    ("text", "kind", "server", "worker", "afterwards"),
    [
        ("select 1", "shareable", "primary", "alone|shared", "anybody's"),
        ("/*s*/ select 1", "shareable", "in turn standby", "alone|shared", "anybody's"),
        ("insert into t values (1); ", "write", "primary", "alone", "anybody's"),
        ("begin", "transaction", "primary", "until the transaction is over", "anybody's"),
        ("set search_path = a", "setting", "primary", "alone", "asked what has been set"),
        ("listen news", "session", "primary", "until the client disconnects", "cleaned"),
        ("do $$begin end$$", "opaque", "primary", "alone", "cleaned"),
        ("select lastval()", "refused", "refused with 55000", "", ""),
    ],
)
def test_route_of_a_statement_is_explained(boss, app, text, kind, server, worker, afterwards):
    wait_until(lambda: "shareable" in routed(boss, "select count(*) from pg_class")["class"], what="the catalog's scan")
    found = routed(boss, text)
    assert found["class"].startswith(f"{kind}: ")
    assert server in found["server"]
    assert any(each in found.get("worker", "") for each in worker.split("|"))
    assert afterwards in found.get("afterwards", "")


def test_route_is_explained_for_the_only_database_that_is_in_use(boss, app):
    found = dict(boss.execute("explain route /*s*/ select 1").fetchall())
    assert (found["database"], "in turn standby" in found["server"]) == ("app", True)
    for comment in ("/* where to? */", "-- where to?\n"):
        found = dict(boss.execute(f"explain route {comment} in app select 1").fetchall())
        assert (found["database"], "in turn standby" in found["server"]) == ("app", False)
        with pytest.raises(psycopg.errors.UndefinedObject, match='"nowhere" is not in use'):
            boss.execute(f"explain route {comment} in nowhere select 1")


def test_route_is_explained_for_a_database_that_is_in_use(boss, app):
    with pytest.raises(psycopg.errors.UndefinedObject, match="not in use"):
        boss.execute("explain route in nowhere select 1")
    with pytest.raises(psycopg.errors.SyntaxError):
        boss.execute("explain route")
