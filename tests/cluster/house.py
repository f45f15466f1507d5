"""A primary and standbys with a pool that may promote, for tests of failover; and a proxy that can be cut."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2

from tests.cluster.load import Load
from tests.cluster.rawclient import Raw
from tests.servers import Cluster, Pooler, Server
from tests.workplace import free_port, wait_until, workplace

HBA = ["local all all trust", "host all all 127.0.0.1/32 trust"]
LOGIN = {"user": "app", "database": "app"}
TABLE = "kept"
LONG_S = 60.0  # a switch takes two seconds or three; on a busy machine more
MATRIX = int(os.environ.get("HA_POSTGRES", "0"))  # make test-matrix has all tests run on one version after another
VERSION = MATRIX or 16
HELD = "does not answer, and nothing is sent to it meanwhile"  # said of the primary
SYNC = {"synchronous_standby_names": "ANY 1 (*)"}


def versions(*of_ci: Any) -> list[Any]:
    """On which versions a test runs that runs on several: one after another in make test-matrix, else these."""
    return [MATRIX] if MATRIX else list(of_ci)


class House:
    """A cluster, and what a pool in front of it is started with.

    cluster   its servers; who is the primary of them changes
    conf      settings of poolers
    """

    def __init__(self, cluster: Cluster, conf: dict[str, Any]) -> None:
        self.cluster = cluster
        self.conf = conf

    @property
    def first(self) -> Server:
        """The primary that it began with."""
        return self.cluster.primary

    @property
    def standbys(self) -> list[Server]:
        """And the standbys."""
        return self.cluster.standbys

    @contextlib.contextmanager
    def pool(self, **conf: Any) -> Iterator[Pooler]:
        with Pooler({**self.conf, **conf}, cluster=self.cluster) as pooler:
            wait_until(lambda: has_seen(pooler), 30, "the pool to have seen the primary")
            with frontend(pooler):
                pooler.wait_said("catalog of app scanned")  # else nothing is known to be harmless, and run again
            yield pooler
        assert "Traceback" not in pooler.log

    def kill(self, pooler: Pooler, *servers: Server) -> None:
        """kill -9, until the pool has heard of it: what is sent before that is lost with the primary, and unknown."""
        heard = pooler.log.count(HELD)
        for server in servers:
            server.kill9()
        pooler.wait_said(HELD, heard + 1)

    def promoted(self) -> Server | None:
        """The standby that is the primary now."""
        found = [server for server in self.standbys if server.is_running and is_primary(server)]
        assert len(found) < 2, "two standbys were promoted"
        return found[0] if found else None

    def wait_promoted(self) -> Server:
        return wait_until(self.promoted, LONG_S, "a standby to be promoted")

    def wait_streams(self, count: int) -> None:
        """Until so many servers stream from the new primary."""
        primary = self.wait_promoted()
        sql = "select count(*) from pg_stat_replication where state = 'streaming'"
        wait_until(lambda: primary.query(sql)[0][0] == count, LONG_S, f"{count} servers to follow")

    def wait_following(self, *standbys: Server) -> None:
        """Until these stream from the new primary."""
        primary = self.wait_promoted()
        names = {standby.name for standby in standbys}
        sql = "select application_name from pg_stat_replication where state = 'streaming'"
        wait_until(lambda: {name for (name,) in primary.query(sql)} >= names, LONG_S, f"{names} to follow")


@contextlib.contextmanager
def open_house(
    version: int = VERSION, standbys: int = 2, conf: dict[str, Any] | None = None, is_odd: bool = False, **server: Any
) -> Iterator[House]:
    """is_odd   with data directories and connection strings that have blanks, quotes and backslashes in them"""
    cluster = Cluster(standbys=standbys, version=version, hba=HBA, conf=conf, **server)
    for each in cluster.servers:  # pg_rewind copies the data directory, and cannot copy sockets
        each.unix_dir = str(workplace().new_dir(f"{each.name}-socket"))
        each.configure(unix_socket_directories=each.unix_dir)
        if is_odd:
            each.data = each.data.rename(workplace().new_path(f"""{each.name}'s "own" \\ $(data) `here`"""))
            each.conninfo = r"fallback_application_name='it\'s \\ \"odd\"'"
    with cluster:
        cluster.primary.query("create role app login superuser")
        cluster.primary.query("create role keeper login superuser")
        cluster.primary.query("create database app")
        columns = "name text primary key, written_at int default inet_server_port()"
        cluster.primary.query(f"create table {TABLE} ({columns})", dbname="app")
        cluster.wait_caught_up()
        conf_of_pools = {"admin_cnn": {"user": "keeper", "database": "postgres"}, "enable_ha": True}
        yield House(cluster, {**conf_of_pools, "log_level": "debug"})


def is_primary(server: Server) -> bool:
    try:
        return not server.is_standby
    except psycopg2.OperationalError:  # it is being restarted, as happens to standbys only
        return False


def state_file(pooler: Pooler) -> Path:
    return Path(pooler.conf.get("ha_state_file") or pooler.dir / "pgstmtpool.conf.state")


def set_target(pooler: Pooler, server: Server) -> None:
    """As if the pool had been killed when it was about to promote this one."""
    path = state_file(pooler)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("target")]
    path.write_text("\n".join([*lines, f"target = 127.0.0.1:{server.port}", ""]))


def has_seen(pooler: Pooler) -> bool:
    """Whether the pool knows the primary, and has written that down."""
    path = state_file(pooler)
    return not pooler.conf.get("enable_ha") or (path.exists() and 'system = ""' not in path.read_text())


def frontend(pooler: Pooler, **params: Any) -> Raw:
    return Raw(pooler.host, pooler.port, **{**LOGIN, "timeout_s": LONG_S, **params})


@contextlib.contextmanager
def loaded(pooler: Pooler, frontends: int = 8, name: str = "") -> Iterator[Load]:
    """Frontends that write and read all the time, and keep the books.

    name   what they write begins with it
    """
    with contextlib.ExitStack() as stack:
        raws = [stack.enter_context(frontend(pooler)) for _ in range(frontends)]
        with Load(raws, TABLE, name) as load:
            yield load


def kept(server: Server) -> set[str]:
    """What is in the table."""
    return {name for (name,) in server.query(f"select name from {TABLE}", dbname="app")}


def check_left_behind(old: Server, new: Server, load: Load, begun: set[str]) -> None:
    """What is on a primary that was replaced got there before that, and nothing of it was run on the new one again.

    begun   ids that were begun when nothing was sent to it any more, or it was down
    """
    assert kept(old) <= begun, f"sent to a primary that was replaced: {kept(old) - begun}"
    assert kept(old) <= load.acked | load.unknown, f"there but never told: {kept(old) - load.acked - load.unknown}"
    by_new = f"select name from {TABLE} where written_at = {new.port}"
    twice = kept(old) & {name for (name,) in new.query(by_new, dbname="app")}
    assert not twice, f"run on both: {twice}"


def in_thread(run: Callable[[], Any]) -> Callable[[], Any]:
    """Begin `run`; what is returned waits for it and says what it has returned."""
    found: list[Any] = []

    def keep() -> None:
        try:
            found.append(run())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=keep)
    thread.start()

    def result() -> Any:
        thread.join(LONG_S)
        assert found, "it has not ended"
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    return result


class Cut:
    """A TCP proxy in front of a server that can be cut: then it takes connections and passes nothing on, as a network
    that loses everything looks to those who wait for an answer."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._is_cut = False
        self._passing = threading.Lock()
        self._is_over = False
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Cut:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()
        for each in (self._listener, *self._pairs):
            each.close()

    @property
    def is_cut(self) -> bool:
        return self._is_cut

    @is_cut.setter
    def is_cut(self, value: bool) -> None:
        with self._passing:  # what is being passed on comes to its end: nothing is when this is over
            self._is_cut = value

    def _run(self) -> None:
        while not self._is_over:
            if self._is_cut:
                select.select([], [], [], 0.02)
                continue
            ready, _, _ = select.select([self._listener, *self._pairs], [], [], 0.02)
            for each in ready:
                with self._passing:
                    if not self._is_cut:
                        self._accept() if each is self._listener else self._pass_on(each)

    def _accept(self) -> None:
        here, _ = self._listener.accept()
        try:
            there = socket.create_connection(self._target)
        except OSError:
            here.close()
            return
        self._pairs[here], self._pairs[there] = there, here

    def _pass_on(self, source: socket.socket) -> None:
        target = self._pairs.get(source)
        if target is None:
            return
        try:
            data = source.recv(65536)
            target.sendall(data)
        except OSError:
            data = b""
        if not data:
            for each in (source, target):
                self._pairs.pop(each, None)
                each.close()
