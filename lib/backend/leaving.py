"""Databases that nobody may be connected to for a moment: DROP DATABASE, ALTER DATABASE ... RENAME, CREATE DATABASE
... TEMPLATE.

Green. The pool's own connections to such a database go, but only where none of its frontends is in it: those are in the
way as they are without a pool, and the server says so. It waits some seconds for others to leave; so long we look again
whether a frontend has, and whether something of ours has come back.

source: sql-dropdatabase.html; CountOtherDBBackends() of procarray.c
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent

if TYPE_CHECKING:
    from lib.backend.pool import Pool

_SERVER_WAITS_S = 5.0
_LOOK_EVERY_S = 0.05


class Leaving:
    """Lets go of databases.

    pools    those whose workers are in the way
    forget   closes what else of ours is connected to a database
    """

    def __init__(self, pools: Callable[[], list[Pool]], forget: Callable[[str], None]) -> None:
        self._pools = pools
        self._forget = forget
        self._again: dict[str, int] = {}  # databases that are being left, and how often that is still to be looked at

    def __repr__(self) -> str:
        return f"<Leaving {sorted(self._again)}>"

    def __contains__(self, database: str) -> bool:
        return database in self._again

    def leave(self, databases: frozenset[str]) -> None:
        """Called before a statement runs that needs `databases` without connections."""
        for database in databases:
            is_new = database not in self._again
            self._again[database] = round(_SERVER_WAITS_S / _LOOK_EVERY_S)
            self._let_go(database)
            if is_new:
                gevent.spawn(self._go_on, database)

    def _go_on(self, database: str) -> None:
        while self._again[database]:
            gevent.sleep(_LOOK_EVERY_S)
            self._again[database] -= 1
            self._let_go(database)
        del self._again[database]

    def _let_go(self, database: str) -> None:
        crews = [crew for pool in self._pools() for crew in pool.crews if crew.database == database]
        if any(crew.is_used for crew in crews):
            return
        self._forget(database)
        for crew in crews:
            crew.retire_all()
