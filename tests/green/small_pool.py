"""A pool in the process of the test: lib.backend and lib.frontend between fake servers and clients on socket pairs."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gevent
from gevent import socket as green

from lib import config, net
from lib.backend import tuning
from lib.backend.cluster import Cluster
from lib.backend.groups import Group
from lib.backend.roster import Roster
from lib.backend.worker import State, Worker
from lib.frontend import Frontend
from lib.route import Catalog
from lib.route.catalog import CHANGED_SQL
from tests.green.fake_server import FakeBackend, FakeServer
from tests.pooler import EVERYWHERE
from tests.wire_samples import query
from tests.workplace import PATIENCE_S


def tuned(group: Group) -> str:
    """The SQL that tunes a bare worker to `group`."""
    return tuning.retune((), group.settings)


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"{what} did not come true in {PATIENCE_S:g} s"
        gevent.sleep(0.001)


class Message(NamedTuple):
    tag: str
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        """Of an ErrorResponse or NoticeResponse, by their one-letter code."""
        return {part[:1].decode(): part[1:].decode() for part in self.body.split(b"\0") if part}


class Answer(list[Message]):
    """The messages up to a ReadyForQuery, or to the end."""

    @property
    def tags(self) -> str:
        return "".join(each.tag for each in self)

    @property
    def rows(self) -> list[str]:
        """The text in the only column of every row."""
        return [each.body[6:].decode() for each in self if each.tag == "D"]

    @property
    def errors(self) -> list[str]:
        """Severity and SQLSTATE of every ErrorResponse."""
        return [f"{each.fields['V']} {each.fields['C']}" for each in self if each.tag == "E"]

    @property
    def status(self) -> str:
        return self[-1].body.decode() if self and self[-1].tag == "Z" else ""

    @property
    def raw(self) -> bytes:
        return b"".join(each.tag.encode() + struct.pack("!I", len(each.body) + 4) + each.body for each in self)


class Client:
    """A client on a socket of gevent's: of a frontend, or of a server itself."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def serve(self, frontend: Frontend, pool: SmallPool) -> None:
        """Have `frontend`, at the other end, served by `pool`."""
        self.frontend, self.pool = frontend, pool
        self.thread = gevent.spawn(frontend.serve)

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def read(self) -> Message | None:
        """The next message; None at the end."""
        with gevent.Timeout(PATIENCE_S, TimeoutError("no message came")):
            while len(self._buffer) < 5 or len(self._buffer) < 1 + struct.unpack_from("!I", self._buffer, 1)[0]:
                try:
                    data = self.sock.recv(1 << 16)
                except ConnectionResetError:
                    data = b""
                if not data:
                    assert not self._buffer, f"a message was cut: {self._buffer[:40]!r}"
                    return None
                self._buffer += data
        end = 1 + struct.unpack_from("!I", self._buffer, 1)[0]
        found = Message(chr(self._buffer[0]), bytes(self._buffer[5:end]))
        del self._buffer[:end]
        return found

    def _messages(self) -> Iterator[Message]:
        for number in itertools.count(1):
            found = self.read()
            if found is None:
                return
            yield found
            if number % 20 == 0:
                gevent.sleep(0)  # what has arrived is read without a turn of the loop

    def until_ready(self) -> Answer:
        return self.until("Z")

    def until(self, tag: str) -> Answer:
        """The messages up to the next one of type `tag`."""
        answer = Answer()
        for found in self._messages():
            answer.append(found)
            if found.tag == tag:
                return answer
        raise AssertionError(f"the connection ended behind {answer.tags!r} {answer.errors}")

    def until_end(self) -> Answer:
        return Answer(self._messages())

    def query(self, statement: str) -> Answer:
        self.send(query(statement))
        return self.until_ready()

    def hears_nothing(self) -> bool:
        """Whether nothing has come that was not read, now that all that was on its way has arrived."""
        with gevent.Timeout(0.01, False):
            self._buffer += self.sock.recv(1 << 16)
        return not self._buffer

    def vanish(self, *, reset: bool = False) -> None:
        """Close without a Terminate."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class SmallPool:
    """A cluster of fake servers, the first of them the primary, with the sweep that a process makes.

    logins   how many backends were asked for (what they prove who they are with is asked for each)
    """

    def __init__(self, *servers: FakeServer, **settings: Any) -> None:
        given = {"admin_cnn": {"user": "postgres"}, "master": servers[0].address, "login_retry": 0.01}
        given["slaver"] = [server.address for server in servers[1:]]
        self.servers = servers
        self.server = servers[0]
        self.settings = config.make(given | EVERYWHERE | settings)
        self.clients: list[Client] = []
        self.logins = 0
        self.cluster = Cluster(self.settings, self._answer_for, self._query)
        self._sweep = gevent.spawn(self._sweep_often)

    def _answer_for(self, _login: Any) -> Callable[[bytes], None]:
        self.logins += 1
        return lambda _raw: None

    @staticmethod
    def _query(_address: Any, _database: str, sql: str) -> list[tuple]:
        return [("1",)] if sql == CHANGED_SQL else []  # a catalog with nothing of the user's in it

    def _sweep_often(self) -> None:
        while True:
            self.cluster.sweep(time.monotonic())
            gevent.sleep(0.005)

    def connect(self, may_use_standbys: bool = True, user: str = "app", **parameters: str) -> Client:
        """A frontend that has been let in."""
        packet, settings = tuning.split(parameters.items())
        login = self.cluster.login(user, "shop", packet)
        group = self.cluster.group(login, settings)
        wait_until(lambda: self.cluster.router("shop").catalog != Catalog.unknown(), "the scan of the catalog")
        ours, theirs = socket.socketpair()
        key = (len(self.clients) + 1, b"four")
        frontend = Frontend(net.Stream(ours), self.cluster, group, key, "a test", may_use_standbys)
        login.frontends += 1
        group.frontends.add(frontend)
        client = Client(green.socket(fileno=theirs.detach()))
        client.serve(frontend, self)
        client.thread.link(lambda _: self._has_left(frontend))
        self.clients.append(client)
        return client

    @staticmethod
    def _has_left(frontend: Frontend) -> None:
        frontend.group.login.frontends -= 1
        frontend.group.frontends.discard(frontend)

    @property
    def rosters(self) -> list[Roster]:
        return [roster for pool in self.cluster.pools for roster in pool.rosters.values()]

    @property
    def workers(self) -> list[Worker]:
        return [worker for roster in self.rosters for worker in roster.workers]

    @property
    def idle(self) -> list[Worker]:
        return [worker for roster in self.rosters for worker in roster.idle]

    def settle(self) -> None:
        """Everybody leaves; then every worker is idle, or closed, and nothing of anybody is left (design, rule 4)."""
        for client in self.clients:
            client.vanish()
        gevent.joinall([client.thread for client in self.clients], timeout=PATIENCE_S, raise_error=True)
        for server in self.servers:
            server.may_close.set()
            for backend in server.backends:
                if not backend.is_gone:
                    backend.go_on()
        wait_until(lambda: all(worker.state is State.IDLE for worker in self.workers), f"idle: {self.workers}")
        for roster in self.rosters:
            assert sorted(map(id, roster.idle)) == sorted(map(id, roster.workers)), roster
            assert not [unit for unit in roster.waiting if unit.is_wanted], roster
        for worker in self.workers:
            assert not worker.in_flight
            assert worker.holder is None
            assert not worker.session

    def close(self) -> None:
        self._sweep.kill()
        self.cluster.close()
        for server in self.servers:
            server.stop()


def begun(pool: SmallPool, statement: str) -> FakeBackend:
    """The backend that runs `statement`, which stalls."""
    found: list[FakeBackend] = []

    def is_waiting() -> bool:
        backends = (backend for server in pool.servers for backend in server.backends)
        found[:] = [each for each in backends if each.is_waiting and each.statements[-1:] == [statement]]
        return bool(found)

    wait_until(is_waiting, f"a backend with {statement!r}")
    return found[0]


def in_transaction(pool: SmallPool) -> Client:
    client = pool.connect()
    assert client.query("begin").status == "T"
    return client


def backend_behind(pool: SmallPool, worker: Worker) -> FakeBackend:
    """The server's side of a worker."""
    server = next(each for each in pool.servers if each.address == worker.roster.address)
    return next(each for each in server.backends if each.pid == worker.key[0])


def lose(client: Client) -> None:
    """The frontend's worker loses its backend while nothing is in flight."""
    worker = client.frontend.worker
    assert worker is not None
    backend_behind(client.pool, worker).hang_up()
    wait_until(lambda: client.frontend.worker is None, "the loss")
