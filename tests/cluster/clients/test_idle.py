"""What a client costs while it does nothing, and what it says unasked: docs/clients.md is held to what is seen here.

Each client opens ten connections, does on each what applications do (the same query ten times, a transaction) and is
idle: then the server is asked how many backends serve them. And one connection is listened to.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import roles
from tests.cluster.clients import other_languages
from tests.cluster.clients.other_languages import Program
from tests.cluster.clients.tap import Said, Tap
from tests.cluster.clients.tools import PROGRAMS, idling, new_role, run_client
from tests.cluster.conftest import Address
from tests.pooler import Pooler
from tests.workplace import bin_dir, wait_until

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "clients.md"
CONNECTIONS, MAX_WORKERS = 10, 3


def python(name: str) -> Program:
    variables = {"PSQL": str(bin_dir(16) / "psql")}
    return Program((sys.executable, str(PROGRAMS / "idle.py"), name), variables)


def django() -> Program:
    return Program((sys.executable, str(PROGRAMS / "shop_idle.py")), {"PYTHONPATH": str(PROGRAMS)})


DEBIAN, NPM = [pytest.mark.needs_debian], [pytest.mark.needs_npm]
CLIENTS: dict[str, tuple[Callable[[], Program], list[pytest.MarkDecorator]]] = {
    "psql": (functools.partial(python, "psql"), []),
    "psycopg2": (functools.partial(python, "psycopg2"), []),
    "psycopg 3": (functools.partial(python, "psycopg3"), []),
    "psycopg 3, autocommit": (functools.partial(python, "psycopg3_autocommit"), []),
    "asyncpg": (functools.partial(python, "asyncpg"), []),
    "pg8000": (functools.partial(python, "pg8000"), []),
    "SQLAlchemy with psycopg": (functools.partial(python, "sqlalchemy_psycopg"), []),
    "SQLAlchemy with asyncpg": (functools.partial(python, "sqlalchemy_asyncpg"), []),
    "Django": (django, []),
    "JDBC": (other_languages.jdbc, DEBIAN),
    "node-postgres": (other_languages.node_postgres, NPM),
    "postgres.js": (other_languages.postgres_js, NPM),
    "PHP PDO": (other_languages.pdo, DEBIAN),
    "Perl DBD::Pg": (other_languages.dbd_pg, DEBIAN),
}


@pytest.fixture(scope="module")
def few(cluster) -> Iterator[Address]:
    """A pooler that has few workers for a login."""
    conf = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "max_workers": MAX_WORKERS}
    with Pooler(conf, cluster=cluster, name="few") as pooler:
        yield Address(pooler.host, pooler.port, cluster.primary)


def backends(address: Address, role: roles.Role) -> int:
    return address.query(f"select count(*)::int from pg_stat_activity where usename = '{role.name}'")[0][0]


def own_role(address: Address, name: str) -> roles.Role:
    """Of a test's own: the pooler would give those of one name workers of another."""
    return new_role(address, "idle_" + re.sub(r"\W+", "_", name.lower()))


def names() -> list:
    return [pytest.param(name, marks=marks, id=name) for name, (_, marks) in CLIENTS.items()]


@pytest.mark.parametrize("name", names())
def test_idle_connections_of_a_client_are_served_by_few_backends(few, name):
    program = CLIENTS[name][0]()
    role = own_role(few, name)
    with idling(few, program.command, CONNECTIONS, role, **program.variables):
        assert 1 <= backends(few, role) <= MAX_WORKERS
    wait_until(lambda: backends(few, role) <= MAX_WORKERS, what="no more workers than may be idle")


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_clients_of_pgbench_are_served_by_few_backends(few, pg_bin, mode):
    role = own_role(few, mode)
    run_client(pg_bin / "pgbench", few, "-n", "-M", mode, "-c10", "-j10", "-t20", "-f", PROGRAMS / "one.sql", role=role)
    assert 1 <= backends(few, role) <= MAX_WORKERS


# --- the document -----------------------------------------------------------------------------------------------------


def rows(section: str) -> dict[str, list[str]]:
    """The cells of the table in a section, by the first of each row."""
    text = DOCUMENT.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return {row[0]: row[1:] for row in cells}


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def is_one_of(text: str, patterns: list[str]) -> bool:
    """Whether text is written there; … stands for anything, and white space is as good as any other."""
    text = " ".join(text.split())
    return any(re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), text) for pattern in patterns)


def listened_to(address: Address, name: str) -> Said:
    """What one connection of a client says, from its startup packet to its end."""
    program = CLIENTS[name][0]()
    role = own_role(address, f"heard {name}")
    with Tap(address.host, address.port) as tap:
        with idling(Address(tap.host, tap.port, address.primary), program.command, 1, role, **program.variables):
            pass
        (said,) = tap.connections
    return said


@pytest.mark.parametrize("name", names())
def test_what_a_client_says_unasked_is_in_the_document(few, name):
    said = listened_to(few, name)
    parameters, first, later = (quoted(cell) for cell in rows("What they say unasked")[name])
    told = {key: value for key, value in said.parameters.items() if key not in ("user", "database")}
    assert {each.partition("=")[0] for each in parameters} == set(told)
    assert all(is_one_of(f"{key}={value}", parameters) for key, value in told.items()), told
    texts = [text for _, text in said.texts]
    begin = next(at for at, text in enumerate(texts) if "usual_work" in text)
    own = [text for text in texts[begin:] if "usual_work" not in text and text != "select 1"]
    assert [text for text in texts[:begin] if not is_one_of(text, first)] == []
    assert [text for text in own if not is_one_of(text, later)] == []
    seen = {" ".join(text.split()) for text in texts}
    assert [each for each in first + later if not any(is_one_of(text, [each]) for text in seen)] == []


def test_every_client_is_in_the_table_with_how_it_is_served():
    served = {name: cells[-1] for name, cells in rows("Who was tried").items()}
    assert set(CLIENTS) <= set(served)
    assert {name for name, how in served.items() if not how.startswith("per ")} == set()
