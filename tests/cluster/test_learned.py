"""What an opaque statement sets for its session is gone after its first run, and kept from its second on."""

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
            wait_until(lambda: "scanned in" in pooler.log, 10, "the scan of the catalog")
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
def test_a_statement_that_was_found_to_set_something_holds_its_worker(connect, own_pooler, protocol, setting, value):
    text = f"do $$ begin execute 'set ' || '{setting} = ''{value}'''; end $$"
    first, second = connect(), connect()
    default = first.value(f"show {setting}")
    first.send(protocol(text))
    first.answer()
    wait_until(lambda: f"left setting {setting} in its session" in own_pooler.log, 10, "the first run to be seen")
    assert first.value(f"show {setting}") == default
    second.send(protocol(text))
    second.answer()
    assert second.value(f"show {setting}") == value
    assert first.value(f"show {setting}") == default


def test_a_statement_that_leaves_nothing_holds_nothing(connect):
    """Three frontends have run it, and are all served by one worker: there are no more than one that nobody holds."""
    frontends = [connect() for _ in range(3)]
    for frontend in frontends:
        frontend.query(KEEPS_NOTHING)
    wait_until(
        lambda: len({frontend.value("select pg_backend_pid()") for frontend in frontends}) == 1, 10, "one worker"
    )
