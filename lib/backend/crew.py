"""What all have in common that have backends of one user and database on one server: rosters and leases.

Green. A roster's workers are shared by frontends, those of leases are lent to one at a time. For `Pool` and whoever
counts, shows, holds or closes backends that makes no difference: it goes through a pool's crews.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.backend import dialogue
from lib.errors import NoWorkerInTime, PoolError, ServerUnreachable
from lib.metrics import Key, Tally

if TYPE_CHECKING:
    from lib.backend.groups import Login
    from lib.backend.pool import Pool


class Crew:
    """The backends of `user` and `database` on the server of `pool`.

    starting    those that are logging in
    is_closed   there will be no more
    tally       what is counted
    """

    def __init__(self, pool: Pool, user: str, database: str) -> None:
        self.pool = pool
        self.cluster = pool.cluster
        self.address = pool.address
        self.user = user
        self.database = database
        self.tally: Tally = pool.cluster.tallies[Key(pool.number, database, user)]
        self.starting = 0
        self.is_closed = False

    def describe(self) -> str:
        return f"{self.user}@{self.database} on {self.pool.describe()}"

    def log_in(self, login: Login, answer: dialogue.Answer) -> dialogue.Backend:
        """Start a backend with the packet of `login`; the pool hears how it went."""
        try:
            backend = dialogue.open_backend(
                self.address, login.startup, answer, self.pool.settings.connect_timeout, self.cluster.approach
            )
            self._see_that_it_is_one(backend)
        except PoolError as error:
            self.pool.start_failed(error)
            raise
        self.pool.start_succeeded(backend)
        return backend

    def _see_that_it_is_one(self, backend: dialogue.Backend) -> None:
        """A primary that has become a standby, as others have switched over and this pool was not told yet, is none:
        who writes waits for the new one.

        raises   ServerUnreachable, ServerRefused
        """
        if not (self.pool.is_primary and self.pool.settings.peers):
            return
        try:
            if dialogue.is_in_recovery(backend, self.pool.settings.connect_timeout):
                raise ServerUnreachable(f"{self.pool.describe()} is in recovery: it is no primary any more")
        except BaseException:
            backend.stream.close()
            raise

    def primary_is_held(self) -> NoWorkerInTime:
        """What is told to those who have waited for that in vain."""
        return NoWorkerInTime(
            "the primary did not answer within query_wait_timeout",
            detail=f"Nothing is sent to {self.pool.describe()} until it answers or another server is promoted.",
            hint="The log of the pool says what it waits for.",
        )

    # --- what is known of the database -------------------------------------------------------------------------------

    @property
    def customs(self) -> set[str]:
        """Names of custom settings that have been seen in the database."""
        return self.cluster.customs(self.database)

    def learn_customs(self, names: frozenset[str]) -> None:
        self.cluster.learn_customs(self.database, names)

    def catalog_changed(self) -> None:
        self.cluster.catalog_changed(self.database)
