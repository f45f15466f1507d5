"""psycopg 3 does through the pooler what it does with the primary itself: in threads, in asyncio and in pipelines."""

from __future__ import annotations

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
