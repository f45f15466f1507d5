"""The lexer reads bytes as scan.l does, or says that it cannot."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.route.lex import IDENT, MAX_TEXT, NUMBER, OPERATOR, PARAM, PUNCT, QIDENT, STRING, UNREADABLE, lex

NAMES = {IDENT: "id", QIDENT: "q", STRING: "str", NUMBER: "num", PARAM: "par", OPERATOR: "op", UNREADABLE: "?"}


def tokens(text: bytes) -> str:
    """A line for the eye: kinds and values."""
    words = []
    for token in lex(text):
        name = NAMES.get(token.kind, "")
        value = "" if token.kind == UNREADABLE else token.value.decode("latin-1")
        words.append(f"{name}:{value}" if name and value else name or value)
    return " ".join(words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"select 1", "id:select num"),
        (b"SeLeCt\f1\v;", "id:select num ;"),
        (b'"A""b" "c"', 'q:A"b q:c'),
        (b'""', "?"),
        (b"a$b$c", "id:a$b$c"),
        (b"a$$b$$c", "id:a$$b$$c"),
        (b"\xc3\xa91", "id:\xc3\xa91"),
        (b"1abc 1_000 0x1F 1e5 1e", "num id:abc num id:_000 num id:x1f num num id:e"),
        (b"1.5e-3 .5 1..2", "num num num num"),
        (b"$1 $12a", "par par id:a"),
        (b"'it''s' 'a' 'b'", "str str str"),
        (b"e'it\\'s' E'a\\\\'", "str str"),
        (b"e'it\\'s", "id:e ?"),
        (b"n'x' b'01' x'1f'", "id:n str id:b str id:x str"),
        (b"u&'d\\0061t' U&'x'", "str str"),
        (b'u&"d"', "?"),
        (b"u & 'x'", "id:u op:& str"),
        (b"$$ ' -- $$ $a$ $$ $b$ $a$", "str str"),
        (b"$a$ $A$ $a", "?"),
        (b"$1$ x $1$", "par ?"),
        (b"/* a /* ' */ \" */ 1", "num"),
        (b"/*/ */ 1", "num"),
        (b"/* /* */", "?"),
        (b"1 -- it's\n2", "num num"),
        (b"1 -- it's\r2", "num num"),
        (b"1 -- it's\f2", "num"),
        (b"a+--b\nc", "id:a op:+ id:c"),
        (b"a*/*b*/c", "id:a op:* id:c"),
        (b"a<=-1", "id:a op:<=- num"),
        (b"a::int b:=c d=>e", "id:a :: id:int id:b := id:c id:d op:=> id:e"),
        (b"f(a, b)[1].c;", "id:f ( id:a , id:b ) [ num ] . id:c ;"),
        (b"select '", "id:select ?"),
        (b"select \\d", "id:select ?"),
        (b"select \x00", "id:select ?"),
    ],
)
def test_text_is_cut_as_postgresql_cuts_it(text, expected):
    assert tokens(text) == expected


def test_backslashes_in_a_string_are_read_when_both_readings_agree():
    assert tokens(rb"'C:\dir\file' '\d+'") == "str str"


def test_string_that_ends_elsewhere_without_standard_conforming_strings_cannot_be_read():
    assert tokens(rb"select 'it\'s'") == "id:select ?"
    assert tokens(rb"select 'a\', set_config('b', 'c', false) --'") == "id:select ?"


def test_string_continued_on_the_next_line_is_read_only_when_its_escapes_do_not_matter():
    assert tokens(b"e'a'\n'b'") == "str str"
    assert tokens(b"e'a'\n'b\\'c'") == "str ?"


def test_second_byte_of_a_client_encoding_is_not_taken_for_a_backslash():
    sjis = "表".encode("shift_jis")
    assert sjis[1:] == b"\\"
    for text in (b"select '" + sjis + b"'", b"select e'" + sjis + b"'", b"select '" + sjis + b"\\''"):
        assert lex(text)[-1].kind == UNREADABLE


def test_second_byte_of_a_client_encoding_is_not_taken_for_an_operator():
    assert tokens(b"select \x95|f") == "id:select ?"
    assert tokens(b"select '\x95|f'") == "id:select str"


def test_text_of_more_than_64_kb_is_not_looked_at():
    assert [token.kind for token in lex(b"select 1" + b" " * MAX_TEXT)] == [UNREADABLE]
    assert [token.kind for token in lex(b"select 1".ljust(MAX_TEXT))] == [IDENT, NUMBER]


PIECES = [
    b"select", b"a", b"\xc3\xa9", b"1", b"1.5", b"'x'", b"'it''s'", b'"q"', b"e'\\''", b"$1", b"$$x$$", b"$t$ ' $t$",
    b"(", b")", b",", b";", b".", b"::", b"+", b"<=", b"/* c */", b"-- c\n", b"'\\'", b"'", b'"', b"$",
    b"/*", b"*/", b"--", b"\n", b" ", b"\r", b"\\", b"u&", b"E", b"\x00", b"_1",
]  # fmt: skip
texts = st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))
gap = re.compile(rb"(?:[ \t\n\r\f\v]|--[^\n\r]*|/\*.*\*/)*", re.S)


@given(texts)
def test_tokens_cover_the_text_in_order(text):
    at = 0
    for token in lex(text):
        assert gap.fullmatch(text, at, token.start)
        assert token.start < token.stop
        at = token.stop
    assert gap.fullmatch(text, at)


@given(texts)
def test_only_the_last_token_may_be_unreadable_and_covers_the_rest(text):
    found = lex(text)
    assert all(token.kind != UNREADABLE for token in found[:-1])
    if found and found[-1].kind == UNREADABLE:
        assert found[-1].stop == len(text)


@given(texts, texts)
def test_texts_joined_by_a_semicolon_are_read_as_each_alone(left, right):
    """What is readable ends where it ends: nothing of it reaches into the text behind it."""
    if any(token.kind == UNREADABLE for token in lex(left)) or re.search(rb"--[^\n\r]*\Z", left):
        return
    joined = [token[:2] for token in lex(left + b"\n;" + right)]
    assert joined == [token[:2] for token in lex(left)] + [(PUNCT, b";")] + [token[:2] for token in lex(right)]
