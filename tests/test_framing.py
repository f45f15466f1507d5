"""Where messages begin and end: every sample whole, byte by byte and with a tail, and bytes that are no messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.errors import ProtocolViolation
from lib.wire import framing
from lib.wire.framing import copy_data_run, end_of_read, frontend_header, missing, scan
from tests.wire_samples import BACKEND, FRONTEND, copy_data, ready

SEEN = {
    "Z": framing.READY, "E": framing.ERROR, "S": framing.PARAMETER, "A": framing.NOTIFICATION, "G": framing.COPY_IN,
    "W": framing.COPY_IN, "N": framing.NOTICE, "1": framing.PARSED, "3": framing.PARSED,
}  # fmt: skip
messages = st.lists(st.sampled_from(list(BACKEND.values())), max_size=12)


@pytest.mark.parametrize("name", BACKEND)
def test_a_whole_message_is_found(name):
    raw = BACKEND[name]
    assert scan(raw, 0, len(raw)) == (len(raw), raw[0], SEEN.get(chr(raw[0]), 0))


@pytest.mark.parametrize("name", BACKEND)
def test_a_message_that_is_cut_is_not_found_however_much_of_it_is_there(name):
    raw = BACKEND[name]
    for size in range(len(raw)):
        assert scan(raw[:size], 0, size) == (0, 0, 0)
        assert missing(raw[:size], 0, size) == (len(raw) - size if size >= 5 else None)


@pytest.mark.parametrize("name", BACKEND)
def test_a_message_is_found_before_a_tail_that_is_cut(name):
    raw = BACKEND[name]
    tail = BACKEND["DataRow"]
    for size in range(len(tail)):
        assert scan(raw + tail[:size], 0, len(raw) + size) == (len(raw), raw[0], SEEN.get(chr(raw[0]), 0))


@pytest.mark.parametrize("name", [name for name, raw in BACKEND.items() if raw[:1] != b"Z"])
def test_scanning_goes_on_to_the_ready_for_query_and_no_further(name):
    raw = BACKEND[name]
    data = raw + ready("T") + BACKEND["ErrorResponse"]
    assert scan(data, 0, len(data)) == (len(raw) + 6, ord("Z"), framing.READY | SEEN.get(chr(raw[0]), 0))


def test_scanning_begins_and_stops_where_it_is_told():
    data = b"garbage" + BACKEND["DataRow"] + BACKEND["CommandComplete"] + b"garbage"
    assert scan(data, 7, len(data) - 7) == (len(data) - 7, ord("C"), 0)


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_length_below_four_from_a_server_is_a_violation(length):
    data = b"D" + struct.pack("!I", length) + b"rest"
    with pytest.raises(ProtocolViolation):
        scan(data, 0, len(data))


READ = [BACKEND["RowDescription"], BACKEND["DataRow"], BACKEND["DataRow"], BACKEND["CommandComplete"], ready("I")]


def test_the_answer_of_a_read_ends_behind_its_ready_for_query():
    data = b"".join(READ)
    assert end_of_read(b"x" + data + b"Z", 1) == len(data) + 1
    assert [end_of_read(data[:size], 0) for size in range(len(data))] == [0] * len(data)


@pytest.mark.parametrize("name", ["ErrorResponse", "NoticeResponse", "ParameterStatus", "NotificationResponse"])
@pytest.mark.parametrize("place", range(5))
def test_an_answer_with_something_to_be_looked_at_is_no_answer_of_a_read(name, place):
    assert not end_of_read(b"".join([*READ[:place], BACKEND[name], *READ[place:]]), 0)


@pytest.mark.parametrize("status", ["T", "E"])
def test_an_answer_in_a_transaction_is_no_answer_of_a_read(status):
    assert not end_of_read(b"".join([*READ[:-1], ready(status)]), 0)


@given(st.lists(st.sampled_from([*READ, *BACKEND.values()]), max_size=6), st.integers(0, 200), st.integers(0, 255))
def test_where_an_answer_of_a_read_is_found_scanning_finds_the_same(parts, place, byte):
    data = bytearray(b"".join([*parts, *READ]))
    data[place % len(data)] = byte
    end = end_of_read(bytes(data), 0)
    if end:
        found, last, seen = scan(bytes(data), 0, len(data))
        assert (found, last, seen | framing.PARSED) == (end, ord("Z"), framing.READY | framing.PARSED)
        assert data[end - 1 : end] == b"I"


@given(messages, st.data())
def test_scanning_the_pieces_finds_what_scanning_the_whole_finds(parts, data):
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    position, found = 0, []
    for stop in [*cuts, len(whole)]:
        position, more = scanned(whole[:stop], position)
        found += more
    assert position == len(whole)
    assert readies(found) == readies(scanned(whole, 0)[1])
    assert scanned(whole, 0)[0] == len(whole)


def readies(stops: list[tuple[int, int]]) -> list[int]:
    return [end for end, tag in stops if tag == ord("Z")]


def scanned(buffer: bytes, position: int) -> tuple[int, list[tuple[int, int]]]:
    """Scan to the end as a worker does: the end of the last whole message, and (end, type) of every stop."""
    stops = []
    while True:
        end, last, _ = scan(buffer, position, len(buffer))
        if end == position:
            return position, stops
        stops.append((end, last))
        position = end


@given(st.binary(max_size=200))
@example(b"Z\0\0\0\0")
@example(b"D\xff\xff\xff\xff" + bytes(20))
def test_any_bytes_from_a_server_are_messages_or_a_violation(data):
    try:
        end, _, _ = scan(data, 0, len(data))
    except ProtocolViolation:
        return
    assert 0 <= end <= len(data)


# --- frontends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRONTEND)
def test_the_header_of_a_frontend_message_says_where_it_ends(name):
    raw = FRONTEND[name]
    assert frontend_header(b"before" + raw + b"behind", 6) == (raw[0], 6 + len(raw))
    assert frontend_header(raw[:5], 0) == (raw[0], len(raw))


@pytest.mark.parametrize("tag", sorted(set(range(256)) - set(b"QFPBdCDEHSXcf")))
def test_a_type_that_postgresql_does_not_know_is_a_violation(tag):
    with pytest.raises(ProtocolViolation, match=str(tag)):
        frontend_header(bytes([tag]) + struct.pack("!I", 4), 0)


@pytest.mark.parametrize("tag", "CDEHSXcf")
def test_a_message_that_postgresql_keeps_small_is_refused_as_soon_as_it_announces_more(tag):
    assert frontend_header(tag.encode() + struct.pack("!I", 10_000), 0) == (ord(tag), 10_001)
    with pytest.raises(ProtocolViolation):
        frontend_header(tag.encode() + struct.pack("!I", 10_001), 0)


@pytest.mark.parametrize("tag", "QFPBd")
def test_a_message_that_may_be_large_is_refused_at_a_gigabyte(tag):
    assert frontend_header(tag.encode() + struct.pack("!I", 0x3FFFFFFE), 0)[1] == 0x3FFFFFFF
    with pytest.raises(ProtocolViolation):
        frontend_header(tag.encode() + struct.pack("!I", 0x3FFFFFFF), 0)


@pytest.mark.parametrize("tag", "QFPBdCDEHSXcf")
@pytest.mark.parametrize("length", [0, 3])
def test_a_length_below_four_from_a_frontend_is_a_violation(tag, length):
    with pytest.raises(ProtocolViolation):
        frontend_header(tag.encode() + struct.pack("!I", length), 0)


@given(st.binary(min_size=5, max_size=40), st.integers(0, 35))
def test_any_bytes_from_a_frontend_are_a_header_or_a_violation(data, position):
    position = min(position, len(data) - 5)
    try:
        tag, end = frontend_header(data, position)
    except ProtocolViolation:
        return
    assert tag == data[position]
    assert end >= position + 5


# --- COPY ----------------------------------------------------------------------------------------------------------


def test_a_run_of_copy_data_ends_where_the_last_whole_one_ends():
    rows = copy_data(b"1\n") + copy_data(b"") + copy_data(b"a longer row\n")
    behind = copy_data(b"cut")
    for size in range(len(behind)):
        assert copy_data_run(b"before" + rows + behind[:size], 6) == 6 + len(rows)


def test_a_run_of_copy_data_ends_before_any_other_message():
    assert copy_data_run(copy_data(b"1\n") + FRONTEND["CopyDone"] + copy_data(b"2\n"), 0) == 7
    assert copy_data_run(FRONTEND["CopyDone"] + copy_data(b"2\n"), 0) == 0


@pytest.mark.parametrize("length", [0, 3])
def test_copy_data_with_an_impossible_length_is_in_no_run(length):
    assert copy_data_run(copy_data(b"1\n") + b"d" + struct.pack("!I", length) + b"rest", 0) == 7


@given(st.binary(max_size=100))
def test_a_run_is_found_in_any_bytes(data):
    assert 0 <= copy_data_run(data, 0) <= len(data)


