"""What is known of a database's catalog is kept up to date, and the log says what keeps statements from sharing."""

from __future__ import annotations

import logging

import gevent
import pytest

from lib.backend import catalogs
from lib.backend.catalogs import DatabaseCatalog
from lib.route import CHANGED_SQL

TRAP = ("function", 1, "trap", "plpgsql/v/", None, "begin set a = 1; end")
CUSTOM = ("config", 1, None, None, None, "set app.tenant = 0")
MORE = ("function", 2, "dynamic", "plpgsql/v/", None, "begin execute x; end")


class Database:
    """A catalog of rows that a test changes, and what was asked of it."""

    def __init__(self) -> None:
        self.rows = [TRAP, CUSTOM]
        self.counters = 0
        self.scans = 0
        self.renewed = 0
        self.known = DatabaseCatalog("shop", self.query, self.renew)

    def query(self, sql: str) -> list[tuple]:
        if sql == CHANGED_SQL:
            return [("pg_proc", self.counters)]
        self.scans += 1
        return list(self.rows)

    def renew(self) -> None:
        self.renewed += 1

    def look(self) -> None:
        self.known.look()
        self.wait()

    def wait(self) -> None:
        while self.known._scanning:
            gevent.sleep(0.001)


@pytest.fixture
def database() -> Database:
    database = Database()
    database.known.changed()
    database.wait()
    return database


def test_the_log_says_why_once_and_again_when_it_changed(database, caplog):
    caplog.set_level(logging.INFO)
    said = "catalog of shop: 1 functions may change the session: trap (has SET in it)"
    database.rows = [TRAP]
    for _ in range(3):
        database.counters += 1
        database.look()
    assert caplog.messages == []
    database.rows = [TRAP, MORE]
    database.counters += 1
    database.look()
    assert caplog.messages == [
        "catalog of shop: 2 functions may change the session: dynamic (has EXECUTE in it), trap (has SET in it)"
    ]
    database.rows = []
    database.counters += 1
    database.look()
    assert caplog.messages[1:] == ["catalog of shop: nothing in it may change the session any more"]
    database.rows = [TRAP]
    database.known.changed()
    database.wait()
    assert caplog.messages[2:] == [said]


def test_custom_settings_that_functions_are_declared_with_are_known(database):
    assert database.known.customs == {"app.tenant"}


def test_it_is_scanned_again_when_the_counters_moved_and_now_and_then_anyhow(database, monkeypatch):
    assert database.scans == 1
    database.look()
    assert database.scans == 1
    database.counters += 1
    database.look()
    assert database.scans == 2
    monkeypatch.setattr(catalogs, "RESCAN_S", -1.0)
    database.rows = [TRAP, MORE]
    database.look()
    assert database.scans == 3
    assert b"dynamic" in database.known.router.catalog.functions
    assert database.renewed == 1
