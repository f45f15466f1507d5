"""The least that can be dispatched: what is gathered, what has to be streamed, and which statements a unit names."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import ProtocolViolation
from lib.wire.framing import MAX_UNIT_BYTES
from lib.wire.units import Extended, Found, gather, usual
from tests.wire_samples import (
    COPY_DONE,
    FLUSH,
    FRONTEND,
    SYNC,
    TERMINATE,
    bind,
    close,
    copy_data,
    describe,
    execute,
    parse,
    query,
)

PIPELINE = parse("select $1") + bind("1") + describe() + execute() + close()
WHOLE = {
    "a Query": (query("select 1"), Found.QUERY),
    "an empty Query": (query(""), Found.QUERY),
    "a FunctionCall": (FRONTEND["FunctionCall"], Found.CALL),
    "a statement of the extended protocol": (PIPELINE + SYNC, Found.EXTENDED),
    "several statements before one Sync": (PIPELINE * 3 + SYNC, Found.EXTENDED),
    "a Sync alone": (SYNC, Found.EXTENDED),
    "a Terminate": (TERMINATE, Found.TERMINATE),
    "a Flush with nothing before it": (FLUSH, Found.FLUSH),
}


def found(data: bytes, start: int) -> tuple[Found, int]:
    what, end, read = gather(data, start)
    if what is not Found.NOTHING:
        assert (read is not None) == (what is Found.EXTENDED)
    return what, end


def read_extended(data: bytes) -> Extended:
    """What gather() read of a unit, which may well stand between others."""
    what, end, read = gather(SYNC + data + query("select 'another'"), len(SYNC))
    assert (what, end) == (Found.EXTENDED, len(SYNC + data))
    assert read is not None
    return read


@pytest.mark.parametrize("name", WHOLE)
def test_a_unit_is_found_whole(name):
    data, what = WHOLE[name]
    assert found(data, 0) == (what, len(data))


@pytest.mark.parametrize("name", WHOLE)
def test_a_unit_that_is_cut_is_not_found_at_any_byte(name):
    data, _ = WHOLE[name]
    for size in range(len(data)):
        assert found(data[:size], 0)[0] is Found.NOTHING


@pytest.mark.parametrize("name", WHOLE)
def test_a_unit_that_comes_byte_by_byte_is_read_once_and_found_the_same(name):
    data, _ = WHOLE[name]
    seen, whole_messages = None, 0
    for size in range(len(data)):
        what, end, read = gather(data[:size], 0, seen)
        assert what is Found.NOTHING
        assert end >= whole_messages  # it never goes back
        seen, whole_messages = (None if read is None else (end, read)), end
    what, end, read = gather(data, 0, seen)
    at_once = gather(data, 0)
    assert (what, end) == at_once[:2]
    for name in Extended.__slots__ if read is not None else ():
        assert getattr(read, name) == getattr(at_once[2], name)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("tail", [query("select 2"), PIPELINE[:20], copy_data(b"1\n"), b"Q", FLUSH])
def test_a_unit_is_found_between_others(name, tail):
    data, what = WHOLE[name]
    assert found(SYNC + data + tail, 5) == (what, 5 + len(data))


@pytest.mark.parametrize("message", [FLUSH, query("select 1"), FRONTEND["FunctionCall"], copy_data(b"1\n"), COPY_DONE,
                                     FRONTEND["CopyFail"]])  # fmt: skip
def test_a_unit_with_something_else_before_its_sync_is_streamed_from_its_begin(message):
    assert found(PIPELINE + message + SYNC, 0) == (Found.STREAM, 0)
    assert found(PIPELINE + message[:5], 0) == (Found.STREAM, 0)


@pytest.mark.parametrize("message", [copy_data(b"1\n"), COPY_DONE, FRONTEND["CopyFail"]])
def test_copy_messages_between_two_units_are_left_to_the_caller(message):
    assert found(message, 0) == (Found.COPY, 0)
    assert found(SYNC + message + query("select 1"), 5) == (Found.COPY, 5)


def test_a_terminate_behind_an_unsynced_unit_leaves_it_behind():
    data = PIPELINE + TERMINATE
    assert found(data, 0) == (Found.TERMINATE, len(data))


@pytest.mark.parametrize("tag", "QPBF")
def test_a_long_message_is_streamed_as_soon_as_it_is_announced(tag):
    assert found(tag.encode() + struct.pack("!I", MAX_UNIT_BYTES), 0) == (Found.STREAM, 0)
    assert found(tag.encode() + struct.pack("!I", MAX_UNIT_BYTES - 1), 0) == (Found.NOTHING, 0)


def test_many_messages_that_are_long_together_are_streamed_before_all_of_them_are_held():
    data = (parse("select 1") + bind() + execute()) * 3000
    assert found(data, 0) == (Found.STREAM, 0)


def test_a_violation_is_seen_as_soon_as_its_header_is_there():
    for bad in (b"\0\0\0\0\4", b"p\0\0\0\4", b"Q\0\0\0\3", b"D" + struct.pack("!I", 10_001)):
        for before in (b"", PIPELINE):
            with pytest.raises(ProtocolViolation):
                found(before + bad, 0)
            assert found(before + bad[:4], 0) == (Found.NOTHING, len(before))


@given(st.lists(st.sampled_from([*FRONTEND.values(), query(""), PIPELINE, SYNC]), max_size=10))
def test_what_is_gathered_ends_between_two_messages(parts):
    data, ends, position = b"".join(parts), {0}, 0
    while position < len(data):
        position += 1 + struct.unpack_from("!I", data, position + 1)[0]
        ends.add(position)
    what, end = found(data, 0)
    assert end in ends
    if what is not Found.NOTHING:
        assert (end == 0) == (what in (Found.STREAM, Found.COPY))


@given(st.binary(max_size=80), st.integers(0, 80))
def test_any_bytes_are_a_unit_or_a_violation(data, start):
    start = min(start, len(data))
    try:
        _, end = found(data, start)
    except ProtocolViolation:
        return
    assert start <= end <= len(data)


# --- which statements a unit names -----------------------------------------------------------------------------------


def test_every_text_of_a_unit_is_read_in_order():
    unit = read_extended(parse("select 1") + execute() + parse("select 2", "two") + bind(name="two") + SYNC)
    assert unit.texts == [b"select 1", b"select 2"]


def test_the_last_unnamed_parse_is_what_the_unit_leaves_behind():
    last = parse("select 2", types=(23,))
    unit = read_extended(parse("select 1") + last + parse("select 3", "three") + SYNC)
    assert unit.parse_unnamed == last
    assert read_extended(bind() + execute() + SYNC).parse_unnamed is None


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (bind() + execute() + SYNC, True),
        (bind(portal="p") + execute("p") + SYNC, True),
        (describe("S") + SYNC, True),
        (bind(name="s1") + execute() + SYNC, True),
        (describe("S", "s1") + SYNC, True),
        (close("S", "s1") + SYNC, True),
        (parse("select 1", "s1") + SYNC, True),
        (parse("select 1") + bind() + describe("S") + SYNC, True),
        (parse("select 1") + bind(name="s1") + SYNC, True),
        (bind() + execute() + parse("select 1") + bind() + SYNC, True),
        (describe("P") + SYNC, False),
        (execute() + SYNC, False),
        (SYNC, False),
        (parse("select 1") + bind() + describe("P") + execute() + SYNC, False),
        (parse("select 1") + bind(portal="p1") + SYNC, False),
        (close() + SYNC, False),
    ],
)
def test_a_unit_names_statements_unless_it_only_parses_and_runs_an_unnamed_one_of_its_own(data, names):
    assert read_extended(data).names is names


@given(st.lists(st.tuples(st.sampled_from(b"PBDEC"), st.binary(max_size=20)), max_size=6))
def test_messages_with_any_content_are_read(parts):
    data = b"".join(bytes([tag]) + struct.pack("!I", len(body) + 4) + body for tag, body in parts)
    unit = read_extended(data + SYNC)
    assert len(unit.texts) == sum(tag == ord("P") for tag, _ in parts)


USUAL = [
    parse(text) + bind(*values) + rest + execute() + SYNC
    for text in ("select $1", "", "select 'a long one' || $1 || repeat('x', 100)")
    for values in ((), ("1",), ("a", "b" * 300))
    for rest in (b"", describe())
]


@pytest.mark.parametrize("data", USUAL)
def test_what_drivers_send_is_read_at_once_as_it_is_message_by_message(data):
    assert read_the_same(usual(data), gather(data, 0)[2])


@pytest.mark.parametrize(
    "data",
    [
        parse("select $1", "a name") + bind("1") + execute() + SYNC,
        parse("select $1") + bind("1", name="a name") + execute() + SYNC,
        parse("select $1") + bind("1") + execute() + execute() + SYNC,
        parse("select $1") + bind("1") + execute() + FLUSH,
        parse("select $1") + describe() + SYNC,
        parse("select $1") + SYNC,
        parse("select $1") + bind("x" * MAX_UNIT_BYTES) + execute() + SYNC,
        USUAL[0] + SYNC,
    ],
)
def test_what_is_not_that_is_left_to_be_read_message_by_message(data):
    assert usual(data) is None


@given(st.sampled_from(USUAL), st.integers(1, 60), st.integers(0, 255), st.integers(0, 60))
def test_nothing_that_differs_by_a_byte_is_taken_for_something_else(data, at, value, cut):
    changed = bytearray(data)
    changed[min(at, len(data) - 1)] = value
    changed = changed[: max(len(changed) - cut, 5)] if cut > 30 else changed
    read = usual(bytes(changed))
    if read is not None:
        what, end, slowly = gather(bytes(changed), 0)
        assert (what, end) == (Found.EXTENDED, len(changed))
        assert read_the_same(read, slowly)


def read_the_same(one: Extended | None, other: Extended | None) -> bool:
    assert one is not None
    assert other is not None
    return all(getattr(one, name) == getattr(other, name) for name in Extended.__slots__)
