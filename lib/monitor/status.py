"""What there is at this moment, as plain numbers and words: made once for whoever asks, be it the page or a scraper.

Green. Frontends are gone through in portions. Nothing of a statement's text and nothing secret is in it; names of users
and databases are, and are escaped by who shows them.
"""

from __future__ import annotations

import time
from collections import Counter
from heapq import nsmallest
from typing import TYPE_CHECKING, NamedTuple

from lib import __version__, net
from lib.backend.lease import Lease
from lib.backend.roster import Roster
from lib.backend.unit import Unit
from lib.backend.worker import Worker
from lib.counting import queries
from lib.frontend import Frontend
from lib.monitor.history import Totals
from lib.sessions import SessionFrontend
from lib.turns import in_slices

if TYPE_CHECKING:
    from lib.arrival import Arrivals
    from lib.backend.cluster import Cluster
    from lib.backend.leases import Leases
    from lib.backend.pool import Pool
    from lib.ha.executor import Guardian

_MOST_SHOWN = 20


class PoolStatus(NamedTuple):
    """One server. `role` and `state` are those of a Pool; `behind_s` is None where it is not known."""

    number: int
    address: str
    role: str
    state: str
    behind_s: float | None
    failures: int


class RosterStatus(NamedTuple):
    """The workers of one user and database on one server, in one kind of mode.

    workers       how many there are, by their state
    starting      how many are logging in
    waiting       statements, or sessions, that wait for one of them
    oldest_s      for how long the first of those has waited
    """

    pool: int
    database: str
    user: str
    kind: str
    workers: Counter[str]
    starting: int
    waiting: int
    oldest_s: float


class Waiter(NamedTuple):
    """A frontend whose statement waits for a worker."""

    frontend: int
    database: str
    user: str
    peer: str
    wait_s: float


class Status(NamedTuple):
    """All of it.

    frontends   how many there are, by what they do
    logins      how many were let in ("ok") or refused, by SQLSTATE, since the start
    not_ready   why nobody should be sent here now, or ""
    ha          what failover thinks of the primary, "off" where it is off
    switches    how often another server has become the primary
    """

    at: float
    version: str
    started_at: float
    pools: list[PoolStatus]
    rosters: list[RosterStatus]
    frontends: Counter[str]
    waiters: list[Waiter]
    logins: Counter[str]
    not_ready: str
    ha: str
    switches: int

    @property
    def waiting(self) -> int:
        return sum(each.waiting for each in self.rosters)

    @property
    def busy(self) -> int:
        return sum(sum(each.workers.values()) - each.workers["idle"] for each in self.rosters)


class Observer:
    """Looks at the pool, and counts what has gone by."""

    def __init__(self, cluster: Cluster, arrivals: Arrivals, ha: Guardian) -> None:
        self.cluster = cluster
        self.ha = ha
        self.arrivals = arrivals
        self._started_at = time.time()

    def __repr__(self) -> str:
        return f"<Observer of {self.cluster.primary.describe()}>"

    def totals(self) -> Totals:
        """What is counted since the start."""
        tallies = list(self.cluster.tallies.values())
        timed, run_s = sum(tally.timed for tally in tallies), sum(tally.run_s for tally in tallies)
        return Totals(queries(self.cluster).total(), timed, run_s)

    def queue(self) -> tuple[int, int]:
        """(statements that wait, workers that are busy), quickly."""
        crews = [crew for pool in self.cluster.all_pools for crew in pool.all_crews]
        return sum(len(crew.waiting) for crew in crews), sum(len(crew.workers) - len(crew.idle) for crew in crews)

    @property
    def not_ready(self) -> str:
        """Why statements cannot be run now, or ""."""
        primary = self.cluster.primary
        if self.arrivals.is_stopping:
            return "the pool is shutting down"
        if not self.arrivals.directory.is_known:
            return f"{primary.describe()} has not answered yet"
        return f"{primary.describe()} cannot be used" if primary.failures or primary.is_held else ""

    def status(self) -> Status:
        now = time.monotonic()
        pools = [_pool_status(self.cluster, pool) for pool in self.cluster.all_pools]
        rosters = [_crew_status(pool, crew, now) for pool in self.cluster.all_pools for crew in pool.all_crews]
        return Status(
            time.time(), __version__, self._started_at, pools, rosters, self._frontends(), self._waiters(now),
            Counter(self.arrivals.logins), self.not_ready,
            self.ha.machine.state.value if self.ha.settings.enable_ha else "off", self.ha.switches,
        )  # fmt: skip

    def _frontends(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for frontend in in_slices(list(self.arrivals.frontends.values())):
            if isinstance(frontend, (Frontend, SessionFrontend)):
                found[frontend.doing()[0].value] += 1
            else:
                found["in the pseudo database"] += 1
        return found

    def _waiters(self, now: float) -> list[Waiter]:
        """Those that have waited for the longest time."""
        units = (
            unit
            for pool in self.cluster.pools
            for roster in pool.rosters.values()
            for queue in (roster.waiting.quick, roster.waiting.alone)
            for unit in list(queue)[:_MOST_SHOWN]
            if isinstance(unit, Unit) and unit.is_wanted
        )
        return [
            Waiter(
                unit.frontend.key[0], unit.group.login.database, unit.group.login.user, unit.frontend.peer,
                round(now - unit.queued_at, 3),
            )
            for unit in nsmallest(_MOST_SHOWN, units, key=lambda unit: unit.queued_at)
        ]  # fmt: skip


def _pool_status(cluster: Cluster, pool: Pool) -> PoolStatus:
    behind_s = None if pool.is_primary else cluster.replay.behind_s(pool)
    return PoolStatus(pool.number, net.show_address(pool.address), pool.role, pool.state, behind_s, pool.failures)


def _crew_status(pool: Pool, crew: Roster | Leases, now: float) -> RosterStatus:
    mode, oldest = "session", now
    if isinstance(crew, Roster):
        mode, oldest = "statement", min((unit.queued_at for unit in crew.waiting if unit.queued_at), default=now)
    workers = Counter(_state_of(worker) for worker in crew.workers)
    return RosterStatus(
        pool.number, crew.database, crew.user, mode, workers, crew.starting, len(crew.waiting), round(now - oldest, 3)
    )


def _state_of(worker: Worker | Lease) -> str:
    return "held for a session" if isinstance(worker, Worker) and worker.session else worker.state.value
