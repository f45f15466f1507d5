"""What a backend is asked about settings, and what tunes it, on every release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from lib.backend import settings, traces, tuning
from lib.backend.tuning import AT_DEFAULT
from tests.cluster.test_route_harmless import VERSIONS
from tests.servers import Server

USER = "app"


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(version=request.param) as server:
        server.query("create role worker; create role app login in role worker")
        yield server


@pytest.fixture
def run(server: Server) -> Iterator[Any]:
    connection = server.connect(user=USER, dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:

        def run(sql: str, is_asked: bool = True) -> list[list[str | None]]:
            cursor.execute(sql)
            return [list(row) for row in cursor.fetchall()] if cursor.description and is_asked else []

        yield run
    connection.close()


def all_of(run: Any, *customs: str) -> dict[str, str | None]:
    found = settings.read(run(settings.ask_all(customs, USER)))
    assert found is not None
    return found


def test_a_fresh_backend_has_set_nothing(run):
    client = {name: value for name, value in all_of(run, "my.own").items() if value is not None}
    assert client == {"session_authorization": USER}


def test_what_was_set_is_told_in_the_servers_spelling(run):
    run("set datestyle to german; set timezone to 'utc'; set search_path to a, \"B\"; set work_mem to 4096")
    run("set role worker; set my.own to 'Grösse'; set client_encoding to 'latin-1'")
    expected = {
        "datestyle": "German, DMY", "timezone": "UTC", "search_path": 'a, "B"', "work_mem": "4MB", "role": "worker",
        "my.own": "Grösse", "client_encoding": "LATIN1",
    }  # fmt: skip
    assert settings.read(run(settings.ask_for(expected))) == expected
    found = all_of(run, "my.own", "my.other")
    assert found == {**expected, "my.other": None, "session_authorization": USER}


def test_what_holds_for_a_transaction_is_no_setting_of_the_session(run):
    run("begin; set transaction_isolation to serializable; set local work_mem to '7MB'; commit")
    assert all_of(run).keys() == {"role", "session_authorization"}


def test_who_could_not_have_set_all_that_is_told_from_who_could(server, run):
    run("set work_mem to '3MB'")
    assert "*" not in all_of(run)
    server.query("create role boss superuser; grant boss to app")
    run("set role boss; set deadlock_timeout to '5s'; reset role")
    assert "*" in all_of(run)
    server.query("drop role boss")


def test_a_backend_is_tuned_from_any_settings_to_any_others(run):
    """What it is then is what one is that was tuned to the last ones at once."""
    groups: list[dict[str, str]] = [
        {"work_mem": "3MB", "datestyle": "SQL, DMY"},
        {"work_mem": "5MB", "my.own": "ö'\\", "timezone": "Asia/Tokyo"},
        {"role": "worker", "work_mem": "5MB", "my.own": AT_DEFAULT},
        {"client_encoding": "LATIN1", "my.own": "Größe", "search_path": 'a, "B"'},
        {},
        {"my.own": AT_DEFAULT, "statement_timeout": "1min"},
        {"role": "worker"},
    ]
    before: tuning.Pairs = ()
    for group in groups * 2:
        after = tuning.canonical(group)
        sql = tuning.retune(before, after)
        if sql:
            run(sql, is_asked=False)
        found = all_of(run, "my.own")
        now = settings.with_answer({}, found, USER, ())
        expected = {**({"my.own": AT_DEFAULT} if ("my.own", AT_DEFAULT) in now else {}), **group}
        assert dict(now) == expected
        before = after


def test_a_custom_setting_that_an_extension_has_defined_goes_back_to_its_default(run):
    run("do $$ begin end $$; set plpgsql.check_asserts to off")
    run(tuning.apply([("plpgsql.check_asserts", AT_DEFAULT), ("my.own", AT_DEFAULT)]))
    assert run("show plpgsql.check_asserts") == [["on"]]
    assert run("show my.own") == [[""]]


def test_a_backend_tells_what_is_left_in_it(run):
    assert run(traces.ask_held()) == []
    run("listen a; prepare pgstmtpool_1 as select 1")
    assert run(traces.ask_held()) == [["a channel that it listens to"]]
    with pytest.raises(psycopg2.Error):
        run("select 1 / 0")
