"""The pools, who is primary, who is grouped with whom, and what each database's catalog says.

Green. This is what frontends see of the server's side: they hand it units, and it finds the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import gevent
from gevent.event import Event

from lib import net
from lib.backend import dialogue, tuning
from lib.backend.catalogs import MAX_CUSTOMS, DatabaseCatalog
from lib.backend.leaving import Leaving
from lib.backend.pool import Pool
from lib.backend.replay import Ask, Replay
from lib.backend.settings import Memo
from lib.backend.unit import Unit, Visit
from lib.route import Router

if TYPE_CHECKING:
    from lib.backend.lease import Lease
    from lib.backend.worker import Worker
    from lib.config import Settings
    from lib.frontend import Frontend
    from lib.tlsfiles import Approach, Watched


class Login:
    """What a backend is started with. One object per login, so that it is its own key.

    packet      settings that only a startup packet can set
    frontends   how many are there now
    """

    __slots__ = ("__weakref__", "database", "frontends", "packet", "user")

    def __init__(self, user: str, database: str, packet: tuning.Pairs) -> None:
        self.user = user
        self.database = database
        self.packet = packet
        self.frontends = 0

    def __repr__(self) -> str:
        return f"<Login {self.user}@{self.database} frontends={self.frontends}>"

    @property
    def startup(self) -> dict[str, str]:
        return {"user": self.user, "database": self.database, **dict(self.packet)}


class Group:
    """The frontends of one login with the same settings; a worker is tuned to one group at a time.

    settings       in canonical order
    placeholders   names of custom settings among them, and of those that its frontends have set themselves
    parameters     what the server reports of a worker tuned to it (ParameterStatus); empty until one was
    frontends      who is told when that changes
    """

    __slots__ = ("__weakref__", "frontends", "login", "parameters", "placeholders", "settings")

    def __init__(self, login: Login, settings: tuning.Pairs, customs: frozenset[str] = frozenset()) -> None:
        self.login = login
        self.settings = settings
        self.placeholders = tuning.placeholders(settings) | customs
        self.parameters: dict[str, str] = {}
        self.frontends: set[Frontend] = set()

    def __repr__(self) -> str:
        return f"<Group {self.login!r} settings={len(self.settings)} frontends={len(self.frontends)}>"

    def restore(self, resets: frozenset[str], local: bool = False) -> str:
        """SQL that brings back what a RESET of these names ('*': all) has taken away, or a SET LOCAL ... TO DEFAULT;
        empty when nothing has."""
        return tuning.restore(self.settings, resets, local)

    def learn(self, parameters: dict[str, str]) -> None:
        """A worker tuned to the group reports these values; frontends that were told others are told now."""
        if not self.parameters:
            self.parameters = dict(parameters)
            return
        if parameters == self.parameters:
            return
        changed = {name: value for name, value in parameters.items() if self.parameters.get(name) != value}
        self.parameters.update(changed)
        for frontend in list(self.frontends):
            if frontend.worker is None:  # else its own worker tells it, and what it has SET itself stays
                frontend.tell_parameters(changed)


class Cluster:
    """All servers.

    answer_for    (login, standby) -> what proves to a server who we are, from earlier logins or conn_params
    query         (address, database, sql) -> rows, as admin_cnn
    replay        how far the servers are
    approach      how servers are connected to by TLS, None when they are not
    crowded       set while a unit waits or rides: limits are then kept more closely
    is_watched    the same
    turns         whether what arrives was late because of us
    on_ddl        called when DDL was run through the pool
    on_leave      called to have all other connections of ours to a database closed
    leaving       the databases that nobody may be connected to for a moment
    settled       (group, unit that was run in it) -> the group that its frontend is in since
    """

    def __init__(
        self,
        settings: Settings,
        answer_for: Callable[[Login], dialogue.Answer],
        query: Callable[[net.Address, str, str], list[tuple]],
        ask: Ask | None = None,
        tls: Watched[Approach] | None = None,
    ) -> None:
        """`ask` is like `query`, for questions that may not wait for those: how far a server is."""
        self.settings = settings
        self.on_ddl: Callable[[], None] = lambda: None
        self.on_leave: Callable[[str], None] = lambda database: None
        self.leaving = Leaving(lambda: self.pools, self._forget)
        self.answer_for = answer_for
        self._query = query
        self._tls = tls
        self.crowded = Event()
        self.is_watched = False
        self.turns = net.Turns()
        self._logins: WeakValueDictionary[tuple, Login] = WeakValueDictionary()
        self._groups: WeakValueDictionary[tuple, Group] = WeakValueDictionary()
        self.settled = Memo()
        self._catalogs: dict[str, DatabaseCatalog] = {}
        self.primary = Pool(self, 1, settings.master, is_primary=True)
        self.standbys = [Pool(self, 2 + i, address, is_primary=False) for i, address in enumerate(settings.slaver)]
        self._turn = 0
        self.replay = Replay(settings, self.primary, self.standbys, ask or query, self._standby)

    @property
    def approach(self) -> Approach | None:
        return self._tls.made if self._tls is not None else None

    @property
    def pools(self) -> list[Pool]:
        return [self.primary, *self.standbys]

    # --- who belongs together ----------------------------------------------------------------------------------------

    def login(self, user: str, database: str, packet: tuning.Pairs) -> Login:
        login = self._logins.get((user, database, packet))
        if login is None:
            login = self._logins[user, database, packet] = Login(user, database, packet)
        return login

    def group(self, login: Login, settings: tuning.Pairs, customs: frozenset[str] = frozenset()) -> Group:
        """The group of these settings; `customs` are names of custom settings that its frontends have set since."""
        customs -= tuning.placeholders(settings)
        group = self._groups.get((login, settings, customs))
        if group is None:
            group = self._groups[login, settings, customs] = Group(login, settings, customs)
        return group

    def group_with(self, group: Group, customs: frozenset[str]) -> Group:
        """The group of a frontend of `group` that has set custom settings, now that it knows their names.

        A backend never forgets the name of one: RESET ALL leaves '' where there was nothing. So its worker is only for
        those who would find that on a connection of their own.
        """
        if customs <= group.placeholders or len(group.placeholders | customs) > MAX_CUSTOMS:
            return group
        found = self.group(group.login, group.settings, group.placeholders | customs)
        found.parameters = found.parameters or dict(group.parameters)
        return found

    # --- dispatch ----------------------------------------------------------------------------------------------------

    def dispatch(self, unit: Unit | Visit) -> None:
        """Find the server for `unit`, and let its roster find the worker."""
        login = unit.group.login
        pool = self.primary
        if self.standbys and isinstance(unit, Unit) and unit.frontend.may_use_standbys:
            is_read_only = unit.frontend.is_read_only
            if unit.verdict.standby or is_read_only:
                mark = unit.frontend.mark
                if mark is not None and mark.asked >= 0:
                    found = self.replay.find(unit, mark)
                    if found is None:
                        return
                    pool = found
                else:
                    pool = self._standby(login)
                    if pool is self.primary and is_read_only:
                        pool = self.next_standby() or pool
        roster = pool.rosters.get(login) or pool.roster(login)
        roster.dispatch(unit)

    def _standby(self, login: Login, lsn: int = 0) -> Pool:
        """The standbys in turn, those that have workers and have replayed up to `lsn`; where there is none it is the
        primary's turn, and where there are no workers yet they are started."""
        for _ in self.standbys:
            self._turn += 1
            pool = self.standbys[self._turn % len(self.standbys)]
            if pool.is_down or pool.is_behind:
                continue
            roster = pool.roster(login)
            if not roster.workers:
                roster.ensure()
            elif pool.progress.lsn >= lsn:
                return pool
        return self.primary

    def next_standby(self) -> Pool | None:
        """The standbys in turn, those that are not left out: who only reads waits for their workers."""
        for _ in self.standbys:
            self._turn += 1
            pool = self.standbys[self._turn % len(self.standbys)]
            if not (pool.is_down or pool.is_behind):
                return pool
        return None

    def start_standby_workers(self, login: Login) -> None:
        """A frontend of conn_params, or one that only reads, has come: before its first statement that wants them."""
        for pool in self.standbys:
            pool.roster(login).ensure()

    # --- what is known of a database ---------------------------------------------------------------------------------

    def router(self, database: str) -> Router:
        """What tells the class of a statement in `database`. Until its catalog was scanned all of it is opaque."""
        known = self._catalogs.get(database)
        if known is None:
            known = self._catalogs[database] = DatabaseCatalog(
                database, lambda sql: self._query(self.primary.address, database, sql), lambda: self._renew(database)
            )
            known.changed()
        return known.router

    def catalog_changed(self, database: str) -> None:
        """DDL was run through the pool: nothing that was known of the catalog holds until it was scanned again."""
        self.on_ddl()
        if database in self._catalogs:
            self._catalogs[database].changed()

    def customs(self, database: str) -> set[str]:
        """Names of custom settings that have been seen in the database's functions and statements."""
        known = self._catalogs.get(database)
        return known.customs if known is not None else set()

    def learn_customs(self, database: str, names: Iterable[str]) -> None:
        if database in self._catalogs:
            self._catalogs[database].learn(names)

    def left(self, database: str, texts: Iterable[bytes], traces: Sequence[str]) -> None:
        """Opaque statements were found to have left `traces` in their session, which was cleaned."""
        if database in self._catalogs:
            self._catalogs[database].left(texts, traces)

    def _renew(self, database: str) -> None:
        """What was taken for harmless is not: clean the workers on which it may have run."""
        for pool in self.pools:
            for login, roster in pool.rosters.items():
                if login.database == database:
                    roster.renew()

    def look_for_ddl(self) -> None:
        """DDL that did not go through the pool shows in the catalog's own counters."""
        in_use = {database for pool in self.pools for _, database in pool.users_and_databases()}
        for database, known in list(self._catalogs.items()):
            if database in in_use:
                if database not in self.leaving:
                    known.look()
            else:
                del self._catalogs[database]  # so that nothing of ours keeps it from being dropped

    def _forget(self, database: str) -> None:
        self._catalogs.pop(database, None)
        self.on_leave(database)

    # --- limits ------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """A unit waits or rides: its limits are kept closely until that is over."""
        if not self.is_watched:
            self.is_watched = True
            self.crowded.set()
            self.turns.start()

    def sweep(self, now: float) -> bool:
        """Keep the limits that are a matter of time; returns whether a unit waits or rides."""
        for pool in self.pools:
            pool.sweep(now)
            if pool.is_down and now - pool.probed_at >= self.settings.standby_check_interval:
                pool.probed_at = float("inf")  # until the probe has an answer
                gevent.spawn(pool.probe)
        rosters = [roster for pool in self.pools for roster in pool.rosters.values()]
        goes_on = any(roster.waiting or roster.has_riders for roster in rosters)
        if self.is_watched and not goes_on:
            self.is_watched = False
            self.crowded.clear()
            self.turns.stop()
        return goes_on

    def retire_workers(self, user: str | None = None) -> None:
        """What workers of `user` (None: of everybody) were given when they logged in does not hold any more."""
        for pool in self.pools:
            for login, roster in pool.rosters.items():
                if user in (None, login.user):
                    roster.retire_all()
            for leases in pool.lent.values():
                if user in (None, leases.user):
                    leases.retire_all()

    def busy_workers(self) -> list[Worker | Lease]:
        rosters = [roster for pool in self.pools for roster in pool.rosters.values()]
        lent = [leases for pool in self.pools for leases in pool.lent.values()]
        return [*(each for roster in rosters for each in roster.busy()), *(each for one in lent for each in one.busy())]

    def close(self) -> None:
        for pool in self.pools:
            pool.close()
