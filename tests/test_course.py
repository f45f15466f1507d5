"""What passes between a frontend and the backend that it has for itself: the same bytes, and what is known of them."""

from __future__ import annotations

import pytest

from lib.errors import ProtocolViolation
from lib.wire.course import Course
from tests.wire_samples import BACKEND, built, complaint, complete, description, parameter, query, ready, row

TERMINATE, SYNC, FLUSH, COPY_DONE = built("X"), built("S"), built("H"), built("c")
PARSE = built("P", b"\0select 1\0\0\0")
BIND, EXECUTE = built("B", b"\0\0\0\0\0\0\0\0"), built("E", b"\0\0\0\0\0")
PARSED, BOUND, SKIPPED = built("1"), built("2"), complaint("ERROR", "42601", "no")
COPY_IN = built("G", b"\0\0\0")
COPY_DATA = built("d", b"1\n")
SIMPLE_ANSWER = description("a") + row("1") + complete("SELECT 1") + ready("I")
EXTENDED_ANSWER = PARSED + BOUND + row("1") + complete("SELECT 1") + ready("T")


class Two:
    """A course, with all that both sides have got."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.size = size
        self.course = Course()
        self.to_backend = self.to_frontend = b""
        self.parameters: dict[str, str] = {}
        self.looked_at: list[tuple[str, bytes | None]] = []

    def _look(self, tag: int, body: bytes | None) -> None:
        self.looked_at.append((chr(tag), body))

    def send(self, data: bytes) -> Two:
        for position in range(0, len(data), self.size):
            self.to_backend += self.course.sent(data[position : position + self.size], self._look)
        return self

    def receive(self, data: bytes) -> Two:
        for position in range(0, len(data), self.size):
            self.to_frontend += self.course.received(data[position : position + self.size], self.parameters)
        return self


SIZES = pytest.mark.parametrize("size", [1, 2, 5, 6, 17, 1 << 20])
# What is sent, what is answered, and whether the session is between two units then.
TRANSCRIPTS = {
    "a query": (query("select 1"), SIMPLE_ANSWER, True),
    "a query that is answered in part": (query("select 1"), SIMPLE_ANSWER[:-6], False),
    "two queries at once": (query("select 1") * 2, SIMPLE_ANSWER, False),
    "two queries and two answers": (query("select 1") * 2, SIMPLE_ANSWER * 2, True),
    "an extended one": (PARSE + BIND + EXECUTE + SYNC, EXTENDED_ANSWER, True),
    "one without its Sync": (PARSE + BIND + EXECUTE + FLUSH, EXTENDED_ANSWER[:-6], False),
    "an error, and what is skipped": (PARSE + BIND + query("select 1") + SYNC, SKIPPED + ready("I"), True),
    "an error of a query": (query("select"), SKIPPED + ready("E"), True),
    "a copy that has begun": (query("copy t from stdin"), COPY_IN, False),
    "a copy": (query("copy t from stdin") + COPY_DATA * 3 + COPY_DONE, COPY_IN + complete("COPY 3") + ready(), True),
    "an extended copy": (
        PARSE + BIND + EXECUTE + SYNC + COPY_DATA + COPY_DONE + SYNC,
        PARSED + BOUND + COPY_IN + complete("COPY 1") + ready(),
        True,
    ),
    "what comes unasked": (b"", parameter("a", "b") + built("A", b"\0\0\0\1news\0\0"), True),
}


@SIZES
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_both_sides_get_the_same_bytes_and_it_is_known_when_the_session_is_idle(name, size):
    sent, received, is_idle = TRANSCRIPTS[name]
    two = Two(size).send(sent).receive(received)
    assert (two.to_backend, two.to_frontend) == (sent, received)
    assert two.course.is_idle is is_idle


@SIZES
def test_the_goodbye_is_kept_back(size):
    two = Two(size).send(query("select 1") + TERMINATE)
    assert two.to_backend == query("select 1")
    assert two.course.has_ended


@SIZES
def test_what_no_server_takes_is_passed_on_with_all_that_comes_behind_it(size):
    data = query("select 1") + b"?\0\0\0\4" + query("select 2") + TERMINATE
    two = Two(size).send(data)
    assert two.to_backend == data
    two.receive(SIMPLE_ANSWER * 2)
    assert two.course.is_broken and not two.course.is_idle and not two.course.has_ended


@SIZES
def test_status_and_parameters_are_those_that_the_backend_said_last(size):
    two = Two(size).send(query("begin") + query("set a = 2"))
    two.receive(complete("BEGIN") + ready("T") + parameter("a", "1"))
    two.receive(parameter("a", "2") + complete("SET") + ready("E"))
    assert two.course.status == b"E"
    assert two.parameters == {"a": "2"}


def test_half_a_message_leaves_the_session_cut_until_its_rest_has_come():
    two = Two()
    data = query("select " + "1" * 100)
    assert two.send(data[:3]).course.is_cut
    assert two.send(data[3:50]).course.is_cut
    assert not two.send(data[50:]).course.is_cut
    two.receive(row("x" * 100)[:60])
    assert two.course.is_mid_message
    two.receive(row("x" * 100)[60:])
    assert not two.course.is_mid_message


def test_a_copy_that_waits_for_data_leaves_the_session_cut():
    two = Two().send(query("copy t from stdin")).receive(COPY_IN)
    assert two.course.is_cut
    assert not two.send(COPY_DATA + COPY_DONE).course.is_cut


def test_texts_are_looked_at_and_one_that_is_not_all_there_is_told_so():
    two = Two().send(query("select 1") + PARSE + COPY_DATA)
    assert two.looked_at == [("Q", b"select 1\0"), ("P", PARSE[5:])]
    two = Two().send(query("select 1")[:-3])
    assert two.looked_at == [("Q", None)]


@pytest.mark.parametrize("message", BACKEND.values(), ids=BACKEND)
def test_every_message_of_a_backend_is_passed_on_at_any_cut(message):
    for cut in range(len(message)):
        two = Two()
        two.receive(message[:cut])
        two.receive(message[cut:])
        assert two.to_frontend == message


def test_a_length_that_cannot_be_is_a_violation_of_the_server():
    with pytest.raises(ProtocolViolation):
        Two().receive(b"T\0\0\0\3")


def test_its_repr_says_what_it_knows():
    two = Two().send(query("select 1"))
    assert repr(two.course) == "<Course status=I <Script owed='Q'>>"
