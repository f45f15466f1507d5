"""TLS on gevent's loop: handshakes by the hundred, records as few as can be, and every way to end."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
from cryptography.hazmat.primitives import serialization

from lib import config, net, tls, tlsfiles
from tests.certificates import Authority, Pair
from tests.loop_alarm import LoopAlarm

RECORD_HEAD = 5


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority) -> Pair:
    return authority.issue(kind="rsa")  # a signature takes half a millisecond


def settings(pair: Pair, **given: Any) -> config.Settings:
    own = {"client_tls_cert_file": str(pair.cert), "client_tls_key_file": str(pair.key)}
    return config.make({"admin_cnn": {"user": "u"}, "master": ("127.0.0.1", 5432), **own, **given})


@pytest.fixture(scope="module")
def identity(pair) -> tlsfiles.Identity:
    return tlsfiles.for_frontends(settings(pair)).made


class Peer:
    """The other end of a TlsStream: Python's ssl on memory, so that what is on the wire can be looked at."""

    def __init__(self, sock: socket.socket, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.wire = b""  # all that has come, as it was on the wire

    def _do(self, what: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                done = what(*args)
                self.flush()
                return done
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                if not data:
                    raise EOFError from None
                self.wire += data
                self.incoming.write(data)

    def flush(self) -> None:
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())

    def shake_hands(self) -> None:
        self._do(self.tls.do_handshake)

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.flush()

    def read(self, size: int) -> bytes:
        said = b""
        while len(said) < size:
            part = self._do(self.tls.read, size - len(said))
            if not part:
                break
            said += part
        return said

    def records(self) -> int:
        """How many have come since this was asked last."""
        count, wire = 0, self.wire
        while wire:
            wire = wire[RECORD_HEAD + int.from_bytes(wire[3:5], "big") :]
            count += 1
        self.wire = b""
        return count


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def met(request, identity) -> Iterator[tuple[tls.TlsStream, Peer]]:
    ours, theirs = socket.socketpair()
    peer = Peer(gevent.socket.socket(fileno=theirs.detach()), request.param)
    accepting = gevent.spawn(tls.accept, net.Stream(ours), identity)
    peer.shake_hands()
    stream = accepting.get(timeout=30)
    peer.records()
    yield stream, peer
    stream.close()
    peer.sock.close()


def test_what_is_written_is_read_on_both_sides(met):
    stream, peer = met
    for size in (1, 100, 16_384, 16_385, 200_000):
        data = bytes(range(256)) * (size // 256 + 1)
        reading = gevent.spawn(peer.read, len(data))
        stream.write(data)
        assert reading.get(timeout=30) == data
        sending = gevent.spawn(peer.send, data)
        assert stream.recv_exactly(len(data)) == data
        sending.get(timeout=30)


def test_what_is_written_later_in_one_turn_is_one_record(met):
    stream, peer = met
    for number in range(10):
        stream.write_later(b"part %d, " % number)
    stream.write(b"end")
    assert peer.read(83) == b"".join(b"part %d, " % number for number in range(10)) + b"end"
    assert peer.records() == 1


def test_what_is_written_leaves_at_once(met):
    stream, peer = met
    stream.write(b"now")
    assert stream.pending == 0
    assert peer.read(3) == b"now"


def test_pending_counts_what_the_kernel_has_not_taken_and_waiting_for_it_ends(met):
    stream, peer = met
    big = bytes(3_000_000)
    stream.write(big)
    assert 1_000_000 < stream.pending < 3_100_000
    reading = gevent.spawn(peer.read, len(big))
    stream.wait_drained()
    assert stream.pending == 0
    assert reading.get(timeout=30) == big


def test_what_arrives_is_shown_before_the_thread_is_woken(met):
    stream, peer = met
    shown = []
    reading = gevent.spawn(stream.recv, lambda data: shown.append(data) if data != b"wake" else data)
    peer.send(b"one")
    peer.send(b"two")
    gevent.sleep(0.01)
    peer.send(b"wake")
    assert reading.get(timeout=30) == b"wake"
    assert b"".join(shown) == b"onetwo"


def test_a_record_that_is_cut_is_waited_for(met):
    stream, peer = met
    peer.tls.write(b"a whole message")
    sealed = peer.outgoing.read()
    reading = gevent.spawn(stream.recv)
    for position in range(len(sealed)):
        peer.sock.sendall(sealed[position : position + 1])
        gevent.sleep(0)
    assert reading.get(timeout=30) == b"a whole message"


def test_a_goodbye_is_the_end_though_the_connection_stands(met):
    stream, peer = met
    with suppress(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.flush()
    with gevent.Timeout(30):
        assert stream.recv() == b""


def test_what_came_in_front_of_a_goodbye_is_read_first(met):
    stream, peer = met
    peer.tls.write(b"last words")
    with suppress(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.flush()
    with gevent.Timeout(30):
        assert (stream.recv(), stream.recv()) == (b"last words", b"")


def test_it_is_known_without_reading_that_the_peer_has_gone(met):
    stream, peer = met
    peer.send(b"unread")
    assert not stream.has_ended()
    with suppress(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.flush()
    peer.sock.close()
    gevent.sleep(0)
    assert stream.has_ended()
    with gevent.Timeout(30):
        assert (stream.recv(), stream.recv()) == (b"unread", b"")


def test_closing_says_goodbye_and_lets_the_reader_go(met):
    stream, peer = met
    reading = gevent.spawn(stream.recv)
    gevent.sleep(0)
    stream.close()
    assert reading.get(timeout=30) == b""
    assert peer.read(1) == b""  # close_notify; a connection that just ends raises
    stream.write(b"nobody gets this")
    stream.write_later(b"nor this")
    gevent.sleep(0)


def test_a_connection_that_is_cut_is_the_end(met):
    stream, peer = met
    peer.sock.close()
    with gevent.Timeout(30):
        assert stream.recv() == b""
    stream.write(b"into the void")
    stream.write(b"and again")


def test_bytes_that_are_no_record_are_the_end(met):
    stream, peer = met
    peer.sock.sendall(b"this is not TLS at all")
    with gevent.Timeout(30):
        assert stream.recv() == b""
    stream.write(b"the answer to that")


def test_what_comes_with_the_last_step_of_the_handshake_is_not_left_lying(identity):
    ours, theirs = socket.socketpair()
    peer = Peer(gevent.socket.socket(fileno=theirs.detach()))
    accepting = gevent.spawn(tls.accept, net.Stream(ours), identity)
    with suppress(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.flush()
    while True:
        peer.incoming.write(peer.sock.recv(65536))
        try:
            peer.tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
    peer.tls.write(b"hello")
    peer.flush()  # both at once
    with gevent.Timeout(30):
        stream = accepting.get()
        assert stream.recv() == b"hello"
    stream.close()
    peer.sock.close()


def test_its_repr_says_what_it_is(met):
    stream, _ = met
    assert repr(stream) == f"<TlsStream {stream._tls.version()} fd={stream.sock.fileno()} pending=0>"
    stream.close()
    assert "closed" in repr(stream)


def test_the_loop_goes_on_while_200_shake_hands(identity):
    pairs = [socket.socketpair() for _ in range(200)]
    peers = [Peer(gevent.socket.socket(fileno=theirs.detach())) for _, theirs in pairs]
    with LoopAlarm() as alarm:
        accepting = [gevent.spawn(tls.accept, net.Stream(ours), identity) for ours, _ in pairs]
        # The clients' part is done in threads, for it is not what is looked at here.
        threads = gevent.get_hub().threadpool
        for peer in peers:
            with suppress(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            peer.flush()
            gevent.sleep(0)
        for peer in peers:
            peer.incoming.write(peer.sock.recv(65536))
            threads.apply(peer.tls.do_handshake)
            peer.flush()
        streams = [each.get(timeout=60) for each in accepting]
    assert alarm.worst_ms < 20, alarm.explain()
    assert all(stream.is_encrypted for stream in streams)
    for stream, peer in zip(streams, peers, strict=True):
        stream.close()
        peer.sock.close()


# --- files -----------------------------------------------------------------------------------------------------------


def test_text_between_certificates_may_be_in_any_encoding(authority):
    pair = authority.issue()
    before = tlsfiles.for_frontends(settings(pair)).made.binding
    pair.cert.write_bytes("für Jürgen\n".encode("latin-1") + pair.cert.read_bytes())
    assert tlsfiles.for_frontends(settings(pair)).made.binding == before


def test_files_that_change_are_read_again_and_bad_ones_are_not_used(authority, caplog):
    pair = authority.issue(name="watched")
    watched = tlsfiles.for_frontends(settings(pair))
    first = watched.made
    watched.look()
    assert watched.made is first
    pair.key.write_text("nothing of that kind")
    watched.look()
    watched.look()
    assert watched.made is first
    assert sum("nothing changes" in record.message for record in caplog.records) == 1
    authority.issue(name="watched")
    watched.look()
    assert watched.made is not first and watched.made.binding != first.binding
    pair.cert.unlink()
    watched.look()
    assert "No such file" in caplog.text


@pytest.mark.parametrize("what", ["certificate", "key", "authorities", "another key", "passphrase"])
def test_what_cannot_be_used_is_named(authority, tmp_path, what):
    pair, bad = authority.issue(), tmp_path / "bad.pem"
    bad.write_text("bad")
    given: dict[str, Path] = {"client_tls_cert_file": pair.cert, "client_tls_key_file": pair.key}
    if what == "authorities":
        given["client_tls_ca_file"] = bad
    elif what == "another key":
        given["client_tls_key_file"] = authority.issue().key
    elif what == "passphrase":
        key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
        locked = serialization.BestAvailableEncryption(b"nobody is asked for it")
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        bad.write_bytes(key.private_bytes(pem, form, locked))
        given["client_tls_key_file"] = bad
    else:
        given[f"client_tls_{'key' if what == 'key' else 'cert'}_file"] = bad
    with pytest.raises(tlsfiles.FilesUnusable) as raised:
        tlsfiles.for_frontends(settings(pair, **{name: str(path) for name, path in given.items()}))
    assert str(given["client_tls_key_file"]) in str(raised.value) or "bad.pem" in str(raised.value)
