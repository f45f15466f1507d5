"""What surely leaves alone the settings that matter to Parse."""

from __future__ import annotations

import pytest

from lib.backend import tuning
from lib.route import Catalog, Router, parsing
from lib.route.body import Does, judge_body


def is_kept(text: str) -> bool:
    return parsing.is_kept(Router(Catalog()).verdict(text.encode()), [text.encode()])


@pytest.mark.parametrize(
    "text",
    [
        "select 1", "insert into t values (1)", "begin", "begin isolation level serializable", "commit", "savepoint a",
        "set local app.tenant = '5'", "SET LOCAL statement_timeout TO '1s'", "set work_mem = '5MB'", "reset work_mem",
        "set transaction read only", "begin; set local app.tenant = '5'; set constraints all deferred",
        "select set_config('app.tenant', '5', true)", "select pg_catalog.set_config( 'app.tenant' , $1, false)",
        "update t set search_path = 'x'", "begin; update t set n = 1; commit",
    ],
)  # fmt: skip
def test_what_plainly_sets_nothing_else_or_another_setting_leaves_them_alone(text):
    assert is_kept(text)


@pytest.mark.parametrize(
    "text",
    [
        "set local search_path = far", "SET SEARCH_PATH TO far", "set time zone 'UTC'", "set local time zone 'UTC'",
        "set names 'LATIN1'", "set schema 'far'", "set role other", "set session authorization other", "reset all",
        "reset datestyle", "discard all", "set local datestyle to default", "begin; set local search_path = far",
        'set local "search_path" = far', "set/* set a = */ search_path = far", "set local /**/ search_path = far",
        "select set_config('search_path', 'far', true)", "select set_config('Search_Path', 'far', true)",
        "select set_config($1, $2, true)", "select set_config(E'search\\\\x5fpath', 'far', true)",
        "select set_config('app.tenant', '1', true), U&\"set\\005fconfig\"('search_path', 'far', true)",
        "set work_mem = '5MB'; set local search_path = far", "listen x", "select nobody_knows()", "do $$begin end$$",
    ],
)  # fmt: skip
def test_what_may_set_one_of_them_does_not(text):
    assert not is_kept(text)


def test_settings_that_matter_are_those_that_a_group_is_told_apart_by():
    settings = (("application_name", "x"), ("search_path", "near"), ("timezone", "UTC"), ("role", "other"))
    assert tuning.parse_settings(settings) == settings[1:]


@pytest.mark.parametrize(
    "body",
    [
        "begin perform set_config('search_path', 'far', true); end",
        "begin set local timezone to 'UTC'; end", "begin set local time zone 'UTC'; end",
    ],
)  # fmt: skip
def test_function_that_sets_one_of_them_for_its_transaction_is_suspect(body):
    assert judge_body("plpgsql", body).does & Does.SUSPECT


def test_function_that_sets_another_one_for_its_transaction_writes_only():
    assert judge_body("plpgsql", "begin set local work_mem to '9MB'; end").does == Does.WRITE
    assert judge_body("plpgsql", "begin perform set_config('work_mem', '9MB', true); end").does == Does.WRITE
