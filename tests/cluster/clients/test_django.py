"""Django migrates, and runs an application's own tests, through the pooler as with the primary itself."""

from __future__ import annotations

import sys

import pytest

from tests import roles
from tests.cluster.clients.tools import PROGRAMS, new_role, run_client
from tests.cluster.conftest import Address


@pytest.fixture
def developer(address: Address) -> roles.Role:
    """Somebody who may create databases."""
    address.query("drop database if exists test_shop with (force)")
    address.query("drop database if exists shop with (force)")
    role = new_role(address, "developer")
    address.query("alter role developer createdb")
    return role


def manage(address: Address, role: roles.Role, *args: str) -> str:
    variables = {"DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONPATH": str(PROGRAMS), "PYTHONDONTWRITEBYTECODE": "1"}
    return run_client(sys.executable, address, "-W", "error", "-m", "django", *args, role=role, **variables)


def test_django_migrates_there_and_back(address, developer):
    address.query("create database shop owner developer")
    shop = Address(address.host, address.port, address.primary)
    variables = {"PGDATABASE": "shop", "DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONPATH": str(PROGRAMS)}
    for args in (["migrate"], ["migrate", "shop", "zero"]):
        assert "OK" in run_client(sys.executable, shop, "-m", "django", *args, role=developer, **variables)
    printed = run_client(sys.executable, shop, "-m", "django", "inspectdb", role=developer, **variables)
    assert "class AuthUser(models.Model)" in printed
    assert "class ShopItem" not in printed


def test_djangos_own_test_runner_creates_a_database_and_drops_it(address, developer):
    printed = manage(address, developer, "test", "shop", "--noinput", "--keepdb")
    assert "Ran 7 tests" in printed
    printed = manage(address, developer, "test", "shop", "--noinput", "-v", "2")
    assert "Ran 7 tests" in printed
    assert "Destroying test database" in printed
    assert address.query("select 1 from pg_database where datname = 'test_shop'") == []
