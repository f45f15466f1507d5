"""pg8000 does through the pooler what it does with the primary itself."""

from __future__ import annotations

import io

import pg8000.dbapi
import pg8000.exceptions
import pg8000.native
import pytest

from tests.cluster.clients.tools import EACH_LOGIN, words


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
