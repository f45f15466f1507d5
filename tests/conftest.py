"""Fixtures that all tests share: real servers with a pooler in front of them, and the alarm for a blocked loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import roles
from tests.loop_alarm import LoopAlarm
from tests.servers import Cluster, Pooler, bin_dir

GREEN_TESTS = Path(__file__).parent / "green"

MARKERS = [
    "needs_debian: needs Debian's packages (PostgreSQL 15 with pl/python, PgBouncer …); in make test-all only",
    "needs_docker: needs a Docker engine; in make test-all only",
    "loop_gap_ms(limit): how long the gevent loop may stand still in this test (tests/green; default 20 ms)",
]


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.fixture(scope="session")
def pg_bin() -> Path:
    """Where psql and pgbench (and all of PostgreSQL 16) are."""
    return bin_dir(16)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A primary and two standbys, with the roles and databases of tests.roles."""
    with Cluster(standbys=2, hba=roles.hba_lines(), max_connections=200) as cluster:
        roles.create(cluster.primary)
        cluster.wait_caught_up()
        yield cluster


@pytest.fixture(scope="session")
def pooler(cluster: Cluster) -> Iterator[Pooler]:
    """A pooler in front of `cluster`, with default settings; it must end cleanly at the end of the session."""
    with Pooler({"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}}, cluster=cluster) as pooler:
        yield pooler


@pytest.fixture(autouse=True)
def loop_alarm(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test of tests/green in which the gevent loop stood still for more than 20 ms (marker loop_gap_ms)."""
    if GREEN_TESTS not in request.path.parents:
        yield
        return
    marker = request.node.get_closest_marker("loop_gap_ms")
    with LoopAlarm() as alarm:
        yield
    limit_ms = marker.args[0] if marker else 20
    if alarm.worst_ms > limit_ms:
        pytest.fail(f"the gevent loop stood still for {alarm.worst_ms:.1f} ms ({alarm.explain()})", pytrace=False)
