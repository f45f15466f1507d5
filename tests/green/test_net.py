"""Streams on gevent's loop: what is written leaves at once, what is read arrives whole, and closing wakes everybody."""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import socket as green
from gevent.event import Event

from lib import connecting, ends, listening, net
from lib.errors import ProtocolViolation, ServerUnreachable
from tests.wire_samples import query
from tests.workplace import free_port

SOON_S = 0.005  # within which a written outbox has left (design section 9, point 5)


@pytest.fixture
def pair() -> Iterator[tuple[net.Stream, socket.socket]]:
    """A stream and the other end of it, which blocks only its own green thread."""
    ours, theirs = socket.socketpair()
    peer = green.socket(fileno=theirs.detach())
    stream = net.Stream(ours)
    yield stream, peer
    stream.close()
    peer.close()


@pytest.fixture
def tcp() -> Iterator[tuple[net.Stream, socket.socket]]:
    listener = green.create_server(("127.0.0.1", 0))
    stream = connecting.connect(listener.getsockname(), 5)
    peer, _ = listener.accept()
    yield stream, peer
    stream.close()
    peer.close()
    listener.close()


def wait_until(condition: Callable[[], object], within_s: float = 30) -> None:
    with gevent.Timeout(within_s):
        while not condition():
            gevent.sleep(0.001)


def read_all(peer: socket.socket) -> bytes:
    parts = []
    while data := peer.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


# --- the outbox ------------------------------------------------------------------------------------------------------


def from_a_spawned_green_thread(write: Callable[[], None]) -> None:
    gevent.spawn(write)


def from_a_green_thread_that_was_waiting_for_an_event(write: Callable[[], None]) -> None:
    event = Event()

    def wait() -> None:
        event.wait()
        write()

    gevent.spawn(wait)
    gevent.sleep(0)
    event.set()


def from_a_green_thread_that_was_waiting_for_the_threadpool(write: Callable[[], None]) -> None:
    def wait() -> None:
        gevent.get_hub().threadpool.apply(time.sleep, (0.02,))
        write()

    gevent.spawn(wait)


def from_a_callback_of_the_loop(write: Callable[[], None]) -> None:
    gevent.get_hub().loop.run_callback(write)


def from_a_callback_of_another_plain_thread(write: Callable[[], None]) -> None:
    loop = gevent.get_hub().loop
    gevent.get_hub().threadpool.spawn(lambda: (time.sleep(0.02), loop.run_callback_threadsafe(write)))


def from_a_timer(write: Callable[[], None]) -> None:
    gevent.spawn_later(0.02, write)


@pytest.mark.parametrize(
    "called",
    [
        from_a_spawned_green_thread,
        from_a_green_thread_that_was_waiting_for_an_event,
        from_a_green_thread_that_was_waiting_for_the_threadpool,
        from_a_callback_of_the_loop,
        from_a_callback_of_another_plain_thread,
        from_a_timer,
    ],
    ids=lambda called: called.__name__,
)
def test_an_outbox_that_is_filled_on_an_idle_loop_leaves_at_once(pair, called):
    """A plain prepare watcher runs before gevent's own callbacks: what was written there lay for 230 ms."""
    stream, peer = pair
    filled_at = []

    def write() -> None:
        filled_at.append(time.perf_counter())
        stream.write(b"now")

    best_s = 1.0
    for _ in range(50):  # the machine may be busy with other things now and then, but not each time
        called(write)
        assert peer.recv(10) == b"now"
        best_s = min(best_s, time.perf_counter() - filled_at.pop())
        if best_s < SOON_S:
            break
    assert best_s < SOON_S


def test_what_is_written_leaves_before_the_loop_turns(pair):
    stream, peer = pair
    for part in (b"one ", b"two ", b"three"):
        stream.write(part)
        assert stream.pending == 0
    assert peer.recv(100) == b"one two three"


def test_what_is_written_while_bytes_are_leaving_comes_behind_them(pair):
    stream, peer = pair
    big = os.urandom(3_000_000)
    stream.write(big)
    gevent.sleep(0)
    assert 0 < stream.pending < len(big)
    stream.write(b"and ")
    gevent.sleep(0)
    stream.write(b"more")
    reader = gevent.spawn(read_all, peer)
    stream.wait_drained()
    stream.close()
    assert reader.get(timeout=30) == big + b"and more"


def test_writing_does_not_keep_a_stream_from_reading(pair):
    """Two peers that both write and do not read stand still for ever unless one of them reads while it writes."""
    stream, peer = pair
    stream.write(bytes(3_000_000))
    peer.sendall(b"question")
    assert stream.recv() == b"question"
    assert stream.pending > 0


def test_writing_to_a_stream_that_is_closed_goes_nowhere(pair):
    stream, _ = pair
    stream.close()
    stream.write(b"nobody")
    assert stream.pending == 0


# --- waiting until it is sent ----------------------------------------------------------------------------------------


def test_waiting_for_an_empty_outbox_returns_at_once(pair):
    stream, _ = pair
    with gevent.Timeout(1):
        stream.wait_drained()


def test_waiting_ends_at_the_low_water_mark(pair):
    stream, peer = pair
    stream.write(bytes(3_000_000))
    gevent.sleep(0)
    waiter = gevent.spawn(stream.wait_drained, 1_000_000)
    gevent.sleep(0)
    assert not waiter.ready()
    while not waiter.ready():
        assert stream.pending > 1_000_000
        peer.recv(1 << 16)
        gevent.sleep(0)
    assert stream.pending <= 1_000_000


def test_two_may_wait_for_different_marks(pair):
    stream, peer = pair
    stream.write(bytes(3_000_000))
    gevent.sleep(0)
    waiters = [gevent.spawn(stream.wait_drained, mark) for mark in (0, 1_000_000)]
    gevent.sleep(0)
    reader = gevent.spawn(read_all, peer)
    gevent.joinall(waiters, timeout=30, raise_error=True)
    assert all(waiter.ready() for waiter in waiters)
    stream.close()
    reader.join(30)


@pytest.mark.parametrize("end", ["closed here", "closed there"])
def test_whoever_waits_for_a_stream_that_ends_is_let_go(pair, end):
    stream, peer = pair
    stream.write(bytes(3_000_000))
    gevent.sleep(0)
    waiter = gevent.spawn(stream.wait_drained)
    gevent.sleep(0)
    (stream if end == "closed here" else peer).close()
    waiter.get(timeout=30)
    assert stream.is_closed
    assert stream.pending == 0


# --- reading ---------------------------------------------------------------------------------------------------------


def test_what_arrives_is_read_and_the_end_is_empty(tcp):
    stream, peer = tcp
    peer.sendall(b"hello")
    assert stream.recv() == b"hello"
    peer.close()
    assert stream.recv() == b""
    assert stream.recv() == b""


def test_a_reset_is_an_end_too(tcp):
    stream, peer = tcp
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert stream.recv() == b""
    assert stream.is_closed


def five_of_ten(stream: net.Stream, peer: socket.socket) -> gevent.Greenlet:
    """A reader that is to be woken by ten bytes, of which five are there."""
    stream.wake_at(10)
    reader = gevent.spawn(stream.recv)
    peer.sendall(b"12345")
    wait_until(stream.is_readable)
    assert not reader.ready()
    return reader


def test_bytes_are_let_come_until_there_are_enough(tcp):
    stream, peer = tcp
    reader = five_of_ten(stream, peer)
    peer.sendall(b"67890")
    assert reader.get(timeout=30) == b"1234567890"
    assert not stream.is_readable()


def test_bytes_that_were_let_come_are_read_when_fewer_are_enough_or_the_end_has_come(tcp):
    stream, peer = tcp
    reader = five_of_ten(stream, peer)
    stream.wake_at(1)
    assert reader.get(timeout=30) == b"12345"
    stream.wake_at(10)
    peer.sendall(b"678")
    peer.close()
    assert (stream.recv(), stream.recv()) == (b"678", b"")
    assert stream.is_readable()


def test_closing_wakes_the_reader(pair):
    stream, _ = pair
    reader = gevent.spawn(stream.recv)
    gevent.sleep(0)
    stream.close()
    assert reader.get(timeout=30) == b""


def test_closing_twice_and_from_the_reader_itself_is_nothing_special(pair):
    stream, peer = pair

    def read() -> bytes:
        data = stream.recv()
        stream.close()
        stream.close()
        return data + stream.recv()

    reader = gevent.spawn(read)
    peer.sendall(b"last")
    assert reader.get(timeout=30) == b"last"


def test_what_was_written_before_closing_is_sent(pair):
    stream, peer = pair
    stream.write(b"goodbye")
    stream.close()
    assert read_all(peer) == b"goodbye"


def test_a_stream_that_nobody_reads_costs_no_turns_of_the_loop(pair):
    """A level-triggered watcher that nobody consumes makes the loop spin."""
    stream, peer = pair
    peer.sendall(b"one")
    assert stream.recv() == b"one"
    peer.sendall(b"two")
    gevent.sleep(0.01)
    began = time.thread_time()
    gevent.sleep(0.2)
    assert time.thread_time() - began < 0.1
    assert stream.recv() == b"two"


def test_a_timeout_leaves_the_stream_as_it_was(pair):
    stream, peer = pair
    for _ in range(3):
        with gevent.Timeout(0.005, False):
            stream.recv()
            raise AssertionError
    peer.sendall(b"later")
    assert stream.recv() == b"later"


def test_exactly_so_many_bytes_are_read_however_they_arrive(pair):
    stream, peer = pair
    peer.sendall(b"ab")
    reader = gevent.spawn(stream.recv_exactly, 4)
    gevent.sleep(0.005)
    peer.sendall(b"cdef")
    assert reader.get(timeout=30) == b"abcd"
    assert stream.has_rest
    assert stream.recv_exactly(1) == b"e"
    assert stream.recv() == b"f"
    assert not stream.has_rest


def test_an_end_in_the_middle_of_what_is_wanted_is_an_error(pair):
    stream, peer = pair
    peer.sendall(b"abc")
    peer.close()
    with pytest.raises(EOFError):
        stream.recv_exactly(4)


def test_whole_messages_are_read_however_they_arrive(pair):
    stream, peer = pair
    sent = [query("select 1"), b"S\0\0\0\4", query("x" * 100_000)]
    gevent.spawn(peer.sendall, b"".join(sent))
    assert [stream.recv_message() for _ in sent] == sent


@pytest.mark.parametrize("length", [0, 3, 101, 0xFFFFFFFF])
def test_a_message_with_an_impossible_length_is_refused_before_the_rest_has_come(pair, length):
    stream, peer = pair
    peer.sendall(b"p" + struct.pack("!I", length))
    with pytest.raises(ProtocolViolation):
        stream.recv_message(100)


def test_it_is_known_without_reading_that_the_peer_has_gone(pair):
    """A goodbye in front of the end hid it: a session was started for a client that had left the queue."""
    stream, peer = pair
    peer.sendall(b"goodbye")
    assert not stream.has_ended()
    peer.close()
    assert stream.has_ended()
    assert stream.recv() == b"goodbye"


# --- connecting and listening ----------------------------------------------------------------------------------------


@pytest.fixture
def echo_at() -> Iterator[Callable[[net.Address], list[listening.Listener]]]:
    """Listeners whose connections get back what they send, once."""
    started: list[listening.Listener] = []

    def echo(stream: net.Stream) -> None:
        stream.write(stream.recv())

    def start(address: net.Address, mode: int = 0o700) -> list[listening.Listener]:
        listeners = [listening.Listener(sock, echo) for sock in listening.listen(address, mode)]
        started.extend(listeners)
        return listeners

    yield start
    for listener in started:
        if listener.sock.fileno() >= 0:
            listener.close()


def is_answered(address: net.Address) -> bool:
    stream = connecting.connect(address, 5)
    try:
        stream.write(b"ping")
        return stream.recv() == b"ping"
    finally:
        stream.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_tcp_is_spoken_over_both_ips(echo_at, host):
    listener = echo_at((host, 0))[0]
    assert is_answered((host, listener.sock.getsockname()[1]))


@pytest.mark.parametrize("everywhere", ["", "*"])
def test_every_interface_is_ipv4_and_ipv6(echo_at, everywhere):
    port = free_port()
    echo_at((everywhere, port))
    assert is_answered(("127.0.0.1", port))
    assert is_answered(("::1", port))


def test_a_unix_socket_has_its_mode_and_is_gone_afterwards(echo_at, tmp_path):
    address = (str(tmp_path), 7777)
    path = tmp_path / ".s.PGSQL.7777"
    listener = echo_at(address, 0o740)[0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o740
    assert is_answered(address)
    listener.close()
    assert not path.exists()


def test_a_unix_socket_that_was_left_behind_is_replaced(echo_at, tmp_path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / ".s.PGSQL.7777"))
    left.close()
    echo_at((str(tmp_path), 7777))
    assert is_answered((str(tmp_path), 7777))


def test_a_unix_socket_that_is_in_use_is_left_alone(echo_at, tmp_path):
    echo_at((str(tmp_path), 7777))
    with pytest.raises(OSError, match="in use"):
        listening.listen((str(tmp_path), 7777), 0o777)
    assert is_answered((str(tmp_path), 7777))


def test_a_peer_says_where_it_comes_from(pair, tcp):
    assert ends.peer_address(pair[0]) == (None, None, os.getuid())
    stream, peer = tcp
    assert ends.peer_address(stream) == (*peer.getsockname(), None)


@pytest.mark.parametrize("address", [("127.0.0.1", 1), ("/nowhere", 5432), ("no.such.host.invalid", 5432)])
def test_a_server_that_cannot_be_reached_is_named_with_the_reason(address):
    with pytest.raises(ServerUnreachable, match=net.show_address(address)) as raised:
        connecting.connect(address, 5)
    assert raised.value.sqlstate == "08006"
    assert not raised.value.message.endswith(": ")


def test_a_server_that_takes_no_connection_is_given_up_in_time(tmp_path):
    """connect() on a Unix socket with a full backlog says EAGAIN, and the socket then looks writable."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / ".s.PGSQL.5432"))
    server.listen(0)
    taken = []
    with pytest.raises(ServerUnreachable, match="no answer within"):
        while len(taken) < 5:
            taken += [connecting.connect((str(tmp_path), 5432), 0.05)]
    for stream in taken:
        stream.close()
    server.close()


def test_a_server_that_takes_the_connection_late_is_waited_for(tmp_path):
    server = green.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / ".s.PGSQL.5432"))
    server.listen(0)
    streams = []

    def connect() -> None:
        streams.append(connecting.connect((str(tmp_path), 5432), 30))

    callers = [gevent.spawn(connect) for _ in range(4)]
    gevent.sleep(0.03)
    for _ in callers:
        with gevent.Timeout(30):
            peer, _ = server.accept()
        peer.sendall(b"welcome")
        peer.close()
    gevent.joinall(callers, timeout=30, raise_error=True)
    assert [stream.recv() for stream in streams] == [b"welcome"] * 4
    for stream in streams:
        stream.close()
    server.close()


def test_a_burst_of_connections_is_accepted_in_more_than_one_turn(echo_at):
    listener = echo_at(("127.0.0.1", 0))[0]
    streams = [green.create_connection(listener.sock.getsockname()) for _ in range(listening.ACCEPTS_PER_TURN + 10)]
    for stream in streams:
        stream.sendall(b"ping")
    assert {stream.recv(10) for stream in streams} == {b"ping"}
    for stream in streams:
        stream.close()


def test_its_repr_says_whether_it_is_open_and_what_it_still_has_to_send(pair):
    stream, _ = pair
    stream.write(bytes(3_000_000))
    assert stream.pending > 0
    assert repr(stream) == f"<Stream fd={stream.sock.fileno()} pending={stream.pending}>"
    stream.close()
    assert repr(stream) == "<Stream closed pending=0>"


# --- what the kernel knows of a connection ---------------------------------------------------------------------------


def test_a_tcp_connection_tells_its_own_address_and_since_when_it_is_quiet(tcp):
    stream, peer = tcp
    assert ends.own_address(stream) == peer.getpeername()
    wait_until(lambda: min(ends.quiet_s(stream)) > 0.05)
    peer.sendall(b"x")
    stream.recv()
    sent_s, received_s = ends.quiet_s(stream)
    assert received_s < sent_s
    stream.close()
    assert ends.own_address(stream) == ends.quiet_s(stream) == (None, None)


def test_a_unix_socket_tells_none_of_that(pair):
    stream, _ = pair
    assert ends.own_address(stream) == ends.quiet_s(stream) == (None, None)
