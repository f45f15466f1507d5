"""Dialogues about prepared statements by name, about the unnamed one, and about types: see `test_prepared`."""

from __future__ import annotations

import struct

from tests.cluster.twice import Dialogue, a, b, run
from tests.cluster.wire import FLUSH, SYNC, bind, bind_as, close, describe, execute, message, once, parse, query

INT4, INT8, TEXT, UNKNOWN = 23, 20, 25, 705
RUN = bind(name="s") + execute() + SYNC
RUN_UNNAMED = bind() + execute() + SYNC
LONG = "n" * 62
MANY = range(300)


def prepare(text: str, name: str = "s", types: tuple[int, ...] = ()) -> bytes:
    """A statement that is prepared by a unit of its own, as drivers do that want to know its types."""
    return parse(text, name, types) + describe("S", name) + SYNC


def int4(value: int) -> bytes:
    return struct.pack("!i", value)


def int8(value: int) -> bytes:
    return struct.pack("!q", value)


BY_NAME: dict[str, Dialogue] = {
    "in_one_sync": Dialogue(
        a(parse("select $1::int + 1 as n", "s"), describe("S", "s"), bind("41", name="s"), describe(), execute(), SYNC),
        a(run("1")), a(run("2")),
    ),
    "names_beyond_ascii": Dialogue(
        a(message(b"P", b"\xff\0select 1\0\0\0"), SYNC), a(message(b"B", b"\0\xff\0\0\0\0\0\0\0"), execute(), SYNC),
        a(message(b"D", b"S\xff\0"), SYNC), a(message(b"C", b"S\xff\0"), SYNC), a(prepare("select 1", "\u00fc")),
        a(run(name="\u00fc")), a(prepare("select 2", "\u00fc")), a(query("set client_encoding to latin1")),
        a(message(b"P", b"\xff\0select 1\0\0\0"), SYNC), a(close("S", "\u00fc"), SYNC),
    ),
    "the_same_text_by_two_names": Dialogue(
        a(prepare("select $1::int + 1 as n")), a(run("1")),
        a(parse("select $1::int + 1 as n", "other"), bind("2", name="s"), execute(), bind("3", name="other"), execute(),
          SYNC),
        a(run("4")), a(parse("select $1::int + 1 as n", "third"), parse("select $1::int + 1 as n", "fourth"), SYNC),
        *(a(bind("5", name=name), execute(), SYNC) for name in ("other", "third", "fourth", "s")),
    ),
    "in_several_syncs": Dialogue(
        a(parse("select $1::int + 1 as n", "s"), SYNC), a(describe("S", "s"), SYNC), a(run("1")), a(run("2")),
        a(bind("3", name="s"), SYNC), a(bind("4", name="s"), execute(), SYNC), a(close("S", "s"), SYNC), a(run("5")),
    ),
    "several_in_one_unit": Dialogue(
        a(parse("select 'one'", "s1"), parse("select $1 || 'two'", "s2"), parse("select 3", "s3"), SYNC),
        a(bind(name="s3"), execute(), bind("x", name="s2"), execute(), bind(name="s1"), execute(), SYNC),
        a(close("S", "s2"), bind(name="s1"), execute(), parse("select 'two again'", "s2"), SYNC),
        a(run(name="s2")), a(run(name="s1")), a(run(name="s3")),
    ),
    "beside_the_unnamed_one": Dialogue(
        a(parse("select 'named'", "s"), parse("select 'unnamed'"), SYNC), a(RUN), a(RUN_UNNAMED),
        a(parse("select 'unnamed 2'"), bind(name="s"), execute(), bind(), execute(), SYNC), a(RUN), a(RUN_UNNAMED),
        a(query("select 'simple'")), a(RUN), a(RUN_UNNAMED),
    ),
    "parsed_again_after_close": Dialogue(
        a(prepare("select 1 as one")), a(close("S", "s"), prepare("select 'x' as other")), a(run()),
        a(close("S", "s"), SYNC), a(close("S", "s"), SYNC), a(prepare("select 3 as third")), a(run()),
        a(close("S", "s"), parse("select 4", "s"), close("S", "s"), parse("select 5", "s"), SYNC), a(run()),
    ),
    "name_that_is_taken": Dialogue(
        a(prepare("select 'first'")), a(prepare("select 'second'")), a(run()),
        a(prepare("select 'first'")), a(run()),
        a(parse("select 1", "t"), parse("select 2", "t"), parse("select 3", "u"), SYNC), a(run(name="t")),
        a(run(name="u")),
    ),
    "name_that_is_taken_while_the_session_is_held": Dialogue(
        a(query("create temp table held (n int)")), a(prepare("select 'first'")), a(prepare("select 'second'")),
        a(close("S", "s"), parse("select 'third'", "s"), SYNC), a(run()), a(query("begin")),
        a(prepare("select 'more'")),
        a(close("S", "s"), parse("select 'more'", "s"), SYNC), a(query("rollback")), a(prepare("select 'fourth'")),
        a(run()),
        a(query("drop table held")), a(run()), a(close("S", "s"), parse("select 'fifth'", "s"), SYNC), a(run()),
    ),
    "name_that_is_not_there": Dialogue(
        a(run()), a(describe("S", "s"), SYNC), a(close("S", "s"), SYNC), a(run(name="s")), a(query("select 1")),
        a(bind(name="not 'there'"), SYNC), a(parse("select 1", "here"), bind(name="s"), execute(), SYNC),
        a(run(name="here")), a(execute("p"), SYNC), a(describe("P", "p"), SYNC), a(close("P", "p"), SYNC),
    ),
    "wrong_counts": Dialogue(
        a(prepare("select $1::int, $2::text")), a(run("1")), a(run("1", "2", "3")), a(run()), a(run("1", "2")),
        a(bind_as([1, 1, 1], [int4(1), b"x"], [], "s"), execute(), SYNC),
        a(bind_as([], [b"1", b"x"], [0, 0, 0], "s"), execute(), SYNC), a(run("4", None)),
    ),
    "values_that_cannot_be": Dialogue(
        a(prepare("select $1::int + 1")), a(run("one")), a(run("1")), a(run("99999999999")),
        a(bind_as([1], [b"\0\1"], [], "s"), execute(), SYNC), a(bind_as([2], [b"1"], [], "s"), execute(), SYNC),
        a(bind_as([1], [int4(6)], [1], "s"), execute(), SYNC), a(run("2147483647")), a(run(None)),
    ),
    "errors_at_parse": Dialogue(
        a(prepare("select nothing from nowhere")), a(run()), a(prepare("selekt")), a(run()),
        a(prepare("select $1")), a(run("text")), a(close("S", "s"), SYNC), a(prepare("select 'x'::int")), a(run()),
        a(prepare("select 1; select 2")), a(prepare("select no_such_function(1)")), a(prepare("select $1 + $2")),
        a(prepare("select $2::int")), a(prepare("")), a(run()), a(close("S", "s"), SYNC),
        a(prepare("select 1", types=(99999999,))), a(prepare("select $1", types=(UNKNOWN,))), a(run("x")),
    ),
    "parse_succeeds_and_bind_fails_in_the_same_unit": Dialogue(
        a(parse("select $1::int", "s"), bind("x", name="s"), execute(), SYNC), a(run("1")),
        a(parse("select 1 / $1::int", "t"), bind("0", name="t"), execute(), SYNC), a(run("1", name="t")),
        a(prepare("select 1", "t")),
    ),
    "parse_succeeds_and_the_next_one_fails": Dialogue(
        a(parse("select 'kept'", "s"), parse("selekt", "t"), parse("select 'never'", "u"), SYNC),
        a(run()), a(run(name="t")), a(run(name="u")),
    ),
    "close_succeeds_and_the_next_one_fails": Dialogue(
        a(prepare("select 'closed'", "s")), a(prepare("select 'kept'", "t")),
        a(close("S", "s"), parse("selekt", "u"), close("S", "t"), SYNC), a(run()), a(run(name="t")),
        a(prepare("select 'new'")), a(run()),
    ),
    "pipelined_units": Dialogue(
        a(parse("select $1::int", "s"), SYNC, run("1"), run("x"), run("2"), close("S", "s"), SYNC, run("3"),
          prepare("select 'again'"), run(), tags="Z" * 8),
        a(run()),
    ),
    "pipelined_with_simple_ones": Dialogue(
        a(parse("select $1::int", "s"), SYNC, query("select 'simple'"), run("1"), query("selekt"), run("2"),
          query("deallocate s"), run("3"), tags="Z" * 7),
        a(query("select 1"), run("1"), tags="ZZ"),
    ),
    "flushed": Dialogue(
        a(parse("select $1::int as n", "s"), describe("S", "s"), FLUSH, tags="T"),
        a(bind("1", name="s"), execute(), SYNC),
        a(parse("select 2 as m", "t"), describe("S", "t"), FLUSH, tags="T"), a(SYNC), a(run(name="t")), a(run("5")),
        a(bind("x", name="s"), FLUSH, tags="E"), a(bind("1", name="s"), execute(), SYNC), a(run("6")),
        a(close("S", "s"), FLUSH, tags="3"), a(parse("select 7", "s"), FLUSH, tags="1"), a(RUN), a(RUN),
        a(parse("select 8", "s"), FLUSH, tags="E"), a(SYNC), a(RUN),
    ),
    "empty": Dialogue(a(prepare("")), a(run()), a(prepare("/* nothing */", "t")), a(run(name="t"))),
    "names_that_look_alike": Dialogue(
        a(prepare("select 'lower'", "a")), a(prepare("select 'upper'", "A")), a(prepare("select 'space'", " a")),
        a(prepare("select 'umlaut'", "ä")), a(prepare("select 'quote'", "a\"'b")),
        *(a(run(name=name)) for name in ("a", "A", " a", "ä", "a\"'b", "a\"", "")),
    ),
    "names_of_63_bytes_and_more": Dialogue(
        a(prepare("select 62", LONG)), a(prepare("select 63", LONG + "n")), a(prepare("select 64", LONG + "nn")),
        a(prepare("select 65", LONG + "nx")), a(run(name=LONG)), a(run(name=LONG + "n")), a(run(name=LONG + "nn")),
        a(run(name=LONG + "x")), a(run(name=LONG + "n" * 200)), a(close("S", LONG + "nnn"), SYNC),
        a(run(name=LONG + "n")), a(run(name=LONG)),
    ),
    "more_than_a_cache_holds": Dialogue(
        a(*(parse(f"select 'statement {n}', $1::int", f"s{n}") + SYNC for n in MANY), tags="Z" * len(MANY)),
        *(a(run(str(n), name=f"s{n}")) for n in (0, 299, 150, 1)),
        a(*(run(str(n), name=f"s{n}") for n in reversed(MANY)), tags="Z" * len(MANY)),
        a(*(close("S", f"s{n}") for n in MANY if n % 2), SYNC),
        a(*(run(str(n), name=f"s{n}") for n in MANY), tags="Z" * len(MANY)),
    ),
    "two_frontends_with_the_same_name": Dialogue(
        a(prepare("select 'A', $1::int")), b(prepare("select 'B', $1::text")), a(run("1")), b(run("x")), a(run("x")),
        b(close("S", "s"), SYNC), a(run("2")), b(run("y")), a(close("S", "s"), SYNC), b(prepare("select 'B2'")),
        a(run("3")), b(run()),
    ),
    "two_frontends_with_the_same_text": Dialogue(
        a(prepare("select $1::int + 1 as n")), b(prepare("select $1::int + 1 as n", "other")), a(run("1")),
        b(run("2", name="other")), a(close("S", "s"), SYNC), b(run("3", name="other")), a(run("4")),
        a(prepare("select $1::int + 1 as n")), a(run("5")), b(close("S", "other"), SYNC), a(run("6")),
    ),
    "text_that_is_long": Dialogue(
        a(prepare("select '" + "x" * 70_000 + "' as x, $1::int")), a(run("1")),
        a(prepare("select length('" + "y" * 9_000 + "'), $1::int", "t")), a(run("2", name="t")), a(run("3")),
        a(bind("1" + "0" * 70_000, name="t"), execute(), SYNC), a(run("5", name="t")),
    ),
}  # fmt: skip

UNNAMED: dict[str, Dialogue] = {
    "across_syncs": Dialogue(
        a(parse("select $1::int as n"), SYNC), a(describe("S"), SYNC), a(bind("1"), execute(), SYNC),
        a(bind("2"), describe(), execute(), SYNC), a(describe("S"), SYNC),
    ),
    "each_step_of_two_frontends": Dialogue(
        a(parse("select $1::int as a"), SYNC), b(parse("select $1::text as b"), SYNC), a(describe("S"), SYNC),
        b(describe("S"), SYNC), b(bind("x"), execute(), SYNC), a(bind("1"), execute(), SYNC), b(describe("S"), SYNC),
        a(describe("S"), SYNC), a(run("2", name="")), b(run("y", name="")),
    ),
    "gone_after_a_simple_query": Dialogue(
        a(parse("select 1"), SYNC), a(query("select 'simple'")), a(RUN_UNNAMED), a(describe("S"), SYNC),
        a(parse("select 2"), SYNC), a(query("")), a(RUN_UNNAMED), a(parse("select 3"), SYNC), a(query("selekt")),
        a(RUN_UNNAMED),
    ),
    "closed": Dialogue(
        a(parse("select 1"), SYNC), a(close("S"), SYNC), a(RUN_UNNAMED), a(parse("select 2"), close("S"), SYNC),
        a(describe("S"), SYNC), a(parse("select 3"), SYNC), a(RUN_UNNAMED),
    ),
    "replaced": Dialogue(
        a(parse("select 1 as one"), SYNC), a(parse("select 'x' as two"), SYNC), a(run(name="")),
        a(parse("select 3"), bind(), parse("select 4"), execute(), SYNC), a(run(name="")),
    ),
    "replaced_by_one_that_fails": Dialogue(
        a(parse("select 1"), SYNC), a(parse("selekt"), SYNC), a(RUN_UNNAMED),
        a(parse("select 2"), SYNC), a(parse("select nothing from nowhere"), SYNC), a(RUN_UNNAMED),
    ),
    "kept_when_what_follows_it_fails": Dialogue(
        a(parse("select $1::int"), bind("x"), execute(), SYNC), a(bind("1"), execute(), SYNC),
        a(parse("select 1 / $1::int"), bind("0"), execute(), SYNC), a(bind("1"), execute(), SYNC),
        a(bind("0"), execute(), SYNC), a(bind("2"), execute(), SYNC), a(bind(), SYNC), a(bind("3"), execute(), SYNC),
        a(bind(name="not there"), SYNC), a(bind("4"), execute(), SYNC),
    ),
    "in_a_transaction": Dialogue(
        a(query("begin")), a(parse("select $1::int"), SYNC), a(bind("1"), execute(), SYNC), a(query("commit")),
        a(bind("2"), execute(), SYNC), a(once("begin")), a(parse("select 'in'"), SYNC), a(once("commit")),
        a(RUN_UNNAMED),
    ),
}  # fmt: skip

TYPES: dict[str, Dialogue] = {
    "given_or_not": Dialogue(
        a(prepare("select $1, pg_typeof($1)", "unsaid")), a(prepare("select $1, pg_typeof($1)", "int4", (INT4,))),
        a(prepare("select $1, pg_typeof($1)", "int8", (INT8,))), a(prepare("select $1, pg_typeof($1)", "zero", (0,))),
        *(a(run("42", name=name)) for name in ("unsaid", "int4", "int8", "zero")),
        *(a(run("4294967296", name=name)) for name in ("unsaid", "int4", "int8")),
        *(a(describe("S", name), SYNC) for name in ("int8", "unsaid", "int4")),
    ),
    "of_two_frontends_with_the_same_name_and_text": Dialogue(
        a(prepare("select $1, pg_typeof($1)", "s", (INT4,))), b(prepare("select $1, pg_typeof($1)", "s", (INT8,))),
        a(run("1")), b(run("1")), a(run("4294967296")), b(run("4294967296")), a(describe("S", "s"), SYNC),
        b(describe("S", "s"), SYNC), a(bind_as([1], [int4(5)], [1, 0], "s"), execute(), SYNC),
        b(bind_as([1], [int8(5)], [1, 0], "s"), execute(), SYNC), b(bind_as([1], [int4(5)], [1], "s"), SYNC),
    ),
    "unnamed_of_two_frontends": Dialogue(
        a(parse("select $1, pg_typeof($1)", "", (INT4,)), SYNC), b(parse("select $1, pg_typeof($1)"), SYNC),
        a(describe("S"), SYNC), b(describe("S"), SYNC), a(run("1", name="")), b(run("x", name="")),
    ),
    "some_given": Dialogue(
        a(prepare("select $1, $2::int, $3 || 'x'", "s", (INT8,))), a(run("1", "2", "3")),
        a(prepare("select $1, $2::int", "t", (INT4, INT8, TEXT))), a(run("1", "2", "x", name="t")),
        a(run("1", "2", name="t")),
    ),
    "resolved_from_a_table": Dialogue(
        a(query("set search_path to near")), b(query("set search_path to far")),
        a(prepare("select id, word from t where id = $1 and word like $2")), a(run("1", "%")),
        b(prepare("select id, word from t where id = $1 and word like $2")), b(run("1", "%")),
        a(describe("S", "s"), SYNC),
        a(bind_as([1, 0], [int4(1), b"near%"], [1], "s"), execute(), SYNC),
        b(bind_as([1, 0], [int8(1), b"far%"], [1], "s"), execute(), SYNC),
        b(bind_as([1, 0], [int4(1), b"far%"], [1], "s"), execute(), SYNC),
    ),
    "created_by_users": Dialogue(
        a(query("set search_path to near")), b(query("set search_path to far")),
        a(prepare("select $1::mood as m, enum_range(null::mood)")),
        b(prepare("select $1::mood as m, enum_range(null::mood)")),
        a(run("sad")), b(run("sad")), a(run("far")), b(run("far")), a(describe("S", "s"), SYNC),
    ),
    "binary": Dialogue(
        a(prepare("select $1::int4 as a, $2::int8 as b, $3::text as c, $4::timestamptz as d")),
        a(bind_as([1], [int4(1), int8(2), b"x", int8(0)], [1], "s"), describe(), execute(), SYNC),
        a(bind_as([1, 1, 0, 0], [int4(1), int8(2), b"x", b"2001-02-03"], [0, 1, 0, 1], "s"), execute(), SYNC),
        a(bind_as([0], [b"1", b"2", None, None], [1], "s"), describe(), execute(), SYNC), a(run("1", "2", "3", None)),
        a(parse("select 1.5::float8, 12.34::numeric, true, '{1,2}'::int[], interval '1 day'", "t"), SYNC),
        a(bind_as([], [], [1], "t"), describe(), execute(), SYNC), a(bind_as([], [], [0], "t"), execute(), SYNC),
    ),
}  # fmt: skip
