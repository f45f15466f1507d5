"""Drivers of Java, JavaScript, PHP and Perl do through the pooler what they do with the primary itself."""

from __future__ import annotations

import pytest

from tests.cluster.clients import other_languages
from tests.cluster.clients.tools import run_client
from tests.cluster.conftest import Address


def work(program: other_languages.Program, address: Address, table: str) -> str:
    """What the program says of its work."""
    return run_client(program.command[0], address, *program.command[1:], "work", table, **program.variables)


@pytest.mark.needs_debian
def test_jdbc_prepares_batches_walks_copies_and_times_out(address, table):
    assert work(other_languages.jdbc(), address, table) == """\
application_name: PostgreSQL JDBC Driver
prepared on the server: true
autocommit: 12
in a transaction: 23505
isolation: serializable
read only: on
after them: 14
batches: 300, 23505
after them: 314
with a fetch size: 314
generated key: 500
columns: id int4, word text
copy: 2 600 in 601 \\N\x20
query timeout: 57014
notification: jdbc_news hello
valid: true
"""


@pytest.mark.needs_npm
def test_node_postgres_with_its_pool_gives_everybody_their_own_answers(address, table):
    assert work(other_languages.node_postgres(), address, table) == """\
forty at once: true
error: 23505
in a transaction: 23505
after them: 13
types: {"deep":[1]} [1,null,3] 1970-01-01T00:00:00.000Z 00ff
several: {"one":1} {"two":2}
notification: node_news hello
"""


@pytest.mark.needs_npm
def test_postgres_js_pipelines_prepares_copies_and_listens(address, table):
    assert work(other_languages.postgres_js(), address, table) == """\
forty at once: true
error: 23505
in a transaction: 23505
rolled back: the application changed its mind
after them: 13
types: {"deep":[1]} [1,2,3] 1970-01-01T00:00:00.000Z
with a cursor: 100
copy: "30\\tin\\n31\\t\\\\N\\n"
notification: hello
canceled: 57014
"""


@pytest.mark.needs_debian
def test_pdo_prepares_emulates_scrolls_and_copies(address, table):
    assert work(other_languages.pdo(), address, table) == """\
error: 23505
in a transaction: 23505
after them: 13
emulated: word 7
with a cursor: [5,4]
copy: 30	in
31	out

last insert id: ["1","1"]
notification: ["php_news","hello"]
"""


@pytest.mark.needs_debian
def test_dbd_pg_prepares_copies_listens_and_cancels(address, table):
    assert work(other_languages.dbd_pg(), address, table) == """\
error: 23505
in a transaction: 23505
after them: 13
each by its id: word 3 word 5 word 7
array: 1,2,3
copy: 30 31
columns: id, word
notification: perl_news hello
canceled: yes
ping: alive
"""
