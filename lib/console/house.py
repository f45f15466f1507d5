"""What commands look at and act on, and which function answers which command.

Green by what it points to. `Process` makes one House; a module of replies registers its functions with `@reply`, and
the console refuses to start when a command has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from gevent.lock import BoundedSemaphore

from lib.console import commands
from lib.console.averages import Averages
from lib.console.parsing import Request
from lib.net import show_address

if TYPE_CHECKING:
    from lib.admin import Admin
    from lib.arrival import Arrivals
    from lib.backend.cluster import Cluster
    from lib.config import Settings
    from lib.ha.executor import Guardian
    from lib.reload import Reload

Row = tuple[Any, ...]


class Caller(Protocol):
    """The frontend that has typed a command, as a reply sees it."""

    user: str
    key: tuple[int, bytes]

    def may(self, privilege: commands.Privilege) -> bool: ...

    def check_wanted(self) -> None:
        """raises   StatementCancelled when what it runs is canceled, EOFError when the frontend has gone"""

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait; raises StatementCancelled when it is canceled, EOFError when the frontend has gone."""


class House:
    """The pool, as commands see it.

    stop        called to end the process: how ("", "wait_for_clients", "wait_for_servers")
    ha          switches from one primary to another
    reload      changes settings; None where nobody can
    averages    as PgBouncer's SHOW STATS has them
    serial      held by whoever changes something: one at a time
    """

    def __init__(
        self, cluster: Cluster, arrivals: Arrivals, admin: Admin, stop: Callable[[str], None] = lambda how: None,
        reload: Reload | None = None,
    ) -> None:  # fmt: skip
        self.cluster = cluster
        self.arrivals = arrivals
        self.admin = admin
        self.stop = stop
        self.reload = reload
        self.ha: Guardian | None = None
        self.started_at = time.time()
        self.averages = Averages(time.monotonic())
        self.serial = BoundedSemaphore(1)

    @property
    def settings(self) -> Settings:
        return self.cluster.settings

    def in_use(self) -> set[tuple[str, str]]:
        """Databases and users that have workers, or wait for one."""
        return {(database, user) for pool in self.cluster.pools for user, database in pool.users_and_databases()}


Reply = Callable[[House, Caller, Request], Iterable[Row] | None]
REPLIES: dict[str, Reply] = {}


def reply(words: str) -> Callable[[Reply], Reply]:
    """Have a function answer the command of these words: with rows of its columns, or with nothing.

    raises   ValueError when there is no such command, or another function for it
    """
    if words in REPLIES or words not in {each.words for each in commands.TABLE}:
        raise ValueError(f"no command to be answered: {words!r}")

    def register(function: Reply) -> Reply:
        REPLIES[words] = function
        return function

    return register


def shown(value: Any) -> str:
    """An argument as it is typed; nothing for one that was not given."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return show_address(value)
    return str(value)


def missing() -> list[str]:
    """Commands that nobody answers."""
    return [each.words for each in commands.TABLE if each.words not in REPLIES]
