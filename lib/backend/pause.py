"""Databases that nothing is sent to: PAUSE, as for a restart of the server or its move to another place.

Green. What comes waits here, as long as it takes; what had a worker already, or had begun to wait for one, is finished
first, transactions and sessions too. Nobody pays for it while nothing is paused: `Cluster.dispatch` is replaced for as
long as something is, and by itself knows nothing of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gevent.event import Event

from lib.backend.leases import Leases
from lib.backend.unit import Unit, Visit

if TYPE_CHECKING:
    from lib.backend.cluster import Cluster
    from lib.backend.lease import Lease
    from lib.backend.roster import Roster
    from lib.backend.worker import Worker


class Pause:
    """What is paused.

    databases   by name
    is_whole    all of them are
    waiting     what came meanwhile, oldest first
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.databases: set[str] = set()
        self.is_whole = False
        self.waiting: deque[Unit | Visit] = deque()
        self._resumed = Event()

    def __repr__(self) -> str:
        what = "everything" if self.is_whole else ", ".join(sorted(self.databases)) or "nothing"
        return f"<Pause {what} waiting={len(self.waiting)}>"

    def holds(self, database: str) -> bool:
        """Whether nothing is sent to this database."""
        return self.is_whole or database in self.databases

    def covers(self, database: str | None) -> bool:
        """Whether nothing is sent to this database, or to any (None)."""
        return self.is_whole if database is None else self.holds(database)

    def pause(self, database: str | None = None) -> None:
        """Keep what comes from now on; None: for all databases."""
        if database is None:
            self.is_whole = True
        else:
            self.databases.add(database)
        self._cluster.dispatch = self._keep  # type: ignore[method-assign]

    def resume(self, database: str | None = None) -> None:
        """Have what has waited run; None: all of it."""
        if database is None:
            self.is_whole = False
            self.databases.clear()
        self.databases.discard(database or "")
        if not (self.is_whole or self.databases):
            vars(self._cluster).pop("dispatch", None)
        self._resumed.set()
        self._resumed.clear()
        waiting, self.waiting = self.waiting, deque()
        for unit in waiting:
            if unit.is_wanted:
                self._cluster.dispatch(unit)

    def _keep(self, unit: Unit | Visit) -> None:
        if self.holds(unit.group.login.database):
            unit.queued_at = time.monotonic()
            self.waiting.append(unit)
        else:
            type(self._cluster).dispatch(self._cluster, unit)

    def refuse(self, raw: bytes) -> None:
        """What waits here is told this error, and does not run."""
        waiting, self.waiting = self.waiting, deque()
        for unit in waiting:
            if unit.is_wanted:
                unit.refuse(raw)

    def wait(self, timeout_s: float) -> None:
        """Park until something was resumed."""
        self._resumed.wait(timeout_s)

    # --- what is still there -----------------------------------------------------------------------------------------

    def _concerned(self, database: str | None) -> Iterator[Roster | Leases]:
        for pool in self._cluster.all_pools:
            for crew in pool.all_crews:
                if database in (None, crew.database):
                    yield crew

    def is_quiet(self, database: str | None = None) -> bool:
        """Whether no worker has anything to do there, and nothing waits for one."""
        concerned = self._concerned(database)
        is_busy = any(each.busy() or each.waiting or each.starting for each in concerned)
        return not is_busy and not self._cluster.replay.waiting

    def retire(self, database: str | None = None) -> None:
        """Every worker goes as soon as what it does is done."""
        for crew in self._concerned(database):
            crew.retire_all()

    def workers(self, database: str | None = None) -> list[Worker | Lease]:
        """All that are there."""
        return [worker for crew in self._concerned(database) for worker in crew.workers]
