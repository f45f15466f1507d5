"""Values as rows of the protocol: as psycopg reads them, text and binary."""

from datetime import UTC, datetime

import pytest
from psycopg.adapt import Transformer
from psycopg.pq import Format

from lib.console import encoding
from lib.console.commands import TYPES, columns
from lib.console.extended import Bind, Prepared, read_bind, read_parse
from lib.errors import ProtocolViolation, ValueUnfit

MOMENT = datetime(2026, 11, 21, 15, 54, 20, 123000, tzinfo=UTC)


@pytest.mark.parametrize("form", [encoding.TEXT, encoding.BINARY])
@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        ("int8", -(2**62), -(2**62)),
        ("float8", 0.25, 0.25),
        ("float8", float("inf"), float("inf")),
        ("text", "a'\u00fc\0\udc80", "a'\u00fc?"),
        ("bool", True, True),
        ("bool", False, False),
        ("timestamptz", MOMENT.timestamp(), MOMENT),
    ],
)
def test_psycopg_reads_what_was_written(kind, value, read, form):
    (write,) = encoding.encoders(columns(f"a {kind}"), [form])
    loader = Transformer().get_loader(TYPES[kind].oid, Format(form))
    assert loader.load(write(value)) == read


def test_null_has_no_bytes_and_rows_are_counted():
    row = encoding.data_row((None, 1), encoding.encoders(columns("a text, b int8"), ()))
    assert row == b"D\0\0\0\x0f\0\2\xff\xff\xff\xff\0\0\0\x011"


def test_result_formats_are_none_one_or_one_for_each():
    two = columns("a text, b int8")
    for formats in ((), (1,), (0, 1)):
        encoding.check_formats(two, formats)
    for formats in ((0, 1, 0), (2,)):
        with pytest.raises(ProtocolViolation):
            encoding.check_formats(two, formats)


def test_bind_is_read():
    body = b"p\0s\0" + b"\0\1\0\1" + b"\0\2" + b"\0\0\0\1x" + b"\xff\xff\xff\xff" + b"\0\1\0\0"
    assert read_bind(body) == Bind(b"p", b"s", (1,), (b"x", None), (0,))


def test_value_of_a_bind_that_is_longer_than_the_message_is_refused():
    with pytest.raises(ProtocolViolation):
        read_bind(b"p\0s\0" + b"\0\0" + b"\0\1" + b"\0\0\0\5x" + b"\0\0")


def test_parse_is_read():
    assert read_parse(b"s\0cmd\0\0\2\0\0\0\x17\0\0\0\0") == (b"s", "cmd", (23, 0))


def bind(formats: tuple[int, ...], *values: bytes | None) -> Bind:
    return Bind(b"", b"", formats, values, ())


def test_parameters_are_read_as_text_whatever_they_are():
    prepared = Prepared("fe kill $1", (), 3, (20, 23))
    assert prepared.types == (20, 23, 25)
    assert prepared.given(bind((1, 1, 0), b"\0" * 7 + b"\7", b"\0\0\0\x08", b"nine")) == ("7", "8", "nine")
    assert prepared.given(bind((), b"7", None, b"9")) == ("7", None, "9")


def test_parameters_of_an_unknown_binary_form_are_refused():
    with pytest.raises(ValueUnfit):
        Prepared("x", (), 1, (1700,)).given(bind((1,), b"\0"))


def test_another_number_of_parameters_is_refused():
    with pytest.raises(ProtocolViolation):
        Prepared("x", (), 2, ()).given(bind((), b"1"))


