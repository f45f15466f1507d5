"""One process: listen, build the parts, join them, and keep every limit that is a matter of time.

Green. Nothing is decided here.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import sys
import time

import gevent
from gevent.event import Event

from lib import __version__, net, tlsfiles
from lib.admin import Admin
from lib.arrival import Arrivals
from lib.auth.credential import Secrets
from lib.backend import dialogue
from lib.backend.cluster import Cluster, Login
from lib.backend.lease import Lease
from lib.backend.worker import Worker
from lib.config import Settings
from lib.directory import Directory
from lib.errors import PoolError, ShuttingDown
from lib.login import responder

log = logging.getLogger("pgstmtpool")

_SWEEP_S = 0.25  # how often limits are kept while nothing waits
_CROWDED_SWEEP_S = 0.01  # and while something does
_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_DEFAULTS_SQL = "select setdatabase, setrole, setconfig::text from pg_catalog.pg_db_role_setting order by 1, 2"
_OBSERVED_S = 2.0  # how long a server may take to say how far it is
_LAST_WORDS_S = 0.5  # for cancel requests and goodbyes when time is up


class Process:
    """The pool, from its listening sockets to its servers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.identity = tlsfiles.for_frontends(settings)
        self.approach = tlsfiles.for_servers(settings)
        as_admin = {**tlsfiles.for_libpq(settings), **settings.admin_cnn}
        self.admin = Admin(as_admin)
        self.secrets = Secrets(settings.conn_params)
        # A server that is frozen when it is asked how far it is keeps no login waiting.
        observer = Admin(
            as_admin, connect_timeout_s=_OBSERVED_S, statement_timeout_s=_OBSERVED_S,
            threads=1 + len(settings.slaver),
        )  # fmt: skip
        self.cluster = Cluster(settings, self._answer_for, self.admin.query, observer.query, self.approach)
        self.directory = Directory(
            self.admin, lambda: self.cluster.primary.address, refresh_s=settings.hba_interval,
            sslmode=settings.server_tls_sslmode,
        )
        self.cluster.on_ddl = self.directory.outdate
        self.cluster.on_leave = self._leave
        self._observer = observer
        self.arrivals = Arrivals(settings, self.cluster, self.directory, self.secrets, self.identity)
        self._fingerprints: dict[str, str] = {}
        self._defaults: list[tuple] | None = None
        self._stop = Event()
        self._patience_s = 0.0

    def _leave(self, database: str) -> None:
        self.admin.leave(database)
        self._observer.leave(database)

    def _answer_for(self, login: Login) -> dialogue.Answer:
        return responder(login.user, self.secrets.of(login.user, login.database))

    def run(self) -> int:
        """Serve until told to stop; the exit code."""
        try:
            listeners = self._listen()
        except OSError as error:
            log.error("cannot listen: %s", error)
            return 1
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self._told_to_stop)
        log.info("pgstmtpool %s (pid %d) is ready", __version__, os.getpid())
        sweep = gevent.spawn(self._sweep)
        loops = [self._look_at_primary, self._census, self._look_for_ddl, self.cluster.replay.watch]
        if self.settings.active_cnn_timeout:
            loops.append(self._end_the_idle)
        threads = [gevent.spawn(loop) for loop in loops]
        threads.append(gevent.spawn(tlsfiles.watch, self.identity, self.approach))
        self._stop.wait()
        log.info("stopping: %d frontends", len(self.arrivals.frontends))
        for listener in listeners:
            listener.close()
        gevent.killall(threads)
        self._shut_down(sweep)
        log.info("stopped")
        return 0

    def _told_to_stop(self) -> None:
        """The first time, what is in flight may finish; the second time there is no time."""
        self._patience_s = 0.0 if self._stop.is_set() else self.settings.shutdown_timeout
        self._stop.set()

    def _listen(self) -> list[net.Listener]:
        sockets = []
        try:
            for address in self.settings.listen:
                sockets += net.listen(address, self.settings.unix_socket_mode)
                log.info("listening on %s", net.show_address(address))
        except OSError as error:
            for sock in sockets:
                net.stop_listening(sock)
            raise OSError(error.errno, f"{net.show_address(address)}: {error.strerror}") from None
        return [net.Listener(sock, self.arrivals.handle) for sock in sockets]

    # --- green threads that look after things ------------------------------------------------------------------------

    def _look_at_primary(self) -> None:
        """Say at the start whether the primary can be used, and go on trying until it can."""
        said = False
        while True:
            try:
                self.directory.rules()
                log.info("%s answers", self.cluster.primary.describe())
                return
            except PoolError as error:
                if not said:
                    log.error("%s cannot be used yet, trying on: %s", self.cluster.primary.describe(), error)
                    said = True
            gevent.sleep(max(self.settings.login_retry, 0.1))

    def _sweep(self) -> None:
        crowded = self.cluster.crowded
        while True:
            if crowded.wait(_SWEEP_S):
                gevent.sleep(_CROWDED_SWEEP_S)
            try:
                self.cluster.sweep(time.monotonic())
            except Exception:  # whatever it is, all other limits are still to be kept
                log.exception("not all limits could be kept")
                gevent.sleep(_SWEEP_S)

    def _census(self) -> None:
        """A changed or dropped role loses its workers, and what the pool knew to log in with; and all workers are
        replaced when the defaults have changed that they were given at login."""
        while True:
            gevent.sleep(self.settings.hba_interval)
            users = {user for pool in self.cluster.pools for user, _ in pool.users_and_databases()}
            try:
                found = self.directory.fingerprints(users)
                defaults = self.admin.query(self.cluster.primary.address, None, _DEFAULTS_SQL)
            except PoolError as error:
                log.debug("roles could not be looked at: %s", error)
                continue
            for user, was in self._fingerprints.items():
                if user in users and found.get(user) != was:
                    log.info("a role was changed or dropped: its workers are retired")
                    self.secrets.forget(user)
                    self.cluster.retire_workers(user)
            self._fingerprints = found
            if self._defaults is not None and defaults != self._defaults:
                log.info("ALTER ROLE or ALTER DATABASE has changed settings: all workers are replaced")
                self.cluster.retire_workers()
            self._defaults = defaults

    def _look_for_ddl(self) -> None:
        while True:
            gevent.sleep(self.settings.catalog_interval)
            self.cluster.look_for_ddl()

    def _end_the_idle(self) -> None:
        """Keep active_cnn_timeout, for all frontends in one look."""
        while True:
            gevent.sleep(min(1.0, self.settings.active_cnn_timeout / 10))
            self.arrivals.look(time.monotonic())

    # --- the end -----------------------------------------------------------------------------------------------------

    def _shut_down(self, sweep: gevent.Greenlet) -> None:
        """Statements in flight finish, for as long as shutdown_timeout, and meanwhile no limit of theirs is forgotten;
        no backend is left behind."""
        self.arrivals.stop()
        began = time.monotonic()
        while self.arrivals.frontends and time.monotonic() - began < self._patience_s:
            gevent.sleep(0.01)
        sweep.kill()
        self.cluster.close()
        while (busy := self.cluster.busy_workers()) and time.monotonic() - began < self._patience_s:
            gevent.sleep(0.01)
        if busy:
            log.warning("%d statements did not end within shutdown_timeout and are canceled", len(busy))
            gevent.joinall([gevent.spawn(_cancel, worker) for worker in busy], timeout=_LAST_WORDS_S)
            deadline = time.monotonic() + _LAST_WORDS_S
            while (busy := self.cluster.busy_workers()) and time.monotonic() < deadline:
                gevent.sleep(0.01)
            for worker in busy:
                worker.close("the pool is shut down")
        for frontend in list(self.arrivals.frontends.values()):  # their statements have waited for a worker in vain
            frontend.end(ShuttingDown("terminating connection due to administrator command"))


def _cancel(worker: Worker | Lease) -> None:
    dialogue.cancel(worker.roster.address, worker.key, _LAST_WORDS_S, lambda: True, worker.approach)


def _raise_file_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else max(soft, wanted)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning("only %d files may be open (ulimit -n), which is too few for max_client_conn", most)


class _OneLine(logging.Formatter):
    """A message is one line whatever names are in it: a user called "x\\nERROR ..." writes no line of his own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        printable = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in record.message)
        record.message = "".join(printable)
        return super().formatMessage(record)


def run(settings: Settings) -> int:
    """Run the pool with these settings until SIGTERM or SIGINT; the exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(_LOG_FORMAT))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    for warning in settings.warnings:
        log.warning("%s", warning)
    _raise_file_limit(settings.max_client_conn + 500)
    gc.freeze()  # what is there now stays; the collector need not look at it again
    try:
        process = Process(settings)
    except tlsfiles.FilesUnusable as error:
        log.error("cannot use TLS: %s", error)
        return 1
    return process.run()
