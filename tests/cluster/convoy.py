"""Many frontends whose statements go to one backend at the same time: a head, and riders that must not wait for it.

Every statement has its frontend's own literal in it, so that an answer shows whose it is. Whether riders did ride is
seen on the server: while its backend is stuck in the head, their bytes lie unread in the backend's socket.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import psycopg2

from tests import roles
from tests.cluster import rawclient
from tests.cluster.rawclient import Answer, Raw
from tests.servers import Pooler, Server
from tests.workplace import PATIENCE_S, TookTooLong, wait_until

RIDERS = 31
SOON_S = 5.0  # within which riders answer on a machine that has other things to do, too; what is wanted is WANTED_S
WANTED_S = 0.2
RUNS_TO_LEARN = 40  # after so many quick runs of a shape the pool takes it for quick
PADDING = "." * 400  # of all riders together more than a backend reads at once
_ATTEMPTS = 25  # nobody rides behind a head of 10 ms, which on a busy machine are over before the riders are there
_numbers = itertools.count(1)

SCHEMA = """
    create table quick (id int primary key, word text); insert into quick values (1, 'one'), (2, 'two');
    create table rows (id text primary key, number int default 0); insert into rows values ('hot');
    grant all on quick, rows to public
"""
CONF = {
    "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "worker_min_cnt": [2] * 300, "max_workers": 12,
    "login_retry": 0.02,
    "rider_limit": 0.01,  # on a busy machine a quick read often takes longer than the usual millisecond
}  # fmt: skip


class Place:
    """A server of some version with a pooler in front of it, and the tables of SCHEMA.

    rides   whether statements ride in this pooler
    """

    def __init__(self, server: Server, pooler: Pooler, rides: bool) -> None:
        self.server = server
        self.pooler = pooler
        self.rides = rides
        self.version = int(server.query("show server_version_num")[0][0]) // 10000
        self._watcher: psycopg2.extensions.connection | None = None

    @classmethod
    @contextmanager
    def open(cls, version: int, rides: bool, **conf: Any) -> Iterator[Self]:
        with Server(f"riders{version}", version=version, hba=roles.hba_lines(), max_connections=200) as server:
            roles.create(server)
            server.query(SCHEMA, dbname=roles.DATABASE)
            own = {"master": (server.host, server.port), "riders": rides}
            with Pooler({**CONF, **own, **conf}, name=f"riders{version}") as pooler:
                place = cls(server, pooler, rides)
                yield place
                place.forget()
            assert "Traceback" not in pooler.log, pooler.log
            assert "answered with status" not in pooler.log, pooler.log

    def forget(self) -> None:
        """Close the connection of `look`."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    def connect(self, **params: Any) -> Raw:
        return Raw(self.pooler.host, self.pooler.port, **params)

    def look(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        """Ask the server itself, on a connection that is kept."""
        if self._watcher is None:
            self._watcher = self.server.connect(dbname=roles.DATABASE)
            self._watcher.autocommit = True
        with self._watcher.cursor() as cursor:
            cursor.execute(sql, args)
            return cursor.fetchall() if cursor.description else []

    def crash(self, pid: int) -> None:
        """Kill a backend, which takes all others with it, and wait until the server is up again."""
        logged = len(self.server.log)
        self.forget()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "ready to accept connections" in self.server.log[logged:], 30, "the server to be up")

    @contextmanager
    def locked(self, what: str = "lock quick in access exclusive mode") -> Iterator[None]:
        """A transaction that is not the pool's holds a lock."""
        connection = self.server.connect(dbname=roles.DATABASE)
        try:
            with connection.cursor() as cursor:
                cursor.execute(what)
            yield
        finally:
            connection.close()

    def running(self, text: str, waiting: str = "") -> tuple[int, int] | None:
        """The pid and the client's port of a backend that runs what has `text` in it.

        waiting   only one that waits for an event of this type
        """
        found = self.look(
            "select pid, client_port from pg_stat_activity where usename = %s and state = 'active' "
            "and position(%s in query) > 0 and (%s = '' or wait_event_type = %s)",
            roles.TRUST.name, text, waiting, waiting,
        )  # fmt: skip
        return found[0] if found else None

    def wait_running(self, text: str, waiting: str = "") -> tuple[int, int]:
        return wait_until(lambda: self.running(text, waiting), what=f"{text} to run")

    def ids(self) -> set[str]:
        return {name for (name,) in self.look("select id from rows where id <> 'hot'")}


def unread_bytes(server_port: int, client_port: int) -> int:
    """How many bytes wait in the socket of the backend at whose other end is this port."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if (_port(local), _port(remote)) == (server_port, client_port):
            return int(queues.partition(":")[2], 16)
    return 0


def _port(address: str) -> int:
    return int(address.partition(":")[2], 16)


class Flight:
    """What one frontend has sent, and when its answer was there.

    pool   where a thread reads the answer as it comes; None: nobody reads it before `answer` is called
    """

    def __init__(self, raw: Raw, rows: list[tuple[str | None, ...]] | None, pool: ThreadPoolExecutor | None) -> None:
        self.raw = raw
        self.rows = rows
        self.began = time.monotonic()
        self.took_s = 0.0
        self._future: Future[Answer] | None = pool.submit(self._read) if pool else None

    def _read(self) -> Answer:
        answer = self.raw.answer()
        self.took_s = time.monotonic() - self.began
        return answer

    @property
    def is_over(self) -> bool:
        return self._future is not None and self._future.done()

    def answer(self, timeout_s: float = PATIENCE_S) -> Answer:
        return self._future.result(timeout_s) if self._future else self._read()

    def check(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait for the answer, which is the right one."""
        answer = self.answer(timeout_s)
        assert answer.status == "I", answer
        assert not answer.errors, answer.errors
        assert answer.rows == self.rows, answer.rows


class Convoy:
    """A head and RIDERS frontends beside it, all in one group of the pool.

    riders      the frontends behind the head
    flights     what they have in flight
    unread      frontends whose answers nobody reads, but who is asked for them
    slowest_s   the longest that a rider of this convoy has waited for its answer so far
    """

    def __init__(self, place: Place, riders: int = RIDERS, **params: Any) -> None:
        self.place = place
        self._stack = ExitStack()
        self._params = params
        self._threads = self._stack.enter_context(ThreadPoolExecutor(riders + 1))
        self.head = self.connect()
        self.riders = [self.connect() for _ in range(riders)]
        self.flights: list[Flight] = []
        self.unread: set[Raw] = set()
        self.slowest_s = 0.0
        for raw in self.riders:
            _learn(raw, lambda way: way(f"select '{next(_numbers)}'"), RUNS_TO_LEARN // 4)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for flight in self.flights:
            if flight.raw not in self.unread and not flight.is_over:
                # After a failure: its thread must not wait for what never comes.
                flight.raw.sock.shutdown(socket.SHUT_RDWR)
        self._stack.close()

    def connect(self, **params: Any) -> Raw:
        return self._stack.enter_context(self.place.connect(**self._params, **params))

    def send(self, head: bytes, rows: list[tuple[str | None, ...]] | None = None) -> Flight:
        """All send at once: the head first, and then the riders, each for its own literal, half of them extended.

        rows   that the head must answer with
        """
        words = [f"{next(_numbers)}{PADDING}" for _ in self.riders]
        parts = [way(number)(f"select '{word}'") for number, word in enumerate(words)]
        self.head.send(head)
        for raw, part in zip(self.riders, parts, strict=True):
            raw.send(part)
        self.flights = [self._flight(raw, [(word,)]) for raw, word in zip(self.riders, words, strict=True)]
        return self._flight(self.head, rows)

    def _flight(self, raw: Raw, rows: list[tuple[str | None, ...]] | None) -> Flight:
        return Flight(raw, rows, None if raw in self.unread else self._threads)

    def answer_soon(self, within_s: float = SOON_S) -> None:
        """All riders have answered, each with its own, and none of them late."""
        for flight in self.flights:
            flight.check()
        took_s = [flight.took_s for flight in self.flights if flight.raw not in self.unread]
        self.slowest_s = max(self.slowest_s, *took_s)
        assert self.slowest_s < within_s, f"a rider waited for {self.slowest_s:.2f} s"

    @contextmanager
    def behind(
        self, head: str, rows: list[tuple[str | None, ...]] | None, *, quick: str | None = None,
        stuck: Callable[[], AbstractContextManager[None]] = nullcontext, waiting: str = "",
        build: Callable[[str], bytes] = rawclient.simple,
    ) -> Iterator[Stuck]:
        """A head that was quick whenever it ran, and is not now, with riders in flight on the same backend.

        head      with "{name}" for a name that makes a new shape of it: one that was caught slow rides no more
        rows      that it must answer with
        quick     the same shape, as it is learned; default: as it is sent
        stuck     what makes it slow, while it lasts
        waiting   the type of the event that the backend then waits for
        build     the message, or messages, of a text
        """
        for _ in range(_ATTEMPTS):
            name = f"c{next(_numbers)}"
            text = head.format(name=name)
            _learn(self.head, lambda _, name=name: build((quick or head).format(name=name)), RUNS_TO_LEARN)
            with stuck():
                flight = self.send(build(text), rows)
                pid, port = self.place.wait_running(name, waiting)
                if not self.place.rides or self._is_ridden(port):
                    yield Stuck(flight, pid, name)
                    return
            for each in [*self.flights, flight]:
                each.answer(60.0)
        raise AssertionError("nothing of the riders ever came to the backend of the head")

    def _is_ridden(self, port: int) -> bool:
        """Whether riders came to the backend of the head; else they are answered by others."""

        def is_decided() -> bool:
            others = [flight for flight in self.flights if flight.raw not in self.unread]
            return bool(unread_bytes(self.place.server.port, port)) or all(flight.is_over for flight in others)

        try:
            wait_until(is_decided, 5.0)
        except TookTooLong:
            return False
        return bool(unread_bytes(self.place.server.port, port))

    def ask_all(self) -> None:
        """Everybody can still ask, and is answered with its own."""
        for flight in [self.send(rawclient.simple("select 'head'"), [("head",)]), *self.flights]:
            flight.check()

    def ask_riders(self) -> None:
        for number, raw in enumerate(self.riders):
            assert raw.query(f"select {number}").rows == [(str(number),)]


class Stuck:
    """The head of a convoy on its backend."""

    def __init__(self, flight: Flight, pid: int, name: str) -> None:
        self.flight = flight
        self.pid = pid
        self.name = name


def way(number: int) -> Callable[[str], bytes]:
    """Simple and extended in turn."""
    return rawclient.extended if number % 2 else rawclient.simple


def _learn(raw: Raw, make: Callable[[Any], bytes], runs: int) -> None:
    for number in range(runs):
        raw.send(make(way(number)))
        answer = raw.answer()
        assert not answer.errors, answer.errors


class Meanwhile:
    """Something that is done again and again in a thread, until the end of the block, which raises what it raised."""

    def __init__(self, act: Callable[[], object], pause_s: float = 0.0) -> None:
        self._act = act
        self._pause_s = pause_s
        self._is_over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._is_over.wait(self._pause_s):
                self._act()
        except BaseException as error:
            self._error = error
