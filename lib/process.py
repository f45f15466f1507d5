"""One process: listen, build the parts, join them, and keep every limit that is a matter of time.

Green. Nothing is decided here.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from math import inf

import gevent
from gevent.event import Event

from lib import __version__, manager, tlsfiles
from lib.admin import Address, Admin
from lib.arrival import Arrivals
from lib.auth.credential import Secrets
from lib.backend import dialogue
from lib.backend.cluster import Cluster
from lib.backend.groups import Login
from lib.backend.lease import Lease
from lib.backend.worker import Worker
from lib.census import Census
from lib.changes import Changes, as_admin, raise_file_limit
from lib.config import Settings
from lib.console.house import House
from lib.console.pgbouncer import keep_averages
from lib.directory import Directory
from lib.errors import ConfigError, PoolError, ShuttingDown
from lib.ha.executor import Guardian
from lib.ha.statefile import StateFileUnusable
from lib.keeper import Keeper
from lib.listeners import Listeners
from lib.login import responder
from lib.logs import Logs
from lib.monitor.status import Observer
from lib.monitor.web import Web
from lib.reload import Reload
from lib.wire import messages

log = logging.getLogger("pgstmtpool")

_SWEEP_S = 0.25  # how often limits are kept while nothing waits
_CROWDED_SWEEP_S = 0.01  # and while something does
_OBSERVED_S = 2.0  # how long a server may take to say how far it is
_LAST_WORDS_S = 0.5  # for cancel requests and goodbyes when time is up
_DDL_PAUSE_S = 0.1  # between two looks at what DDL has changed


class Process:
    """The pool, from its listening sockets to its servers."""

    def __init__(self, settings: Settings, logs: Logs) -> None:
        self.settings = settings
        self.logs = logs
        self.identity = tlsfiles.for_frontends(settings)
        self.approach = tlsfiles.for_servers(settings)
        login = as_admin(settings)
        self.admin = Admin(login)
        self.secrets = Secrets(settings.conn_params)
        # A server that is frozen when it is asked how far it is keeps no login waiting.
        observer = Admin(
            login, connect_timeout_s=_OBSERVED_S, statement_timeout_s=_OBSERVED_S,
            threads=1 + len(settings.slaver),
        )  # fmt: skip
        self.cluster = Cluster(settings, self._answer_for, self.admin.query, observer.query, self.approach)
        self.directory = Directory(
            self.admin, lambda: self.cluster.primary.address, refresh_s=settings.hba_interval,
            sslmode=settings.server_tls_sslmode,
        )
        self.census = Census(self.cluster, self.directory, self.secrets)
        self._roles_changed = Event()  # perhaps: DDL was run
        self.cluster.on_ddl = self._ddl_was_run
        self.cluster.on_leave = self._leave
        self.cluster.on_switch = self._switched
        self.observer = observer
        self.ha = Guardian(settings, self.cluster, login)
        self.arrivals = Arrivals(settings, self.cluster, self.directory, self.secrets, self.identity)
        self.listeners = Listeners(settings, self.arrivals.handle)
        self.web = Web(settings, Observer(self.cluster, self.arrivals, self.ha))
        self._stop = Event()
        self._patience_s = 0.0
        self._waits_for_clients = False
        self._reloaded = Event()
        self._tls_watch: gevent.Greenlet | None = None
        self.reload = Reload(settings)
        Changes(self, self._reloaded.set)
        self.house = House(self.cluster, self.arrivals, self.admin, self.stop, self.reload)
        self.house.ha = self.ha
        self.arrivals.house = self.house

    def use_tls(
        self, identity: tlsfiles.Watched[tlsfiles.Identity] | None, approach: tlsfiles.Watched[tlsfiles.Approach]
    ) -> None:
        """For connections from now on: what frontends are shown, and how servers are connected to."""
        self.identity, self.approach = identity, approach
        self.arrivals.door.identity = identity
        self.cluster.tls = approach
        if self._tls_watch is not None:
            self._tls_watch.kill()
        self._tls_watch = gevent.spawn(tlsfiles.watch, identity, approach)

    def _leave(self, database: str) -> None:
        self.admin.leave(database)
        self.observer.leave(database)

    def _switched(self, address: Address) -> None:
        """The primary was replaced that was at `address`."""
        self.admin.forget(address)
        self.observer.forget(address)
        self.directory.expire()

    def _answer_for(self, login: Login) -> dialogue.Answer:
        return responder(login.user, self.secrets.of(login.user, login.database))

    def run(self) -> int:
        """Serve until told to stop; the exit code."""
        try:
            self.ha.begin()
            self.listeners.open()
            self.web.open()
        except StateFileUnusable as error:
            log.error("cannot tell who is the primary: %s", error)
            return 1
        except OSError as error:
            log.error("cannot listen: %s", error)
            self.listeners.close()
            return 1
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, self._told_to_stop)
        gevent.signal_handler(signal.SIGUSR1, self.logs.reopen)
        gevent.signal_handler(signal.SIGHUP, gevent.spawn, self._told_to_reload)
        log.info("pgstmtpool %s (pid %d) is ready", __version__, os.getpid())
        manager.tell("READY=1")
        sweep = gevent.spawn(self._sweep)
        keeper = Keeper(self.settings, self.arrivals)
        loops = [
            self._look_at_primary, self._look_at_roles, self._look_at_rights, self._look_for_ddl, self._end_the_idle,
            self._sum_up, keeper.run, self.cluster.replay.watch, manager.say_alive, self.ha.run,
            partial(keep_averages, self.house),
        ]  # fmt: skip
        threads = [gevent.spawn(loop) for loop in loops]
        self.use_tls(self.identity, self.approach)
        self._stop.wait()
        log.info("stopping: %d frontends", len(self.arrivals.frontends))
        manager.tell("STOPPING=1")
        self.listeners.close()
        while self._waits_for_clients and self._patience_s and self.arrivals.clients:
            gevent.sleep(_SWEEP_S)
        gevent.killall([*threads, self._tls_watch])
        self._shut_down(sweep)
        self.web.close()
        log.info("stopped")
        return 0

    def _told_to_stop(self) -> None:
        """The first time, what is in flight may finish; the second time there is no time."""
        self._patience_s = 0.0 if self._stop.is_set() else self.settings.shutdown_timeout
        self._stop.set()

    def stop(self, how: str = "") -> None:
        """Told to stop in the pseudo database: as by a signal, or when no statement runs any more ("wait_for_servers"),
        however long that takes, or when all clients have left by themselves ("wait_for_clients")."""
        self._told_to_stop()
        if how and self._patience_s:
            self._patience_s = inf
            self._waits_for_clients = how == "wait_for_clients"

    def _told_to_reload(self) -> None:
        self.logs.reopen()
        manager.tell(manager.reloading())
        try:
            self._reload_file()
        finally:
            manager.tell("READY=1")

    def _reload_file(self) -> None:
        try:
            self.reload.reload()
        except ConfigError as error:
            for complaint in error.complaints:
                log.error("the conf file was not reloaded: %s", complaint)

    # --- green threads that look after things ------------------------------------------------------------------------

    def _pause(self, interval_s: Callable[[], float]) -> None:
        """Until as much has passed as the settings say, also when a reload has them say less meanwhile."""
        began = time.monotonic()
        while (left_s := began + interval_s() - time.monotonic()) > 0:
            if self._reloaded.wait(left_s):
                self._reloaded.clear()

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

    def _look_at_roles(self) -> None:
        while True:
            self._pause(lambda: self.settings.hba_interval)
            try:
                self.census.look()
            except PoolError as error:
                log.debug("roles could not be looked at: %s", error)

    def _ddl_was_run(self) -> None:
        self.directory.outdate()
        self._roles_changed.set()

    def _look_at_rights(self) -> None:
        """Rights in the pseudo database that are taken away do not count any more; at once, where that was done through
        the pool."""
        while True:
            self._roles_changed.wait(self.settings.hba_interval)
            gevent.sleep(_DDL_PAUSE_S)
            self._roles_changed.clear()
            self.arrivals.look_at_rights()

    def _look_for_ddl(self) -> None:
        while True:
            self._pause(lambda: self.settings.catalog_interval)
            self.cluster.look_for_ddl()

    def _sum_up(self) -> None:
        while True:
            gevent.sleep(1.0)
            self.logs.sum_up()

    def _end_the_idle(self) -> None:
        """Keep active_cnn_timeout, for all frontends in one look."""
        while True:
            limit_s = self.settings.active_cnn_timeout
            gevent.sleep(min(1.0, limit_s / 10) if limit_s else 1.0)
            if self.settings.active_cnn_timeout:
                self.arrivals.look(time.monotonic())

    # --- the end -----------------------------------------------------------------------------------------------------

    def _shut_down(self, sweep: gevent.Greenlet) -> None:
        """Statements in flight finish, for as long as shutdown_timeout, and meanwhile no limit of theirs is forgotten;
        no backend is left behind."""
        self.arrivals.stop()
        self.cluster.pause.refuse(messages.error_response(ShuttingDown("the pool is shutting down")))
        began = time.monotonic()
        while self.arrivals.frontends and time.monotonic() - began < self._patience_s:
            gevent.sleep(0.01)
        sweep.kill()
        self.cluster.close()
        while (busy := self.cluster.busy_workers()) and time.monotonic() - began < self._patience_s:
            gevent.sleep(0.01)
        if busy:
            log.warning("%d statements did not end within shutdown_timeout and are canceled", len(busy))
            _cancel_all(busy)
            deadline = time.monotonic() + _LAST_WORDS_S
            while (busy := self.cluster.busy_workers()) and time.monotonic() < deadline:
                gevent.sleep(0.01)
            for worker in busy:
                worker.close("the pool is shut down")
            _cancel_all(busy)  # what they had behind that; told that it is canceled, they see that nobody is there
        for frontend in list(self.arrivals.frontends.values()):  # their statements have waited for a worker in vain
            frontend.end(ShuttingDown("terminating connection due to administrator command"))


def _cancel_all(workers: list[Worker | Lease]) -> None:
    gevent.joinall([gevent.spawn(_cancel, worker) for worker in workers], timeout=_LAST_WORDS_S)


def _cancel(worker: Worker | Lease) -> None:
    dialogue.cancel(worker.roster.address, worker.key, _LAST_WORDS_S, lambda: True, worker.approach)


def run(settings: Settings) -> int:
    """Run the pool with these settings until SIGTERM or SIGINT; the exit code."""
    try:
        logs = Logs(settings)
    except OSError as error:
        print(f"pgstmtpool: log_to: {settings.log_to} cannot be opened: {error.strerror}", file=sys.stderr)
        return 1
    try:
        return _run(settings, logs)
    finally:
        logs.end()


def _run(settings: Settings, logs: Logs) -> int:
    for warning in settings.warnings:
        log.warning("%s", warning)
    raise_file_limit(settings)
    gc.freeze()  # what is there now stays; the collector need not look at it again
    try:
        process = Process(settings, logs)
    except tlsfiles.FilesUnusable as error:
        log.error("cannot use TLS: %s", error)
        return 1
    return process.run()
