"""psycopg2 does through the pooler what it does with the primary itself."""

from __future__ import annotations

import io
import threading

import psycopg2
import psycopg2.extras
import pytest

from tests.cluster.clients.tools import EACH_LOGIN, words
from tests.workplace import wait_until


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
        wait_until(lambda: address.query(asleep), what="the statement to run")
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
