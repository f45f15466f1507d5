"""The pool's own questions to the servers, through admin_cnn: the only module that touches psycopg2.

Green outside, threads inside: psycopg2 runs in a small threadpool, so that the loop never waits for it. A connection is
kept per server, database and lane, used by one thread at a time, with a deadline for everything that it does, which
holds even for a server that is frozen and says nothing. Queries must name their schemas: search_path is pg_catalog.
"""

from __future__ import annotations

import logging
import os
import re
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gevent
import psycopg2
from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool
from psycopg2 import extensions

from lib.errors import AdminQueryFailed, PoolError, ServerUnreachable

log = logging.getLogger(__name__)

Address = tuple[str, int]
Args = Sequence[Any] | Mapping[str, Any] | None
Key = tuple[Address, str, str]

Ask = Callable[["_Link", float], Any]

_BLANK_OR_BACKSLASH = re.compile(r"[\s\\]")  # what separates or escapes in `options`

GRACE_S = 1.0  # the server's own statement_timeout comes first, for it also ends the statement there

# libpq shows what the server itself said as "SEVERITY:  message", in any language; all else is its own failure.
_SAID_BY_SERVER = re.compile(r"\S+: {2}(.+)")
_COMES_OR_GOES = "the database system is "  # starting up, shutting down, in recovery mode …


_LOOK_S = 0.1  # how often a thread that waits for a server sees whether anybody still wants its answer


class _TookTooLong(Exception):
    """A deadline passed in a thread, or nobody wants the answer any more."""


class _Link:
    """One connection and whose turn it is. The thread lock is for the case that a green thread gave up waiting."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.turn = BoundedSemaphore(1)
        self.lock = threading.Lock()
        self.connection: Any = None
        self.limit_s = 0.0  # the statement_timeout that was set
        self.is_forgotten = False  # its server is no concern any more: nobody waits for it
        self.used_at = time.monotonic()

    def __repr__(self) -> str:
        (host, port), database, lane = self.key
        return f"<Link {host}:{port} {database} {lane or '-'} {'open' if self.connection else 'closed'}>"

    def drop(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            try:
                connection.close()
            except psycopg2.Error:
                pass


def _for_libpq(params: dict[str, str]) -> dict[str, str]:
    """Parameters that are settings of the server (search_path, ...) go into `options`, where libpq passes them on."""
    known, settings = {}, []
    for name, value in params.items():
        try:
            extensions.make_dsn(**{name: value})
            known[name] = value
        except psycopg2.ProgrammingError:  # no connection option
            settings.append(f"-c {name}=" + _BLANK_OR_BACKSLASH.sub(r"\\\g<0>", value))
    if settings:
        known["options"] = " ".join([known.get("options", ""), *settings]).strip()
    return known


class Admin:
    """Runs queries on any server as the user of admin_cnn.

    params   admin_cnn: keywords of libpq without host and port; `database` is taken for `dbname`
    """

    def __init__(
        self, params: Mapping[str, Any], *, connect_timeout_s: float = 5.0, statement_timeout_s: float = 5.0,
        idle_timeout_s: float = 60.0, threads: int = 4,
    ) -> None:  # fmt: skip
        self._configure(params)
        self.connect_timeout_s = connect_timeout_s
        self.statement_timeout_s = statement_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self._links: dict[Key, _Link] = {}
        self._threads = ThreadPool(threads)
        self._sweeper: Any = None

    def become(self, params: Mapping[str, Any]) -> None:
        """Log in with these from now on; what is open is closed, when its query has ended."""
        self._configure(params)
        for key in list(self._links):
            self._threads.spawn(_drop, self._links.pop(key))

    def _configure(self, params: Mapping[str, Any]) -> None:
        self._params = _for_libpq({"dbname" if name == "database" else name: str(params[name]) for name in params})
        self.database = self._params.pop("dbname", "postgres")

    def __repr__(self) -> str:
        open_links = sum(link.connection is not None for link in self._links.values())
        return f"<Admin {self._params.get('user', '-')} connections={open_links}>"

    def query(
        self, address: Address, database: str | None, sql: str, args: Args = None, *, timeout_s: float | None = None,
        lane: str = "", repeatable: bool = True,
    ) -> list[tuple[Any, ...]]:  # fmt: skip
        """Run one text in autocommit and return its (last) result's rows; [] when it has none.

        address      (host, port); a host that begins with / is the directory of a Unix socket
        database     None for that of admin_cnn
        args         for %s or %(name)s in the text, as psycopg2 has them; without args, % is just %
        timeout_s    of the statement; default: statement_timeout_s
        lane         queries of different lanes do not wait for each other
        repeatable   may be run a second time when a connection that had been idle turns out to be broken
        raises       ServerUnreachable, AdminQueryFailed
        """
        link = self._link((address, database or self.database, lane))
        limit_s = self.statement_timeout_s if timeout_s is None else timeout_s
        with link.turn:
            # Errors come back as results, for gevent prints the traceback of whatever a thread raises.
            outcome = self._threads.apply(self._attempt, (link, _Statement(sql, args), limit_s, repeatable))
        if isinstance(outcome, PoolError):
            raise outcome
        return outcome

    def is_direct(self, address: Address) -> bool:
        """Whether nothing stands between us and the server: no proxy, tunnel or address translation.

        raises   ServerUnreachable, AdminQueryFailed
        """
        link = self._link((address, self.database, ""))
        with link.turn:
            outcome = self._threads.apply(self._attempt, (link, _is_direct, self.statement_timeout_s, True))
        if isinstance(outcome, PoolError):
            raise outcome
        return bool(outcome)

    def _link(self, key: Key) -> _Link:
        if self._sweeper is None:
            self._sweeper = gevent.spawn(self._sweep)
        return self._links.setdefault(key, _Link(key))

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _attempt(self, link: _Link, ask: Ask, limit_s: float, repeatable: bool) -> Any:
        with link.lock:
            try:
                if link.is_forgotten:
                    raise _TookTooLong
                return self._run(link, ask, limit_s, repeatable)
            except _TookTooLong:
                link.drop()
                return ServerUnreachable(f"server {_shown(link.key[0])} did not answer in time")
            except UnicodeError:
                return AdminQueryFailed("a name that cannot be sent to the server", sqlstate="22021")
            except psycopg2.Error as error:
                is_lost = link.connection is None or link.connection.closed
                if is_lost:
                    link.drop()
                return _translated(error, link.key[0], bool(is_lost))
            finally:
                link.used_at = time.monotonic()

    def _run(self, link: _Link, ask: Ask, limit_s: float, repeatable: bool) -> Any:
        was_idle = link.connection is not None
        if not was_idle:
            self._connect(link)
        try:
            return ask(link, limit_s)
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            if not (was_idle and repeatable and link.connection.closed):
                raise
        link.drop()
        self._connect(link)
        return ask(link, limit_s)

    def _connect(self, link: _Link) -> None:
        (host, port), database, _ = link.key
        deadline = time.monotonic() + self.connect_timeout_s
        params = {"application_name": "pgstmtpool admin", **self._params, "client_encoding": "UTF8"}
        connection = psycopg2.connect(host=host, port=port, dbname=database, async_=1, **params)
        try:
            _wait(link, connection, deadline)
            left_s = max(0.1, deadline - time.monotonic())
            _execute(link, connection, "set search_path = pg_catalog, pg_temp", None, left_s)
        except BaseException:
            connection.close()
            raise
        link.connection, link.limit_s = connection, 0.0

    # --- housekeeping -----------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        while True:
            gevent.sleep(self.idle_timeout_s / 2)
            limit = time.monotonic() - self.idle_timeout_s
            for key, link in list(self._links.items()):
                if link.used_at < limit and not link.turn.locked():
                    del self._links[key]
                    self._threads.spawn(_drop, link)

    def forget(self, address: Address) -> None:
        """Close what is open to a server, for one that is removed or failed over, and have nobody wait for it."""
        for key in [key for key in self._links if key[0] == address]:
            self._links[key].is_forgotten = True
            self._threads.spawn(_drop, self._links.pop(key))

    def leave(self, database: str) -> None:
        """Close what is open to a database, unless a query is running there."""
        for key in [key for key, link in self._links.items() if key[1] == database and not link.turn.locked()]:
            self._threads.spawn(_drop, self._links.pop(key))

    def close(self) -> None:
        """Close all connections; the object can be used again."""
        if self._sweeper is not None:
            self._sweeper.kill()
            self._sweeper = None
        links, self._links = list(self._links.values()), {}
        for link in links:
            self._threads.apply(_drop, (link,))


def _drop(link: _Link) -> None:
    with link.lock:
        link.drop()


class _Statement(NamedTuple):
    """A text and its arguments, run on a link when it is called."""

    sql: str
    args: Args

    def __call__(self, link: _Link, limit_s: float) -> list[tuple[Any, ...]]:
        if link.limit_s != limit_s:
            _execute(link, link.connection, f"set statement_timeout = {int(limit_s * 1000)}", None, limit_s)
            link.limit_s = limit_s
        return _execute(link, link.connection, self.sql, self.args, limit_s + GRACE_S)


def _is_direct(link: _Link, limit_s: float) -> bool:
    # Whoever stands between opens a connection of his own, and the server sees that one's port.
    asked = _Statement("select inet_client_port()", None)(link, limit_s)[0][0]
    return asked is None or asked == _local_port(link.connection.fileno())


def _local_port(fileno: int) -> int | None:
    """The port of our end of a TCP connection, as Linux tells it; None where it does not."""
    inode = str(os.fstat(fileno).st_ino)
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        try:
            with open(table) as rows:
                fields = next((row.split() for row in rows if f" {inode} " in row), None)
        except OSError:
            return None
        if fields and fields[9] == inode:
            return int(fields[1].rpartition(":")[2], 16)
    return None


def _execute(link: _Link, connection: Any, sql: str, args: Any, limit_s: float) -> list[tuple[Any, ...]]:
    cursor = connection.cursor()
    cursor.execute(sql, args)
    _wait(link, connection, time.monotonic() + limit_s)
    rows = cursor.fetchall() if cursor.description else []
    cursor.close()
    return rows


def _wait(link: _Link, connection: Any, deadline: float) -> None:
    # An asynchronous connection in a thread, because only so can a deadline be kept against a server that is frozen.
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        waiting = select.poll()
        waiting.register(connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or link.is_forgotten:
                raise _TookTooLong
            if waiting.poll(min(left_s, _LOOK_S) * 1000):
                break


def _shown(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def _translated(error: Any, address: Address, is_lost: bool) -> PoolError:
    text = str(error).strip()
    said = error.diag.message_primary if error.diag is not None else None
    if error.pgcode:
        return AdminQueryFailed(said or text, sqlstate=error.pgcode, detail=error.diag.message_detail)
    by_server = _SAID_BY_SERVER.search(text)
    if by_server:
        # While connecting libpq keeps the words, not the code. It is a sign of life, so not ServerUnreachable.
        sqlstate = "57P03" if by_server[1].startswith(_COMES_OR_GOES) else "XX000"
        message = f"server {_shown(address)} refused the admin connection"
        return AdminQueryFailed(message, sqlstate=sqlstate, detail=by_server[1])
    if is_lost:
        return ServerUnreachable(f"no connection to server {_shown(address)}", detail=text.split("\n")[0])
    return AdminQueryFailed(text.split("\n")[0])
