"""What tests on real servers share: an address to run a driver against, be it the pooler's or the primary's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests import roles
from tests.cluster import auth_roles
from tests.cluster.convoy import WANTED_S, Convoy, Place
from tests.cluster.rawclient import Raw
from tests.cluster.twice import Home
from tests.conftest import POOLER
from tests.servers import Cluster, Pooler, Server


class Address:
    """Where a driver connects: host and port, and the primary behind it for looking at what really happened."""

    def __init__(self, host: str, port: int, primary: Server) -> None:
        self.host = host
        self.port = port
        self.primary = primary

    def __repr__(self) -> str:
        return f"<Address {self.host}:{self.port}>"

    def params(self, role: roles.Role = roles.SCRAM, database: str = roles.DATABASE) -> dict[str, object]:
        """Arguments for connect() in most drivers: host, port, user, password, database."""
        return {"host": self.host, "port": self.port, "database": database, **role.login}

    def libpq(self, role: roles.Role = roles.SCRAM, database: str = roles.DATABASE) -> dict[str, object]:
        """The same with libpq's name for the database."""
        return {"host": self.host, "port": self.port, "dbname": database, "connect_timeout": 10, **role.login}

    def environment(self, role: roles.Role = roles.SCRAM, database: str = roles.DATABASE) -> dict[str, str]:
        """The same for psql and pgbench."""
        names = {"PGHOST": self.host, "PGPORT": str(self.port), "PGDATABASE": database, "PGUSER": role.name}
        return names | ({"PGPASSWORD": role.password} if role.password else {})

    def query(self, sql: str, role: roles.Role = roles.ADMIN, database: str = roles.DATABASE) -> list[tuple]:
        """Ask the primary itself, past the pooler."""
        return self.primary.query(sql, dbname=database, host=self.primary.host, **role.login)


@contextlib.contextmanager
def own_pooler(cluster: Cluster, **conf: object) -> Iterator[Pooler]:
    """A pooler with its own settings; its log must be clean at the end."""
    own = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}}
    with Pooler({**own, **conf}, cluster=cluster) as pooler:
        yield pooler
    assert "Traceback" not in pooler.log


@contextlib.contextmanager
def shown(pooler: Pooler, request: pytest.FixtureRequest) -> Iterator[Pooler]:
    """Run the pooler of a module: the end of its log stands below a failed test, and all of it must be clean."""
    with pooler:
        request.config.stash[POOLER] = pooler
        yield pooler
    assert "Traceback" not in pooler.log, pooler.log


@pytest.fixture
def connect(pooler: Pooler) -> Iterator[Callable[..., Raw]]:
    """Connect a frontend that is closed at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **params: stack.enter_context(Raw(pooler.host, pooler.port, **params))


@pytest.fixture(params=["directly", "pooled"])
def address(request: pytest.FixtureRequest, cluster) -> Address:
    """The primary itself, which shows that a test is right, and then the pooler, which must do the same."""
    if request.param == "directly":
        return Address(cluster.primary.host, cluster.primary.port, cluster.primary)
    pooler = request.getfixturevalue("pooler")
    return Address(pooler.host, pooler.port, cluster.primary)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A PostgreSQL 16 with the roles of auth_roles, whose files a test may change; `restored` puts them back."""
    with Server("own", version=16, hba=auth_roles.hba_lines()) as server:
        auth_roles.create_roles(server)
        yield server


@pytest.fixture
def restored(own_server: Server) -> Iterator[Server]:
    yield own_server
    if not own_server.is_running:
        own_server.start()
    own_server.set_hba(auth_roles.hba_lines())
    own_server.reload()


RIDING = [
    pytest.param((13, True), marks=pytest.mark.needs_npm, id="13"),
    pytest.param((15, True), marks=pytest.mark.needs_debian, id="15"),
    pytest.param((16, True), id="16"),
    pytest.param((16, False), id="16-off"),
    pytest.param((18, True), id="18"),
]


@pytest.fixture(scope="session", params=RIDING)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A server of each version that matters with a pooler in which statements ride, and one in which they do not."""
    version, rides = request.param
    with Place.open(version, rides) as place:
        yield place


@pytest.fixture
def convoy(place: Place, request: pytest.FixtureRequest) -> Iterator[Convoy]:
    """A head and 31 riders. How long a rider has waited at most is a property of the test's report."""
    with Convoy(place) as convoy:
        yield convoy
        request.node.user_properties.append(("slowest_rider_ms", round(convoy.slowest_s * 1000)))
        print(f"the slowest rider answered after {convoy.slowest_s * 1000:.0f} ms (wanted: {WANTED_S * 1000:.0f} ms)")


@pytest.fixture(scope="session")
def home() -> Iterator[Home]:
    """A server and a pooler in which nobody may count on a worker: see `twice`."""
    with Home.open() as home:
        yield home
