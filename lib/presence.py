"""Who is here: what is known of a frontend beside itself, how many there are of whom, and what the log says of them.

Green by what it points to; no I/O but the log's.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lib import modes
from lib.auth.access import Counts
from lib.errors import TooManyFrontends
from lib.wire import messages

if TYPE_CHECKING:
    from lib.config import Settings
    from lib.console.pseudodb import PseudoFrontend
    from lib.door import Caller
    from lib.frontend import Frontend
    from lib.sessions import SessionFrontend

log = logging.getLogger(__name__)


class Presence(NamedTuple):
    """One who was let in, for those who look at who is here.

    host, port   of the client; "[local]" and None on a Unix socket
    since        seconds since 1970
    mode         statement, transaction or session, or what it is connected to
    """

    frontend: Frontend | SessionFrontend | PseudoFrontend
    startup: messages.Startup
    host: str
    port: int | None
    since: float
    mode: str


def meant(asked: messages.Startup) -> tuple[messages.Startup, bool]:
    """A startup packet without the suffixes that are ours, and whether it had one: it is to be served by standbys."""
    user, user_reads = modes.without_suffix(asked.user)
    database, database_reads = modes.without_suffix(asked.database)
    reads = user_reads or database_reads
    parameters = modes.read_only(asked.parameters) if reads else asked.parameters
    return replace(asked, user=user, database=database, parameters=parameters), reads


class Headcount:
    """How many frontends there are of each role and in each database: of servers, not of the pseudo database."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._by_role: Counter[str] = Counter()
        self._by_database: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Headcount {self._by_role.total()}>"

    def of(self, user: str, database: str) -> Counts:
        return Counts(self._by_role[user], self._by_database[database])

    @contextmanager
    def one_more(self, user: str, database: str) -> Iterator[None]:
        """Count a frontend as long as it is here.

        raises   TooManyFrontends
        """
        settings, counts = self._settings, self.of(user, database)
        _see_that_there_is_room("role", user, counts.role, "max_user_client_connections", settings)
        _see_that_there_is_room("database", database, counts.database, "max_db_client_connections", settings)
        self._by_role[user] += 1
        self._by_database[database] += 1
        try:
            yield
        finally:
            for counter, name in ((self._by_role, user), (self._by_database, database)):
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]


def _see_that_there_is_room(kind: str, name: str, count: int, setting: str, settings: Settings) -> None:
    limit = getattr(settings, setting)
    if limit and count >= limit:
        raise TooManyFrontends(
            f'too many connections for {kind} "{name}"',
            hint=f"The pool's {setting} is reached: raise it, or use fewer.",
        )


@contextmanager
def logged(presence: Presence, caller: Caller, settings: Settings) -> Iterator[None]:
    """Say that it has come, and that it has left, where the settings want it."""
    frontend, startup = presence.frontend, presence.startup
    pid, came_at = frontend.key[0], time.monotonic()
    how = " by TLS" if caller.stream.is_encrypted else ""
    who = f"frontend {pid}: {startup.user}@{startup.database} from {caller}{how}"
    fields = {**caller.log_fields, "frontend": pid}
    if settings.log_connections:
        log.info("%s has logged in", who, extra={"fields": fields})
    else:
        log.debug("%r is in", frontend)
    try:
        yield
    finally:
        lasted_s = round(time.monotonic() - came_at, 1)
        if settings.log_disconnections:
            extra = {"fields": {**fields, "seconds": lasted_s}}
            log.info("%s has left after %.1f s", who, lasted_s, extra=extra)
        else:
            log.debug("%r has left", frontend)
