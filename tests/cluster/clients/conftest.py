"""What the tests of clients share: where they connect, and a table to write in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import roles
from tests.cluster.conftest import Address
from tests.pooler import Pooler


@pytest.fixture(scope="session")
def lender(cluster) -> Iterator[Pooler]:
    """A pooler in session mode."""
    conf = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "pool_mode": "session"}
    with Pooler(conf, cluster=cluster, name="lender") as pooler:
        yield pooler


@pytest.fixture(params=["directly", "pooled", "in a session"])
def address(request: pytest.FixtureRequest, cluster) -> Address:
    """The primary itself, which shows that a test is right, and then poolers, which must do the same."""
    if request.param == "directly":
        return Address(cluster.primary.host, cluster.primary.port, cluster.primary)
    pooler = request.getfixturevalue("pooler" if request.param == "pooled" else "lender")
    return Address(pooler.host, pooler.port, cluster.primary)


@pytest.fixture
def table(address: Address) -> str:
    """The name of an empty table (id int primary key, word text) that everybody may use."""
    address.query("drop table if exists driver_test")
    address.query("create table driver_test (id int primary key, word text)")
    address.query("grant all on driver_test to public")
    return "driver_test"
