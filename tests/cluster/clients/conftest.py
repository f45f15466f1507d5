"""What the tests of clients share: a table to write in."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import Address


@pytest.fixture
def table(address: Address) -> str:
    """The name of an empty table (id int primary key, word text) that everybody may use."""
    address.query("drop table if exists driver_test")
    address.query("create table driver_test (id int primary key, word text)")
    address.query("grant all on driver_test to public")
    return "driver_test"
