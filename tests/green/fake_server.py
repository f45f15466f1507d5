"""A PostgreSQL that is only bytes: it says what a test wants when the test wants it, for what a real one cannot do.

It speaks enough of both query protocols to be a backend: a statement is answered with one row that holds its own text,
so that an answer shows whose it is; BEGIN, COMMIT, COPY, settings and errors are what they are in a server. Whatever
else a statement should do is in `FakeServer.answers`, by its text.

source: protocol-flow.html
"""

from __future__ import annotations

import itertools
import re
import socket
import struct
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.server import StreamServer

from tests.wire_samples import built, complaint, complete, description, i16, i32, parameter, ready, row
from tests.workplace import free_port

CANCEL_CODE = 80877102
REPORTED = ("application_name",)  # of the settings, those that are told when they change
GREETING = built("R", i32(0)) + parameter("server_version", "15.0") + parameter("application_name", "")
SYNTAX_ERROR = complaint("ERROR", "42601", "syntax error")
TERMINATED = complaint("FATAL", "57P01", "terminating connection due to administrator command")
_SET = re.compile(r"set_config\(E?'([^']*)', E?'((?:[^']|'')*)'")
_UNSET = re.compile(r"set_config\('([^']*)', NULL")
_ASKED = re.compile(r"\('([^']*)', pg_catalog\.encode")
_ENDS = ("commit", "end", "rollback", "abort")
# What the pool says by itself.
_OWN = ("SET SESSION AUTHORIZATION DEFAULT", "DISCARD ALL", "ROLLBACK", "SELECT pg_cat", "SELECT * FROM (VALUES ")

Answer = bytes | Callable[["FakeBackend"], None]


class HungUp(Exception):
    """The backend is gone."""


class FakeServer:
    """Listens on 127.0.0.1.

    answers      by statement text: bytes in the place of its answer (before ReadyForQuery), or what is called for it
    parses       the same for a Parse of it; what is called for it has hung up when it comes back
    backends     all that have logged in, those that are gone included
    statements   what frontends had run here, on whatever backend, in order of time
    cancelled    (pid, secret) of every CancelRequest
    may_close    cleared by a test that wants to keep cancel connections open
    refusal      an ErrorResponse in the place of AuthenticationOk
    silent       a login is not answered at all
    greeting     what a login is answered with in the place of all that belongs there; then the connection is closed
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.parses: dict[str, Answer] = {}
        self.backends: list[FakeBackend] = []
        self.statements: list[str] = []
        self.cancelled: list[tuple[int, bytes]] = []
        self.may_close = Event()
        self.may_close.set()
        self.refusal: bytes | None = None
        self.silent = False
        self.greeting: bytes | None = None
        # Not a port that the kernel chooses: an outgoing connection could have it while this server is down.
        self.address = ("127.0.0.1", free_port())
        self._server = StreamServer(self.address, self._serve)
        self._server.start()

    def _serve(self, sock: Any, _address: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        backend = FakeBackend(self, sock)
        try:
            if backend.log_in():
                self.backends.append(backend)
                backend.serve()
        except (HungUp, OSError):
            pass
        finally:
            backend.is_gone = True
            sock.close()

    def stall(self, statement: str) -> None:
        """Have `statement` answer when the test says so: see FakeBackend.go_on."""
        self.answers[statement] = FakeBackend.wait

    def stop(self) -> None:
        """No new connections; those that are there are cut."""
        self._server.stop(timeout=0.1)

    def go_down(self) -> None:
        """Connections are refused and cut until come_up()."""
        self._server.close()
        for backend in self.backends:
            if not backend.is_gone:
                backend.hang_up()

    def come_up(self) -> None:
        self._server = StreamServer(self.address, self._serve)
        self._server.start()


class FakeBackend:
    """One connection.

    received     types of the messages that came after the startup packet, as a str
    everything   all bytes that came after it
    statements   texts that frontends had run, in order
    own          texts that the pool had run on its own account
    status       I, T or E
    """

    def __init__(self, server: FakeServer, sock: Any) -> None:
        self.server = server
        self.sock = sock
        self.pid = 1000 + len(server.backends)
        self.secret = struct.pack("!I", self.pid * 7)
        self.received = ""
        self.everything = bytearray()
        self.statements: list[str] = []
        self.own: list[str] = []
        self.status = "I"
        self.settings: dict[str, str] = {}
        self.is_gone = False
        self.is_waiting = False
        self.copied = bytearray()
        self._buffer = bytearray()
        self._go = Event()
        self._copy: str | None = None  # the protocol of the COPY that is under way: Q or E
        self._skipping = False
        self._prepared: dict[str, str] = {}
        self._portals: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<FakeBackend {self.pid} {self.status} {self.statements}{' gone' if self.is_gone else ''}>"

    # --- for tests ---------------------------------------------------------------------------------------------------

    def say(self, *parts: bytes) -> None:
        """Send, whoever asked for it."""
        self.sock.sendall(b"".join(parts))

    def go_on(self) -> None:
        """Let the statement that is stalled go on: it answers with its text."""
        self._go.set()

    def wait(self) -> None:
        """For `answers`: answer with the text, but not before go_on()."""
        self.pause()
        self.say(echo(self.statements[-1]))

    def pause(self) -> None:
        """For `answers`: read and say nothing before go_on()."""
        self.is_waiting = True
        self._go.wait()
        self._go.clear()
        self.is_waiting = False

    def hang_up(self, *, reset: bool = False) -> None:
        """Close without a word, with a FIN or an RST."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.sock.shutdown(socket.SHUT_RDWR)
        self.is_gone = True
        self.sock.close()

    def die(self, *parts: bytes, reset: bool = False) -> None:
        """For `answers`: say `parts`, and hang up."""
        self.say(*parts)
        self.hang_up(reset=reset)
        raise HungUp

    # --- login -------------------------------------------------------------------------------------------------------

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.sock.recv(1 << 16)
            if not data:
                raise HungUp
            self._buffer += data
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    def log_in(self) -> bool:
        """Answer the startup packet, or take a CancelRequest; whether this is a backend now."""
        packet = self._exactly(struct.unpack("!I", self._exactly(4))[0] - 4)
        if struct.unpack_from("!I", packet)[0] == CANCEL_CODE:
            self.server.cancelled.append((struct.unpack_from("!I", packet, 4)[0], packet[8:]))
            self.server.may_close.wait()
            return False
        if self.server.silent:
            self._exactly(1)
        if self.server.refusal is not None:
            self.say(self.server.refusal)
            return False
        if self.server.greeting is not None:
            self.say(self.server.greeting)
            return False
        self.say(GREETING, built("K", i32(self.pid), self.secret), ready())
        return True

    # --- statements --------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        for number in itertools.count(1):
            if number % 20 == 0:
                gevent.sleep(0)  # what has arrived is read without a turn of the loop
            head = self._exactly(5)
            body = self._exactly(struct.unpack_from("!I", head, 1)[0] - 4)
            self.received += chr(head[0])
            self.everything += head + body
            if head[:1] == b"X":
                return
            self._take(chr(head[0]), body)

    def _take(self, tag: str, body: bytes) -> None:
        if self._copy:
            self._take_copy(tag, body)
        elif self._skipping and tag != "S":
            return
        elif tag in ("Q", "F"):
            self._run(body[:-1].decode() if tag == "Q" else "function call", "Q")
            if not self._copy:
                self._end("ready")
        elif tag in "PBDEC":
            self._extended(tag, body)
        elif tag == "S":
            self._skipping = False
            self._end("ready")

    def _end(self, how: str) -> None:
        if how == "failed":
            self.status = "E" if self.status != "I" else "I"
        else:
            self.say(ready(self.status))

    def _extended(self, tag: str, body: bytes) -> None:
        words = body.split(b"\0")
        if tag == "P":
            text = words[1].decode()
            answer = self.server.parses.get(text)
            if callable(answer):
                answer(self)
            elif answer is not None:
                self._fail(answer, "E")
            else:
                self._prepared[words[0].decode()] = text
                self.say(built("1"))
        elif tag == "B":
            name = words[1].decode()
            if name not in self._prepared:
                self._fail(complaint("ERROR", "26000", f'prepared statement "{name}" does not exist'), "E")
                return
            self._portals[words[0].decode()] = self._prepared[name]
            self.say(built("2"))
        elif tag == "D":
            self.say(built("t", i16(0)) if body[:1] == b"S" else b"", description("text"))
        elif tag == "E":
            self._run(self._portals[words[0].decode()], "E")
        else:
            self._prepared.pop(words[0][1:].decode(), None)
            self.say(built("3"))

    def _fail(self, error: bytes, protocol: str) -> None:
        self.say(error)
        self._end("failed")
        self._skipping = protocol == "E"

    def _run(self, statement: str, protocol: str) -> None:
        is_own = statement.startswith(_OWN)
        (self.own if is_own else self.statements).append(statement)
        if not is_own:
            self.server.statements.append(statement)
        answer = self.server.answers.get(statement)
        if callable(answer):
            answer(self)
        elif answer is not None:
            if answer[:1] == b"E":
                self._fail(answer, protocol)
            else:
                self.say(answer)
        elif statement.startswith("copy") and "from stdin" in statement:
            self._copy = protocol
            self.say(built("G", b"\0", i16(0)))
        elif self.status == "E" and statement.lower() not in _ENDS:
            self._fail(complaint("ERROR", "25P02", "current transaction is aborted"), protocol)
        elif _ASKED.search(statement):
            self.tell_settings(statement)
        elif is_own or statement.split()[:1] in (["begin"], ["set"], ["reset"], *([word] for word in _ENDS)):
            self._session(statement, protocol)
        else:
            self.say(echo(statement, protocol))

    def tell_settings(self, statement: str) -> None:
        names = _ASKED.findall(statement)
        rows = (row(name, self.settings[name].encode().hex() if name in self.settings else None) for name in names)
        self.say(description("name", "value"), *rows, complete(f"SELECT {len(names)}"))

    def _session(self, statement: str, protocol: str) -> None:
        before = dict(self.settings)
        word = statement.split()[0].lower()
        if word == "begin":
            self.status = "T"
        elif word in _ENDS:
            self.status = "I"
        elif statement.startswith(("SET SESSION AUTHORIZATION", "DISCARD ALL")):
            self.settings.clear()
        elif word == "set":
            self.settings[statement.split()[1]] = statement.split()[3].strip("'")
        elif word == "reset":
            self.settings.pop(statement.split()[1], None)
        self.settings.update(_SET.findall(statement))
        for name in _UNSET.findall(statement):
            self.settings.pop(name, None)
        for name in REPORTED:
            if before.get(name) != self.settings.get(name):
                self.say(parameter(name, self.settings.get(name, "")))
        self.say(complete(word.upper()))

    def _take_copy(self, tag: str, body: bytes) -> None:
        protocol = self._copy or ""
        if tag == "d":
            self.copied += body
            return
        if tag in "SH":
            return
        self._copy = None
        if tag == "c":
            self.say(complete("COPY 1"))
        else:
            self._fail(complaint("ERROR", "57014", "COPY from stdin failed"), protocol)
        if protocol == "Q":
            self._end("ready")


def echo(statement: str, protocol: str = "Q") -> bytes:
    """The answer to a statement: one row with its text."""
    return (description("text") if protocol == "Q" else b"") + row(statement) + complete("SELECT 1")
