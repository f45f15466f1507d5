"""Connection strings as libpq reads them, and with another host in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.ha import conninfo
from lib.ha.conninfo import NotAConninfo


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", {}),
        ("host=db1 port=5432", {"host": "db1", "port": "5432"}),
        (" host = db1\n port= 5432 ", {"host": "db1", "port": "5432"}),
        (r"password='it\'s \\ me' user=rep", {"password": r"it's \ me", "user": "rep"}),
        (r"password=a\ b\'c", {"password": "a b'c"}),
        ("options='' user=rep", {"options": "", "user": "rep"}),
        ("postgresql://", {}),
        ("postgres://rep:p%40ss@db1:5433/x?sslmode=require",
         {"user": "rep", "password": "p@ss", "host": "db1", "port": "5433", "dbname": "x", "sslmode": "require"}),
        ("postgresql://db1,[fd00::2]:5433/", {"host": "db1,fd00::2", "port": ",5433"}),
        ("postgresql://%2Fvar%2Frun/", {"host": "/var/run"}),
    ],
)  # fmt: skip
def test_texts_are_read_as_libpq_does(text, pairs):
    assert conninfo.parse(text) == pairs


@pytest.mark.parametrize("text", ["host", "host='db1", "postgresql://%4/", "postgresql://[::1/", "postgresql:///?a"])
def test_what_libpq_refuses_is_refused(text):
    with pytest.raises(NotAConninfo):
        conninfo.parse(text)


VALUES = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.dictionaries(st.sampled_from(["user", "password", "options", "application_name"]), VALUES))
def test_what_is_written_is_read_as_the_same(pairs):
    assert conninfo.parse(conninfo.render(pairs)) == pairs


def test_another_primary_is_followed_with_all_else_as_it_was():
    text = r"host=db1 hostaddr=10.0.0.1 port=5432 user=rep password='a b\'c\\' application_name=one sslmode=require"
    found = conninfo.parse(conninfo.follow(text, "db2", 5433, "standby1"))
    assert found == {
        "host": "db2", "port": "5433", "user": "rep", "password": r"a b'c\ "[:-1], "application_name": "one",
        "sslmode": "require",
    }  # fmt: skip


def test_a_standby_keeps_the_name_that_it_is_known_by():
    found = conninfo.follow("postgresql://rep@db1,db3/?target_session_attrs=any", "db2", 5432, "standby1")
    assert found == (
        "host='db2' port='5432' user='rep' target_session_attrs='any' application_name='standby1'"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("host=db1", [("db1", "5432")]),
        ("host=db1,db2 port=5433", [("db1", "5433"), ("db2", "5433")]),
        ("host=db1,db2 port=5433,5434", [("db1", "5433"), ("db2", "5434")]),
        ("hostaddr=10.0.0.1", [("10.0.0.1", "5432")]),
    ],
)
def test_the_servers_that_are_named(text, found):
    assert conninfo.hosts(text) == found
