"""What happens meanwhile: backends are terminated, the server crashes, a table is locked, the catalog changes.

By a connection of the superuser straight to the server, in a thread.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress

import psycopg2
from psycopg2.errors import DuplicateColumn, LockNotAvailable, UndefinedColumn

from tests import roles
from tests.cluster.convoy import unread_bytes
from tests.servers import Pooler, Server
from tests.workplace import TookTooLong, wait_until

BACKENDS = "select pid, client_port, wait_event_type from pg_stat_activity where usename = %s"


class Disturbance(threading.Thread):
    """Goes on until `is_over` is set.

    load                          "riders" or "home": what the frontends do, and so what there is to be disturbed
    kill_every_s, crash_every_s   on average; 0: never
    """

    def __init__(
        self, server: Server, where: Pooler | Server, seed: int, load: str, *, kill_every_s: float, crash_every_s: float
    ) -> None:
        super().__init__(name="disturbance")
        self.server = server
        self.where = where
        self.chance = random.Random(seed)
        self.is_over = threading.Event()
        self.counts: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._due = {self.kill: kill_every_s, self.crash: crash_every_s, self.cancel_with_a_wrong_key: 0.2}
        self._due |= {self.alter: 0.1} if load == "home" else {self.lock: 2.0, self.change_the_catalog: 2.5}
        self._locker: psycopg2.extensions.connection | None = None

    def run(self) -> None:
        try:
            now = time.monotonic()
            next_at = {act: now + self._pause(act) for act in self._due if self._due[act]}
            while not self.is_over.is_set():
                act = min(next_at, key=next_at.__getitem__)
                self.is_over.wait(max(0.0, next_at[act] - time.monotonic()))
                if not self.is_over.is_set():
                    act()
                    next_at[act] = time.monotonic() + self._pause(act)
        except BaseException as error:
            self.failure = error

    def _pause(self, act: object) -> float:
        return self._due[act] * (0.5 + self.chance.random())  # type: ignore[index]

    def _backends(self) -> list[tuple[int, int, str]]:
        return self.server.query(BACKENDS, [roles.TRUST.name])

    def kill(self) -> None:
        backends = self._backends()
        if backends:
            self.server.query("select pg_terminate_backend(%s)", [self.chance.choice(backends)[0]])
            self.counts["backends terminated"] += 1

    def crash(self) -> None:
        begin = self.server.log_path.stat().st_size
        backends = self._backends()
        if not backends:
            return
        try:
            os.kill(self.chance.choice(backends)[0], signal.SIGKILL)
            wait_until(lambda: b"terminated by signal 9" in self._logged_since(begin), 5, "the backend to be dead")
        except (ProcessLookupError, TookTooLong):  # it had come to its end by itself
            return
        self.counts["crashes of the server"] += 1
        wait_until(lambda: b"ready to accept connections" in self._logged_since(begin), 60, "the server to be up")

    def _logged_since(self, begin: int) -> bytes:
        with self.server.log_path.open("rb") as log:
            log.seek(begin)
            return log.read()

    def lock(self) -> None:
        """Reads that were quick wait for a while, and what stands behind them must not."""
        with_lock = self.server.connect(dbname=roles.DATABASE)
        try:
            with with_lock.cursor() as cursor:
                cursor.execute("set lock_timeout = '5s'; lock leaks.locked in access exclusive mode")
            self.counts["times a table was locked"] += 1
            self.is_over.wait(0.25)
            ridden = [
                each for each in self._backends() if each[2] == "Lock" and unread_bytes(self.server.port, each[1])
            ]
            self.counts["backends seen stuck with riders behind"] += len(ridden)
        except psycopg2.Error:
            self.counts["times a table could not be locked"] += 1
        finally:
            with_lock.close()

    def change_the_catalog(self) -> None:
        self.server.query(
            "create or replace function leaks.harmless(n int) returns int language sql as 'select n + 1'",
            dbname=roles.DATABASE,
        )
        self.counts["changes of the catalog"] += 1

    def alter(self) -> None:
        """What is described of this table is true for a moment only."""
        changes = ["alter id type int", "alter id type bigint", "add more int default 1", "drop more"]
        with suppress(DuplicateColumn, UndefinedColumn, LockNotAvailable):
            sql = f"set lock_timeout = '1s'; alter table home.changing {self.chance.choice(changes)}"
            self.server.query(sql, dbname=roles.DATABASE)
            self.counts["times a table was altered"] += 1

    def cancel_with_a_wrong_key(self) -> None:
        with socket.create_connection((self.where.host, self.where.port), 10) as sock:
            sock.sendall(struct.pack("!IIII", 16, 1234 << 16 | 5678, self.chance.randrange(1, 5000), 1))
            sock.recv(1)
        self.counts["cancels with a wrong key"] += 1
