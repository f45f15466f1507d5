"""What an opaque statement sets is found behind its run, and is its frontend's then, whoever has the worker."""

from __future__ import annotations

import pytest

from tests import roles
from tests.cluster.rawclient import Raw, extended, simple
from tests.servers import Pooler
from tests.workplace import wait_until

KEEPS_NOTHING = "do $$ begin execute 'select 1'; end $$"


@pytest.fixture(scope="module")
def own_pooler(cluster):
    settings = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "max_workers": 1, "log_level": "debug"}
    with Pooler(settings, cluster=cluster) as pooler:
        with Raw(pooler.host, pooler.port) as frontend:
            frontend.query("select 1")
            wait_until(lambda: "scanned in" in pooler.log, what="the scan of the catalog")
        yield pooler


@pytest.fixture
def connect(own_pooler):
    frontends = []

    def connect() -> Raw:
        frontends.append(Raw(own_pooler.host, own_pooler.port))
        return frontends[-1]

    yield connect
    for frontend in frontends:
        frontend.close()


@pytest.mark.parametrize(
    ("protocol", "setting", "value"), [(simple, "maintenance_work_mem", "9MB"), (extended, "work_mem", "9MB")]
)
def test_what_code_sets_unseen_is_its_frontends_and_holds_no_worker(connect, protocol, setting, value):
    text = f"do $$ begin execute 'set ' || '{setting} = ''{value}'''; end $$"
    first, second = connect(), connect()
    default = first.value(f"show {setting}")
    first.send(protocol(text))
    first.answer()
    assert (first.value(f"show {setting}"), second.value(f"show {setting}")) == (value, default)
    second.send(protocol(text))
    second.answer()
    first.query(f"reset {setting}")
    assert (first.value(f"show {setting}"), second.value(f"show {setting}")) == (default, value)
    assert len({each.value("select pg_backend_pid()") for each in (first, second)}) == 1


def test_what_was_found_to_set_something_is_said_once_and_asked_after_from_then_on(connect, own_pooler):
    """Its first runs are asked after, and then ever fewer of them; not so when one of them has set something."""
    frontend = connect()
    text = "do $$ begin execute 'set ' || 'temp_buffers = 999'; end $$"
    said = "left setting temp_buffers in its session; it is asked after that each time from now on: do"

    def is_said() -> bool:
        scans = own_pooler.log.count("scanned in")
        frontend.query(text)
        wait_until(lambda: own_pooler.log.count("scanned in") > scans, what="the catalog to be scanned")
        return said in own_pooler.log

    # Nothing is while the catalog is scanned, which such a block has it be.
    wait_until(is_said, what="it to be learned")
    for _ in range(9):
        frontend.query("reset temp_buffers")
        frontend.query(text)
        assert frontend.value("show temp_buffers") == "7992kB"
    assert own_pooler.log.count(said) == 1


def test_what_code_leaves_beside_settings_holds_the_worker(connect):
    first, second = connect(), connect()
    first.query("do $$ begin execute 'create temp table unseen as select 5 as n'; end $$")
    assert first.value("select n from unseen") == "5"
    assert first.value("select pg_backend_pid()") != second.value("select pg_backend_pid()")
    assert second.value("select to_regclass('unseen')") is None
    first.query("drop table unseen")
    wait_until(
        lambda: first.value("select pg_backend_pid()") == second.value("select pg_backend_pid()"), 10, "it to be free"
    )


def test_what_was_set_in_the_same_transaction_is_not_laid_to_the_charge_of_code(connect, own_pooler):
    frontend = connect()
    for text in ("begin", "set join_collapse_limit to 3", "do $$ begin execute 'select 5'; end $$", "commit"):
        frontend.query(text)
    assert frontend.value("show join_collapse_limit") == "3"
    assert "left setting join_collapse_limit" not in own_pooler.log


def test_a_statement_that_leaves_nothing_holds_nothing(connect):
    """Three frontends have run it, and are all served by one worker: there are no more than one that nobody holds."""
    frontends = [connect() for _ in range(3)]
    for frontend in frontends:
        frontend.query(KEEPS_NOTHING)
    wait_until(
        lambda: len({frontend.value("select pg_backend_pid()") for frontend in frontends}) == 1, 10, "one worker"
    )
