"""One server: its rosters, and whether it answers."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from lib import modes, net
from lib.backend import dialogue
from lib.backend.freshness import Progress
from lib.backend.leases import Leases
from lib.backend.roster import Roster
from lib.errors import PoolError

if TYPE_CHECKING:
    from lib.backend.cluster import Cluster, Login
    from lib.config import Settings

log = logging.getLogger(__name__)

_SAY_AGAIN_S = 10.0  # how long the same reason is not logged again


class Pool:
    """The workers of one server.

    number      the pool's id
    is_primary  the server that gets everything but `/*s*/`
    is_down     a standby that failed: left out until a probe finds it again. (The primary is never left out: what
                waits for it waits.)
    is_behind   a standby that is left out because it is further behind than max_lag
    progress    how far it is, as it has answered last
    failures    attempts to start a worker that failed, since the last one that did not
    rosters     workers, by login
    lent        backends for whole sessions, by user and database
    """

    def __init__(self, cluster: Cluster, number: int, address: net.Address, is_primary: bool) -> None:
        self.cluster = cluster
        self.settings: Settings = cluster.settings
        self.number = number
        self.address = address
        self.is_primary = is_primary
        self.is_down = self.is_behind = False
        self.progress = Progress()
        self.failures = 0
        self.rosters: dict[Login, Roster] = {}
        self.lent: dict[tuple[str, str], Leases] = {}
        self.probed_at = 0.0
        self._workers_started = 0
        self._said, self._said_at = "", 0.0  # the last reason that no worker could be started

    def __repr__(self) -> str:
        down = " DOWN" if self.is_down else " BEHIND" if self.is_behind else ""
        return f"<Pool {self.number} {self.describe()}{down} rosters={len(self.rosters)}>"

    def describe(self) -> str:
        return f"{'primary' if self.is_primary else 'standby'} {net.show_address(self.address)}"

    def may_serve(self, login: Login) -> bool:
        """Whether reads of `login` that may go to a standby may go to this one."""
        roster = self.rosters.get(login)
        return not self.is_down and not self.is_behind and roster is not None and bool(roster.workers)

    def roster(self, login: Login) -> Roster:
        roster = self.rosters.get(login)
        if roster is None:
            roster = self.rosters[login] = Roster(self, login)
        return roster

    def leases(self, user: str, database: str) -> Leases:
        leases = self.lent.get((user, database))
        if leases is None:
            settings = self.settings
            rule = modes.mode_of(settings.pool_mode, settings.pool_modes, user, database)
            limit = settings.max_workers if rule.max_workers is None else rule.max_workers
            leases = self.lent[user, database] = Leases(self, user, database, limit)
        return leases

    def close_idle_leases(self) -> bool:
        """The server is full: backends of one login that nobody has go. False when there were none."""
        return any(leases.close_idle() for leases in list(self.lent.values()))

    def users_and_databases(self) -> set[tuple[str, str]]:
        """Who has backends here, or waits for one."""
        return {(login.user, login.database) for login in self.rosters} | self.lent.keys()

    def probe(self) -> None:
        """Try whether a standby that failed takes a login again; it hears of it in `start_failed` or `start_succeeded`.

        Any login will do: what is wanted is a server that takes one.
        """
        try:
            for roster in list(self.rosters.values())[:1]:
                roster.adopt(roster.open_backend(self.cluster.answer_for(roster.login)))
                return
            for leases in list(self.lent.values()):
                if leases.last_login is not None:
                    leases.start(leases.last_login, self.cluster.answer_for(leases.last_login))
                    return
            self.is_down = False  # nobody is left who could be tried
        except PoolError:
            pass
        finally:
            self.probed_at = time.monotonic()

    def next_worker_number(self) -> int:
        self._workers_started += 1
        return self._workers_started

    def start_failed(self, error: PoolError) -> None:
        """A worker could not be started. Only silence counts against the server; an ErrorResponse is a sign of life."""
        if error.sqlstate not in ("08006", "57P03"):
            if str(error) != self._said or time.monotonic() - self._said_at > _SAY_AGAIN_S:
                log.warning("no worker on %s: %s", self.describe(), error)
                self._said, self._said_at = str(error), time.monotonic()
            self.failures = 0
            self.is_down = False
            return
        self.failures += 1
        if self.failures == 1:
            log.warning("%s cannot be used: %s", self.describe(), error)
        if not self.is_primary and not self.is_down:
            self.is_down = True
            self.probed_at = time.monotonic()
            for roster in self.rosters.values():
                roster.hand_over()

    def start_succeeded(self, backend: dialogue.Backend) -> None:
        if not self.is_primary:
            is_used = any(roster.workers for roster in self.rosters.values())
            is_used = is_used or any(leases.leases for leases in self.lent.values())
            was_away = self.failures > 0 or not is_used
            self.cluster.replay.came_in(self, was_away)
        if self.failures:
            log.info("%s answers again after %d failures", self.describe(), self.failures)
        self.failures = 0
        self.is_down = False

    def sweep(self, now: float) -> None:
        for key, leases in list(self.lent.items()):
            leases.sweep(now)
            if leases.is_empty and not self.is_down:
                del self.lent[key]
        if self.is_down:
            for roster in self.rosters.values():
                roster.look(now)  # what is in flight has its limits all the same
            return
        for login, roster in list(self.rosters.items()):
            roster.sweep(now)
            if not login.frontends and not roster.workers and not roster.starting and not roster.waiting:
                del self.rosters[login]

    def close(self) -> None:
        for roster in self.rosters.values():
            roster.close()
        for leases in self.lent.values():
            leases.close()
