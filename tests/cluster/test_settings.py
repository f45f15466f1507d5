"""A frontend's settings are its own, wherever its statements run: the same is done directly and through the pooler."""

from __future__ import annotations

import pytest

from tests import roles
from tests.cluster.wire import Wire, once, query
from tests.servers import Pooler

CONF = {"admin_cnn": {**roles.ADMIN.login, "database": "postgres"}}
TUNED = {"search_path": "mine, public", "DateStyle": "SQL, DMY", "application_name": "own", "app.tenant": "42"}


@pytest.fixture(scope="module")
def narrow(cluster):
    """One worker for everybody of a login, so that whoever holds it keeps the others waiting."""
    with Pooler({**CONF, "max_workers": 1, "query_wait_timeout": 5}, cluster=cluster) as pooler:
        yield pooler
    assert "Traceback" not in pooler.log


SHOW = """
    select current_setting('search_path'), current_setting('datestyle'), current_setting('application_name'),
           current_setting('app.tenant', true), current_setting('app.user', true), current_setting('timezone'),
           current_user, session_user, current_setting('work_mem'), current_setting('client_encoding'),
           current_setting('default_transaction_read_only'), current_setting('extra_float_digits'),
           current_setting('plpgsql.check_asserts', true), current_setting('statement_timeout')
"""

STORIES = {
    "set": ["set work_mem = '3MB'", "set session work_mem to 4096", "set work_mem to default"],
    "time_zone": ["set time zone 'Asia/Tokyo'", "set time zone 5.5", "set time zone local",
                  "set time zone interval '+08:00' hour to minute", "set timezone to default"],
    "names": ["set names 'latin1'", "set client_encoding to 'utf-8'", "set names default", "set names 'klingon'"],
    "schema": ["set schema 'mine'", "set search_path to mine, \"$user\", public", "set search_path to ''",
               "reset search_path"],
    "datestyle": ["set datestyle to german", "set datestyle to dmy", "set datestyle to iso, ymd", "reset datestyle"],
    "xml": ["set xml option document", "show xmloption", "set xml option content"],
    "characteristics": ["set session characteristics as transaction read only, isolation level serializable",
                        "create table never (n int)", "set session characteristics as transaction read write",
                        "show default_transaction_isolation"],
    "role": ["set role settings_role", "set role none", "set role settings_role", "reset role",
             "set role nobody_there", "set role settings_role", "reset all", "discard all"],
    "custom": ["set app.tenant to 7", "set app.user = 'it''s me'", "reset app.user", "set app.tenant to default",
               "set app.user to ''", "discard all"],
    "extension": ["set plpgsql.check_asserts to off", "do $$ begin end $$",
                  "set plpgsql.check_asserts to on"],
    "bad": ["set work_mem to 'much'", "set no_such_setting to 1", "set datestyle to nonsense", "reset no_such_setting",
            "set shared_buffers to '1GB'", "set server_version to 1", "set session authorization nobody_there", "set",
            "set work_mem", "set session_replication_role to replica", "reset", "set app. to 1"],
    "several": ["set work_mem = '3MB'; set timezone to 'Asia/Tokyo'", "set work_mem = '5MB'; reset work_mem",
                "reset all; set datestyle to german", "set work_mem = '6MB'; select 1/0", "select 1; reset all",
                "select pg_advisory_unlock_all(); close all; unlisten *; reset all;"],
    "transaction": ["begin", "set work_mem = '3MB'", "set app.user to 'x'", "commit"],
    "rolled_back": ["begin", "set work_mem = '3MB'", "set app.user to 'x'", "rollback"],
    "failed": ["begin", "set work_mem = '3MB'", "select 1/0", "set work_mem = '4MB'", "commit"],
    "savepoints": ["begin", "set work_mem = '3MB'", "savepoint a", "set work_mem = '4MB'; set datestyle to german",
                   "rollback to a", "set timezone to 'Asia/Tokyo'", "release a", "commit"],
    "local": ["begin", "set local work_mem = '3MB'", "set local datestyle to german", "commit",
              "begin; set work_mem = '7MB'; set local work_mem = '3MB'; commit"],
    "local_default": ["begin", "set local datestyle to german", "set local datestyle to default",
                      "set local search_path to default", "set local app.tenant to default", "rollback",
                      "set local datestyle to default", "begin; set local datestyle to default", "set work_mem = '1MB'",
                      "commit"],
    "reset_of_nothing": ["reset app.user", "reset work_mem", "reset search_path", "set app.user to default"],
    "one_text": ["begin; set work_mem = '3MB'; commit", "begin; set work_mem = '5MB'; rollback",
                 "begin; reset search_path; set datestyle to german; commit", "begin; discard all; commit", "rollback"],
    "reset_in_a_transaction": ["begin", "reset search_path", "reset all", "set role settings_role", "reset role",
                               "rollback", "begin", "set search_path to public", "reset all", "commit"],
    "set_config": ["select set_config('work_mem', '3MB', false)", "select set_config('app.user', 'me', false)",
                   "select set_config('work_mem', '4MB', true)", "select set_config('DateStyle', 'German', false)",
                   "select set_config('work_mem', '9MB', false) from generate_series(1, 0)",
                   "select set_config('app.' || 'user', 'you', false)", "select 1",
                   "select set_config('work_mem', null, false)"],
    "encodings": ["set app.user to 'Zoë'", "set client_encoding to 'latin1'", "select 1",
                  "set client_encoding to 'utf8'"],
    "discard": ["set work_mem = '3MB'", "discard plans", "discard temp", "discard sequences", "discard all"],
    "statement_timeout": ["set statement_timeout to 1", "set statement_timeout to 0"],
    "hidden": ["set dynamic_library_path to 'x'", "set local_preload_libraries to 'x'"],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def things(cluster):
    cluster.primary.query(
        f"create schema if not exists mine; drop role if exists settings_role; create role settings_role; "
        f"grant settings_role to {roles.TRUST.name}; grant usage on schema mine to public",
        dbname=roles.DATABASE,
    )
    yield
    cluster.primary.query("drop schema mine cascade", dbname=roles.DATABASE)
    cluster.primary.query("drop role settings_role")


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("startup", [{}, TUNED], ids=["plain", "tuned"])
@pytest.mark.parametrize("name", STORIES)
def test_settings_are_what_they_are_on_a_connection_of_ones_own(cluster, narrow, name, startup, extended):
    heard = []
    for where in (cluster.primary, narrow):
        with Wire(where, **startup) as session, Wire(where) as other:
            before = other.rows(SHOW)
            steps = [session.rows(SHOW)]
            for text in STORIES[name]:
                answer = session.ask(once(text) if extended and ";" not in text else query(text))
                shown = [each.values for each in session.ask(query(SHOW)) if each.tag == "D"]
                said = [each.fields["M"] if each.tag == "E" else each for each in answer if each.tag != "S"]
                said += sorted(each for each in answer if each.tag == "S")  # the server has no order for those
                steps.append((text, said, shown, dict(session.parameters)))
                if answer[-1] == ("Z", b"I"):
                    assert other.rows(SHOW) == before
            heard.append(steps)
    for direct, pooled in zip(*heard, strict=True):
        assert pooled == direct
