"""A statement's text as it may be logged: no literal and no comment is in it, whatever the text."""

import pytest

from lib.route.masked import MOST, masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"select 1", "select ?"),
        (b"select  *\n from t where a = 'secret' and b in (1,2.5e3)", "select * from t where a = ? and b in (?,?)"),
        (b"alter role a password 'secret'", "alter role a password ?"),
        (b"select $1, $secret$ a $secret$, E'secret\\n'", "select $1, ?, ?"),
        (b"select 1 -- secret\n, 2 /* secret /* */ */ + 3", "select ? , ? + ?"),
        (b"insert into \"My Table\" values ('secret''s')", 'insert into "My Table" values (?)'),
        (b"select 'secret", "select ..."),
        (b"do $$ secret", "do ..."),
        (b"select U&'secret' , 1", "select ? , ?"),
        (b"", ""),
    ],
)
def test_literals_and_comments_are_left_out(text, shown):
    assert masked(text) == shown


def test_a_long_text_is_cut_and_what_is_behind_the_cut_is_left_out():
    assert len(masked(b"select " + b"a, " * 5000)) <= MOST
    assert "secret" not in masked(b"select '" + b"x" * 9000 + b"' secret")
