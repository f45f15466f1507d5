"""psycopg 3 does through the pooler what it does with the primary itself: in threads, in asyncio and in pipelines."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from decimal import Decimal

import psycopg
import pytest

from tests.cluster.clients.tools import EACH_LOGIN, words


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


def test_psycopg_in_asyncio_gives_everybody_their_own_answers(address, table):
    async def ask(number: int) -> list[tuple]:
        async with await psycopg.AsyncConnection.connect(**address.libpq(), autocommit=True) as connection:
            rows = []
            for turn in range(8):  # from the sixth time on with a prepared statement
                cursor = await connection.execute("select %s::int, %s::text", [number, f"{number}/{turn}"])
                rows += await cursor.fetchall()
            async with connection.transaction():
                await connection.execute(f"insert into {table} values (%s, %s)", [number, "async"])
            with contextlib.suppress(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute(f"delete from {table}")
                    raise ZeroDivisionError
            return rows

    async def all_at_once() -> list[list[tuple]]:
        return await asyncio.gather(*(ask(number) for number in range(12)))

    assert asyncio.run(all_at_once()) == [[(n, f"{n}/{turn}") for turn in range(8)] for n in range(12)]
    assert words(address, table) == [(number, "async") for number in range(12)]


def test_psycopg_prepares_in_pipelines_and_sends_executemany_in_one(address, table):
    with psycopg.connect(**address.libpq(), prepare_threshold=0) as connection:
        for turn in range(3):
            with connection.pipeline():
                rows = [(turn * 100 + number, f"word {number}") for number in range(50)]
                connection.cursor().executemany(f"insert into {table} values (%s, %s)", rows)
                found = [connection.execute(f"select word from {table} where id = %s", row[:1]) for row in rows]
                assert [cursor.fetchone()[0] for cursor in found] == [word for _, word in rows]
        connection.commit()
        cursor = connection.cursor()
        update = f"update {table} set word = %s where id = %s returning id"
        cursor.executemany(update, [("new", 1), ("new", 2)], returning=True)
        assert cursor.fetchone() == (1,)
        assert cursor.nextset()
        assert cursor.fetchone() == (2,)
        connection.rollback()
    assert [word for _, word in words(address, table)] == [f"word {number}" for number in range(50)] * 3


def test_psycopg_prepares_again_when_the_types_of_a_parameter_change(address, table):
    """The same text with numbers, texts and NULL: as many statements on the server, and no answer of another one."""
    types = {"smallint": 1, "integer": 100_000, "bytea": b"x", "boolean": True, "double precision": 1.5}
    with psycopg.connect(**address.libpq(), autocommit=True, prepare_threshold=2) as connection:
        connection.prepared_max = 3
        for _ in range(6):
            for type_, value in types.items():
                row = connection.execute("select pg_typeof(%s)::text", [value]).fetchone()
                assert row == (type_,)


def test_psycopg_walks_with_a_cursor_that_lives_beyond_its_transaction(address):
    with (
        psycopg.connect(**address.libpq()) as connection,
        connection.cursor("walk", withhold=True, scrollable=True) as cursor,
    ):
        cursor.execute("select generate_series(1, 1000)")
        connection.commit()
        cursor.itersize = 100
        assert [number for (number,) in cursor] == list(range(1, 1001))
        cursor.scroll(0, mode="absolute")
        assert cursor.fetchone() == (1,)


def test_psycopg_sets_its_isolation_and_hears_what_the_server_reports(address):
    with psycopg.connect(**address.libpq()) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        assert connection.execute("show transaction_isolation").fetchone() == ("repeatable read",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("create table never (id int)")
        connection.rollback()
        connection.read_only = None
        connection.execute("set timezone to 'Asia/Shanghai'")
        connection.commit()
        assert connection.info.timezone.key == "Asia/Shanghai"
        both = "select n, n::text from (values ('2024-01-01 00:00Z'::timestamptz)) v(n)"
        moment, text = connection.execute(both).fetchone()
        assert (moment.isoformat(), text) == ("2024-01-01T08:00:00+08:00", "2024-01-01 08:00:00+08")
