"""psql, pgbench and the drivers of Python do through the pooler what they do with the primary itself."""

from __future__ import annotations

import asyncio
import datetime
import io
import os
import re
import subprocess
import threading
from decimal import Decimal
from pathlib import Path

import asyncpg
import pg8000.dbapi
import pg8000.exceptions
import pg8000.native
import psycopg
import psycopg2
import psycopg2.extras
import pytest

from tests import roles
from tests.cluster.conftest import Address
from tests.workplace import wait_until

EACH_LOGIN = pytest.mark.parametrize("role", roles.LOGINS, ids=lambda role: role.method)


@pytest.fixture
def table(address: Address) -> str:
    """The name of an empty table (id int primary key, word text) that everybody may use."""
    address.query("drop table if exists driver_test")
    address.query("create table driver_test (id int primary key, word text)")
    address.query("grant all on driver_test to public")
    return "driver_test"


def words(address: Address, table: str) -> list[tuple[int, str]]:
    """What is committed in the table, as the primary itself sees it."""
    return address.query(f"select id, word from {table} order by id")


def run_client(program: Path, address: Address, *args: str, role: roles.Role = roles.SCRAM, stdin: str = "") -> str:
    """What psql or pgbench printed; it must end with exit code 0."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        [program, *args], env={**kept, "LC_ALL": "C", **address.environment(role)}, input=stdin, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- psql -----------------------------------------------------------------------------------------------------------


@EACH_LOGIN
def test_psql_logs_in_and_asks(address, pg_bin, role):
    assert run_client(pg_bin / "psql", address, "-XAtc", "select current_user, 1 + 1", role=role) == f"{role.name}|2\n"


def test_psql_runs_a_script_with_a_transaction_an_error_and_copy(address, pg_bin, table):
    script = f"""
        begin; insert into {table} values (1, 'kept'); commit;
        begin; insert into {table} values (2, 'undone'); rollback;
        select 1 / 0;
        copy {table} from stdin;\n3\tcopied\n4\t\\N\n\\.
        copy {table} to stdout;
        \\d {table}
        \\echo :ROW_COUNT
    """
    printed = run_client(pg_bin / "psql", address, "-XAt", stdin=script.replace("        ", ""))
    assert "ERROR:  division by zero" in printed
    assert "1\tkept\n3\tcopied\n4\t\\N\n" in printed
    assert "id|integer" in printed
    assert words(address, table) == [(1, "kept"), (3, "copied"), (4, None)]


def test_psql_reads_a_large_result_in_pieces(address, pg_bin):
    script = "\\set FETCH_COUNT 1000\nselect repeat('x', 100) || n from generate_series(1, 20000) n;\n"
    printed = run_client(pg_bin / "psql", address, "-XAt", stdin=script)
    assert printed.count("\n") == 20000
    assert printed.endswith("x20000\n")


# --- pgbench --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pgbench_tables(cluster, pg_bin) -> None:
    """pgbench's tables in scale 1, made on the primary itself."""
    own = Address(cluster.primary.host, cluster.primary.port, cluster.primary)
    run_client(pg_bin / "pgbench", own, "-i", "-s", "1", "-q")


def transactions_done(printed: str) -> int:
    assert "number of failed transactions: 0" in printed, printed
    return int(re.search(r"number of transactions actually processed: (\d+)/\d+", printed)[1])


MODES = pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])


@MODES
def test_pgbench_selects(address, pg_bin, pgbench_tables, mode):
    printed = run_client(pg_bin / "pgbench", address, "-n", "-S", "-M", mode, "-c", "8", "-t", "100")
    assert transactions_done(printed) == 800


@MODES
def test_pgbench_runs_tpc_b_and_every_transaction_counts_once(address, pg_bin, pgbench_tables, mode):
    address.query("truncate pgbench_history")
    printed = run_client(pg_bin / "pgbench", address, "-n", "-M", mode, "-c", "6", "-t", "50")
    assert transactions_done(printed) == 300
    sums = """
        select (select count(*) from pgbench_history), (select sum(abalance) from pgbench_accounts),
               (select sum(tbalance) from pgbench_tellers), (select sum(bbalance) from pgbench_branches)
    """
    ((count, accounts, tellers, branches),) = address.query(sums)
    assert count == 300
    assert accounts == tellers == branches


def test_pgbench_connects_anew_for_each_transaction(address, pg_bin, pgbench_tables):
    printed = run_client(pg_bin / "pgbench", address, "-n", "-S", "-C", "-c", "4", "-t", "10")
    assert transactions_done(printed) == 40


# --- psycopg2 -------------------------------------------------------------------------------------------------------


@EACH_LOGIN
def test_psycopg2_logs_in_and_asks(address, role):
    connection = psycopg2.connect(**address.libpq(role))
    with connection, connection.cursor() as cursor:
        cursor.execute("select current_user, %s::text", ["ü'\\"])
        assert cursor.fetchall() == [(role.name, "ü'\\")]
    connection.close()


def test_psycopg2_commits_and_rolls_back(address, table):
    connection = psycopg2.connect(**address.libpq())
    with connection, connection.cursor() as cursor:
        psycopg2.extras.execute_values(cursor, f"insert into {table} values %s", [(1, "one"), (2, "two")])
    with pytest.raises(psycopg2.errors.UniqueViolation), connection, connection.cursor() as cursor:
        cursor.execute(f"insert into {table} values (3, 'three')")
        cursor.execute(f"insert into {table} values (1, 'again')")
    connection.close()
    assert words(address, table) == [(1, "one"), (2, "two")]


def test_psycopg2_copies_in_and_out(address, table):
    connection = psycopg2.connect(**address.libpq())
    rows = "".join(f"{number}\tword {number}\n" for number in range(5000))
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(f"copy {table} from stdin", io.StringIO(rows))
        out = io.StringIO()
        cursor.copy_expert(f"copy (select * from {table} order by id) to stdout", out)
    connection.close()
    assert out.getvalue() == rows


def test_psycopg2_reads_with_a_server_side_cursor(address):
    connection = psycopg2.connect(**address.libpq())
    with connection, connection.cursor(name="walk") as cursor:
        cursor.itersize = 100
        cursor.execute("select generate_series(1, 1000)")
        assert [number for (number,) in cursor] == list(range(1, 1001))
    connection.close()


def test_psycopg2_cancels_its_own_statement(address):
    connection = psycopg2.connect(**address.libpq())
    asleep = "select 1 from pg_stat_activity where state = 'active' and query = 'select pg_sleep(31)'"

    def cancel():
        wait_until(lambda: address.query(asleep), 10, "the statement to run")
        connection.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with connection.cursor() as cursor, pytest.raises(psycopg2.errors.QueryCanceled):
        cursor.execute("select pg_sleep(31)")
    canceller.join()
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("select 'alive'")
        assert cursor.fetchone() == ("alive",)
    connection.close()


# --- psycopg 3 ------------------------------------------------------------------------------------------------------


@EACH_LOGIN
def test_psycopg_logs_in_and_asks(address, role):
    with psycopg.connect(**address.libpq(role)) as connection:
        assert connection.execute("select current_user::text, %s::int", [7]).fetchone() == (role.name, 7)


def test_psycopg_uses_transactions_and_savepoints(address, table):
    with psycopg.connect(**address.libpq()) as connection:
        connection.execute(f"insert into {table} values (1, 'kept')")
        with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
            connection.execute(f"insert into {table} values (1, 'twice')")
        connection.execute(f"insert into {table} values (2, 'kept too')")
    assert words(address, table) == [(1, "kept"), (2, "kept too")]


def test_psycopg_in_autocommit_prepares_by_itself_and_types_survive(address, table):
    values = (1, Decimal("12.50"), datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC), [1, None, 3], b"\0\xff")
    with psycopg.connect(**address.libpq(), autocommit=True) as connection:
        for _ in range(12):  # from the sixth time on with a prepared statement
            row = connection.execute("select %s::int, %s::numeric, %s::timestamptz, %s::int[], %s::bytea", values)
            assert row.fetchone() == values
        for number in range(12):
            connection.execute(f"insert into {table} values (%s, %s)", [number, "x"], prepare=True)
        binary = connection.cursor(binary=True)
        assert binary.execute("select count(*), sum(id) from driver_test").fetchone() == (12, 66)
    assert len(words(address, table)) == 12


def test_psycopg_pipelines_and_an_error_skips_only_up_to_its_sync(address, table):
    with psycopg.connect(**address.libpq(), autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("select %s::int * 2", [number]) for number in range(50)]
            connection.execute(f"insert into {table} values (1, 'kept')")
            pipeline.sync()
            assert [cursor.fetchone() for cursor in cursors] == [(number * 2,) for number in range(50)]
        with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
            connection.execute("select 1 / %s::int", [0])
            connection.execute(f"insert into {table} values (2, 'skipped')")
        assert connection.execute("select 'alive'").fetchone() == ("alive",)
    assert words(address, table) == [(1, "kept")]


def test_psycopg_copies_in_and_out(address, table):
    rows = [(number, f"word {number}") for number in range(5000)]
    with psycopg.connect(**address.libpq()) as connection, connection.cursor() as cursor:
        with cursor.copy(f"copy {table} from stdin (format binary)") as copy:
            copy.set_types(["int4", "text"])
            for row in rows:
                copy.write_row(row)
        with cursor.copy(f"copy {table} to stdout") as copy:
            copy.set_types(["int4", "text"])
            assert sorted(copy.rows()) == rows


def test_psycopg_gives_up_a_copy_and_goes_on(address, table):
    with psycopg.connect(**address.libpq(), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.QueryCanceled), connection.cursor().copy(f"copy {table} from stdin") as copy:
            copy.write_row((1, "never"))
            raise psycopg.errors.QueryCanceled("the application changed its mind")
        assert connection.execute("select 'alive'").fetchone() == ("alive",)
    assert words(address, table) == []


def test_psycopg_hears_notifications(address):
    with (
        psycopg.connect(**address.libpq(), autocommit=True) as listener,
        psycopg.connect(**address.libpq(), autocommit=True) as speaker,
    ):
        listener.execute("listen news")
        speaker.execute("select pg_notify('news', 'hello')")
        heard = list(listener.notifies(timeout=5, stop_after=1))
    assert [(each.channel, each.payload) for each in heard] == [("news", "hello")]


# --- asyncpg --------------------------------------------------------------------------------------------------------


@EACH_LOGIN
def test_asyncpg_logs_in_and_asks(address, role):
    async def ask():
        connection = await asyncpg.connect(**address.params(role), timeout=10)
        try:
            return await connection.fetchrow("select current_user::text, $1::int + 1", 41)
        finally:
            await connection.close()

    assert tuple(asyncio.run(ask())) == (role.name, 42)


def test_asyncpg_uses_transactions_and_copy(address, table):
    async def work():
        connection = await asyncpg.connect(**address.params(), timeout=10)
        try:
            async with connection.transaction():
                await connection.executemany(f"insert into {table} values ($1, $2)", [(1, "one"), (2, "two")])
            with pytest.raises(asyncpg.UniqueViolationError):
                async with connection.transaction():
                    await connection.execute(f"insert into {table} values (3, 'three')")
                    await connection.execute(f"insert into {table} values (1, 'again')")
            rows = [(number, f"word {number}") for number in range(10, 3010)]
            copied = await connection.copy_records_to_table(table, records=rows)
            out = io.BytesIO()
            await connection.copy_from_query(f"select id from {table} where id > 3000 order by id", output=out)
            async with connection.transaction():
                cursor = connection.cursor(f"select id from {table}", prefetch=100)
                walked = [row["id"] async for row in cursor]
            return copied, out.getvalue(), len(walked)
        finally:
            await connection.close()

    out = "".join(f"{number}\n" for number in range(3001, 3010)).encode()
    assert asyncio.run(work()) == ("COPY 3000", out, 3002)
    assert words(address, table)[:3] == [(1, "one"), (2, "two"), (10, "word 10")]


def test_asyncpg_with_ten_connections_gives_everybody_their_own_answers(address):
    async def ask(pool, number):
        async with pool.acquire() as connection:
            statement = await connection.prepare("select $1::int, $2::text")
            return [tuple(await statement.fetchrow(number, f"{number}/{turn}")) for turn in range(20)]

    async def all_at_once():
        async with asyncpg.create_pool(**address.params(), min_size=10, max_size=10, timeout=10) as pool:
            return await asyncio.gather(*(ask(pool, number) for number in range(40)))

    expected = [[(number, f"{number}/{turn}") for turn in range(20)] for number in range(40)]
    assert asyncio.run(all_at_once()) == expected


# --- pg8000 ---------------------------------------------------------------------------------------------------------


@EACH_LOGIN
def test_pg8000_logs_in_and_asks(address, role):
    with pg8000.native.Connection(**address.params(role), timeout=30) as connection:
        assert connection.run("select cast(current_user as text), cast(:n as int) + 1", n=1) == [[role.name, 2]]


def test_pg8000_commits_and_rolls_back(address, table):
    connection = pg8000.dbapi.connect(**address.params(), timeout=30)
    cursor = connection.cursor()
    cursor.executemany(f"insert into {table} values (%s, %s)", [(1, "one"), (2, "two")])
    connection.commit()
    cursor.execute(f"insert into {table} values (3, 'three')")
    with pytest.raises(pg8000.exceptions.DatabaseError, match="23505"):
        cursor.execute(f"insert into {table} values (1, 'again')")
    connection.rollback()
    cursor.execute(f"select count(*) from {table}")
    assert tuple(cursor.fetchone()) == (2,)
    connection.close()
    assert words(address, table) == [(1, "one"), (2, "two")]


def test_pg8000_copies_and_keeps_a_prepared_statement(address, table):
    with pg8000.native.Connection(**address.params(), timeout=30) as connection:
        connection.run(f"copy {table} from stdin", stream=io.BytesIO(b"1\tone\n2\ttwo\n"))
        out = io.BytesIO()
        connection.run(f"copy (select * from {table} order by id) to stdout", stream=out)
        statement = connection.prepare(f"select word from {table} where id = :id")
        assert [statement.run(id=number) for number in (1, 2, 3)] == [[["one"]], [["two"]], []]
        statement.close()
    assert out.getvalue() == b"1\tone\n2\ttwo\n"
