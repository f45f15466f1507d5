"""A shape has the verdict of every text that has it, and the Router remembers by it."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.route import Catalog, Kind, Router, shape
from lib.route.classify import classify
from lib.route.lex import MAX_TEXT

CATALOG = Catalog(
    functions=frozenset({b"bad", b"worse1"}),
    relations=frozenset({b"trap", b"T1"}),
    operators=frozenset({b"@#@"}),
    harmless=frozenset({b"fine", b"busy"}),
    writers=frozenset({b"busy"}),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"select 1", b"select 0"),
        (b"select 12 + 3.5 + .5e10 from t1 where a1 = -7", b"select 0 + 0.0 + .0e10 from t1 where a1 = -0"),
        (b"select 1, 22, 3.5, 4", b"select 0, 0.0, 0"),
        (b"select t1, 2, 3, 4t", b"select t1, 0, 0t"),
        (b"select * from t where a in (1,2,  3) and b in ('a', 'b')", b"select * from t where a in (0) and b in ('')"),
        (b'select "1, 2" from t where a in (1, 2)', b'select "1, 2" from t where a in (0)'),
        (b"select $1, $23", b"select $1, $23"),
        (b"select t1, \xc3\xa91, a$1", b"select t1, \xc3\xa91, a$1"),
        (b"select 'it''s 1' || ''", b"select '' || ''"),
        (b"select \"a 'b' 1\" from x where y = 'z'", b"select \"a 'b' 1\" from x where y = ''"),
        (b"/*s*/select 'a'", b"/*s*/select ''"),
        (b"/*s*/ select /* 1 */ 1", b"/*s*/ select /* 1 */ 1"),
        (b"select 1 -- it's", b"select 1 -- it's"),
        (b"select '\\d' , 1", b"select '\\d' , 1"),
        (b"select $$1$$, 1", b"select $$1$$, 1"),
    ],
)
def test_only_literals_that_cannot_be_anything_else_are_taken_out(text, expected):
    assert shape(text) == expected


def test_rows_of_a_bulk_insert_become_one():
    rows = b", ".join(b"(%d, 'row %d', NULL)" % (number, number) for number in range(100))
    one = b"insert into t (a, b, c) values (0, '', NULL)"
    assert shape(b"insert into t (a, b, c) values " + rows) == one
    assert shape(b'insert into "t" ("a") values ' + rows) == b'insert into "t" ("a") values (0, \'\', NULL)'
    assert shape(b'select "' + rows + b'"') == b'select "' + rows + b'"'


def test_text_that_is_too_long_is_its_own_shape():
    text = b"select 1".ljust(MAX_TEXT + 1)
    assert shape(text) is text


WORDS = [
    "select", "SELECT", "from", "t1", "T1", '"T1"', "trap", "x.bad", "worse1", "worse12", "fine(1)", "busy(2)",
    "bad(1)", "unknown('x')", "@#@", "where", "a = 1", "in (1, 22)", "'x'", "'it''s 3'", "''", "'", '"', "1", "22.5",
    ".5", "1e10", "1abc", "0x1F", "1_000", "$1", "$", "$a$", "-", "--", "/*", "*/", "/*s*/", ";", ",", "(", ")", ".",
    "::", "set_config('a', '1', true)", "set_config('a', 'b', false)", "set x = 1", "set local x = '1'", "reset x1",
    "begin", "commit", "update", "insert into", "values", "into temp", "for update", "copy t from stdin",
    "copy t from '/x'", "currval('s')", "nextval('s1')", "with", "listen a1", "explain", "analyze",
    "create temp table", "E'x'", "e'\\''", "U&'x'", 'u&"x"', "n'x'", "\\", "é", "é1", "pg_temp.x1", "pg_settings",
    "set time zone '1'", "set time zone 1", "default", "prepare", "do '1'", "true", "hold",
]  # fmt: skip
texts = st.lists(st.sampled_from(WORDS), max_size=12).flatmap(
    lambda words: st.sampled_from(["", " ", "\n"]).map(lambda gap: gap.join(words).encode())
)


@settings(max_examples=1500, deadline=None)
@given(st.one_of(texts, st.binary(max_size=60)))
@example(b"select 'set x', \"")
@example(b"''1''")
@example(b"1'a'2")
def test_shape_has_the_verdict_of_its_text(text):
    assert classify(shape(text), CATALOG) == classify(text, CATALOG)
    assert shape(shape(text)) == shape(text)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.sampled_from(["(1, 'x')", "(2, 'y')", "(bad(1))", "(a)", "(NULL, 'z;')", '("q")', '("(1), (1)")', "f(1)"])
    )
)
def test_shape_of_rows_has_the_verdict_of_its_text(rows):
    text = b"insert into t /* no shape */ (a, b) values " + ", ".join(rows * 3).encode() + b" " * 200
    plain = text.replace(b"/* no shape */", b"")
    assert classify(shape(plain), CATALOG) == classify(text, CATALOG) == classify(plain, CATALOG)


@settings(max_examples=300, deadline=None)
@given(texts, st.booleans())
def test_router_says_what_classify_says(text, known):
    catalog = CATALOG if known else Catalog.unknown()
    router = Router(catalog, max_entries=3)
    for _ in range(2):
        assert router.verdict(text) == classify(text, catalog)


def test_router_remembers_by_shape():
    router = Router(Catalog())
    assert router.verdict(b"select 1") is router.verdict(b"select 2")
    assert router.verdict(b"select t1") is not router.verdict(b"select t2")
    assert repr(router) == "<Router 3 shapes, <Catalog 0 functions, 0 relations, 0 operators suspect>>"


def test_router_forgets_when_the_catalog_changes():
    router = Router(Catalog())
    assert router.verdict(b"select bad(1)").kind == Kind.OPAQUE
    router.catalog = dataclasses.replace(Catalog(), harmless=frozenset({b"bad"}))
    assert router.verdict(b"select bad(1)").kind == Kind.SHAREABLE
    router.catalog = Catalog.unknown()
    assert router.verdict(b"select bad(1)").kind == Kind.OPAQUE


def test_router_is_bounded_in_entries_and_in_the_length_of_what_it_keeps():
    router = Router(Catalog(), max_entries=10)
    for number in range(100):
        router.verdict(b"select t%d" % number)
        assert len(router._memo) <= 10
    router.verdict(b"select " + b"a, " * 5000 + b"1")
    assert all(len(key) < 5000 for key in router._memo)
