"""A database can be dropped, renamed and copied through the pooler: nothing of the pooler's own is in the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests import roles
from tests.cluster.clients.tools import run_client
from tests.cluster.conftest import Address
from tests.cluster.wire import Wire, query, refusal
from tests.servers import Pooler
from tests.workplace import wait_until

CONF = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}}
NAMES = {"plain": "left_behind", "quoted": "Left; Behind"}


@pytest.fixture(autouse=True)
def databases(cluster) -> Iterator[None]:
    """Those that a test has made are dropped afterwards, whatever has become of them."""
    yield
    for (name,) in cluster.primary.query("select datname from pg_database where datname ~* '^left'"):
        cluster.primary.query(f'drop database "{name}" with (force)')


def admin(address: Address) -> psycopg.Connection:
    return psycopg.connect(**address.libpq(roles.ADMIN), autocommit=True)


def use(address: Address, database: str) -> None:
    """A few frontends use the database at the same time, and leave."""
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Wire(address, database=database)) for _ in range(3)]
        for session in sessions:
            session.send(query("select pg_sleep(0.05)"))
        for session in sessions:
            assert session.until_ready()[-1] == ("Z", b"I")


def exists(address: Address, database: str) -> bool:
    return address.primary.query("select count(*) from pg_database where datname = %s", [database]) == [(1,)]


@pytest.mark.parametrize("name", NAMES)
def test_a_database_is_copied_renamed_and_dropped_by_the_programs_for_it(address, pg_bin, name):
    def run(program: str, *args: str) -> None:
        run_client(pg_bin / program, address, *args, role=roles.ADMIN)

    database = NAMES[name]
    run("createdb", database)
    use(address, database)
    run("createdb", "-T", database, "left_copy")
    use(address, "left_copy")
    use(address, database)
    run("psql", "-Xv", "ON_ERROR_STOP=1", "-c", f'alter database "{database}" rename to LEFT_AGAIN')
    assert not exists(address, database)
    run("dropdb", "--if-exists", "left_copy")
    assert not exists(address, "left_copy")
    use(address, "left_again")
    run("psql", "-Xv", "ON_ERROR_STOP=1", "-c", "DROP DATABASE left_again")
    assert not exists(address, "left_again")


def test_a_database_is_dropped_whose_last_frontend_leaves_meanwhile(address):
    """The server waits for some seconds, and the pooler must not keep the workers of the one that has left."""
    with admin(address) as session, ThreadPoolExecutor() as pool:
        session.execute("create database left_late")
        late = Wire(address, database="left_late")
        assert late.value("select 1") == "1"
        dropped = pool.submit(session.execute, "drop database left_late")
        running = "select true from pg_stat_activity where query = 'drop database left_late' and state = 'active'"
        wait_until(lambda: address.primary.query(running), what="the server to wait")
        late.sock.close()
        dropped.result(timeout=20)
        assert not exists(address, "left_late")


def test_a_database_with_a_frontend_in_it_is_not_dropped(address):
    with admin(address) as session:
        session.execute("create database left_open")
        with Wire(address, database="left_open") as inside:
            assert inside.value("select 1") == "1"
            with pytest.raises(psycopg.errors.ObjectInUse):
                session.execute("drop database left_open")
            assert inside.value("select 2") == "2"


def test_a_database_that_was_dropped_is_not_there_for_the_next_frontend(address):
    with admin(address) as session:
        session.execute("create database left_and_gone")
        use(address, "left_and_gone")
        session.execute("drop database left_and_gone")
        assert refusal(address, user=roles.TRUST.name, database="left_and_gone")["C"] == "3D000"
        session.execute("create database left_and_gone")
        use(address, "left_and_gone")


def test_a_database_is_dropped_that_sessions_have_used(cluster):
    with Pooler({**CONF, "pool_mode": "session"}, cluster=cluster) as pooler:
        address = Address(pooler.host, pooler.port, cluster.primary)
        with admin(address) as session:
            session.execute("create database left_by_sessions")
            use(address, "left_by_sessions")
            session.execute("drop database left_by_sessions")
            assert not exists(address, "left_by_sessions")
    assert "Traceback" not in pooler.log
