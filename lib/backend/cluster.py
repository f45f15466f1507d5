"""The pools, who is primary, who belongs together, and what each database's catalog says.

Green. This is what frontends see of the server's side: they hand it units, and it finds the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import gevent
from gevent.event import Event

from lib import net, turns
from lib.backend import dialogue, tuning
from lib.backend.catalogs import MAX_CUSTOMS, DatabaseCatalog
from lib.backend.groups import Group, Login
from lib.backend.leaving import Leaving
from lib.backend.pause import Pause
from lib.backend.pool import Pool
from lib.backend.replay import Ask, Replay
from lib.backend.settings import Memo
from lib.backend.unit import Unit, Visit
from lib.metrics import Tallies
from lib.route import Router
from lib.wire.prepared import Registry

if TYPE_CHECKING:
    from lib.backend.lease import Lease
    from lib.backend.worker import Worker
    from lib.config import Settings
    from lib.tlsfiles import Approach, Watched


class Cluster:
    """All servers.

    answer_for    (login, standby) -> what proves to a server who we are, from earlier logins or conn_params
    query         (address, database, sql) -> rows, as admin_cnn
    replay        how far the servers are
    approach      how servers are connected to by TLS, None when they are not
    crowded       set while a unit waits or rides: limits are then kept more closely
    is_watched    the same
    turns         whether what arrives was late because of us
    former        servers that were the primary, or were taken from the standbys as they follow none: nothing is sent
                  to them
    departing     servers that were removed, as long as their workers finish what they do
    on_doubt      called when the primary has lost a worker or does not start one
    on_switch     called with the address of the primary that was replaced
    on_ddl        called when DDL was run through the pool
    on_leave      called to have all other connections of ours to a database closed
    tallies       what is counted
    pause         the databases that nothing is sent to, because somebody has said so
    leaving       the databases that nobody may be connected to for a moment
    settled       (group, unit that was run in it) -> the group that its frontend is in since
    statements    prepared statements, whoever has them
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
        self.tls = tls
        self.crowded = Event()
        self.is_watched = False
        self.turns = turns.Turns()
        self.statements = Registry()
        self._logins: WeakValueDictionary[tuple, Login] = WeakValueDictionary()
        self._groups: WeakValueDictionary[tuple, Group] = WeakValueDictionary()
        self.settled = Memo()
        self._catalogs: dict[str, DatabaseCatalog] = {}
        self.primary = Pool(self, 1, settings.master, is_primary=True)
        self.standbys = [Pool(self, 2 + i, address, is_primary=False) for i, address in enumerate(settings.slaver)]
        self.former: list[Pool] = []
        self.departing: list[Pool] = []
        self.on_doubt: Callable[[], None] = lambda: None
        self.on_switch: Callable[[net.Address], None] = lambda address: None
        self._numbers = 1 + len(self.standbys)
        self._turn = 0
        self.tallies = Tallies()
        self.pause = Pause(self)
        self.replay = Replay(settings, self.primary, self.standbys, ask or query, self._standby)

    @property
    def approach(self) -> Approach | None:
        return self.tls.made if self.tls is not None else None

    @property
    def pools(self) -> list[Pool]:
        return [self.primary, *self.standbys]

    @property
    def all_pools(self) -> list[Pool]:
        """Those that nothing is sent to included, by their numbers."""
        return sorted((*self.pools, *self.former, *self.departing), key=lambda pool: pool.number)

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

    def would_wait(self, login: Login) -> bool:
        """Whether what is for the primary has to wait for a worker now."""
        roster = self.primary.rosters.get(login)
        return roster is None or not roster.idle

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

    def routers(self) -> list[tuple[str, Router]]:
        """Of every database that is in use."""
        return [(database, known.router) for database, known in self._catalogs.items()]

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

    # --- servers that come, go, or change their part -----------------------------------------------------------------

    def add_standby(self, address: net.Address) -> Pool:
        """One more standby, which is used from now on."""
        self._numbers += 1
        pool = Pool(self, self._numbers, address, is_primary=False)
        self._join(pool)
        return pool

    def remove_standby(self, pool: Pool) -> None:
        """Nothing new is sent to it; its workers go when they are done. It may be a server that was left out before."""
        if pool in self.former:
            self.former.remove(pool)
        else:
            self.standbys.remove(pool)
            self.replay.left(pool)
        pool.begin_anew(is_primary=False)
        if pool.has_workers:
            self.departing.append(pool)

    def _join(self, pool: Pool) -> None:
        was_on = self.replay.is_on
        self.standbys.append(pool)
        self.standbys.sort(key=lambda each: each.number)
        self.replay.joined(pool)
        if self.replay.is_on and not was_on:
            self._begin_marking()

    def _begin_marking(self) -> None:
        """There is a first standby: whatever frontends have written before, their reads there are to see it."""
        for group in list(self._groups.values()):
            for frontend in list(group.frontends):
                frontend.mark = self.replay.mark_for(group.login.database, frontend.may_use_standbys)
                if frontend.mark is not None:
                    frontend.mark.wrote(self.primary.progress)
        for leases in self.primary.lent.values():
            for lease in leases.busy():
                lease.begin_marking()

    def switch(self, pool: Pool, keep: bool = False) -> None:
        """`pool`, which was a standby, is the primary. What was in flight on the old one is lost, and what waited for
        it is run on the new one.

        keep    the old one is a standby from now on, and takes reads
        """
        old = self.primary
        if pool is old:
            old.release()
            return
        if pool in self.standbys:
            self.standbys.remove(pool)
            self.replay.left(pool)
        if pool in self.former:
            self.former.remove(pool)
        pool.begin_anew(is_primary=True)
        self.primary = pool
        self.replay.primary_changed(pool)
        self.on_switch(old.address)
        old.abandon("the primary has been replaced")
        old.begin_anew(is_primary=False)
        old.is_held = False
        self.former.append(old)
        if keep:
            self.rejoined(old)
        for known in self._catalogs.values():
            known.changed()

    def rejoined(self, pool: Pool) -> None:
        """A former primary follows the new one, and is used as a standby."""
        if pool in self.former:
            self.former.remove(pool)
            pool.begin_anew(is_primary=False)
            self._join(pool)

    def leave_out(self, pool: Pool) -> None:
        """A standby is none any more: nothing is sent to it until it is."""
        if pool in self.standbys:
            self.standbys.remove(pool)
            self.replay.left(pool)
            pool.begin_anew(is_primary=False)
            self.former.append(pool)

    # --- limits ------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """A unit waits or rides: its limits are kept closely until that is over."""
        if not self.is_watched:
            self.is_watched = True
            self.crowded.set()

    def sweep(self, now: float) -> bool:
        """Keep the limits that are a matter of time; returns whether a unit waits or rides."""
        for pool in (*self.former, *self.departing):
            pool.sweep_outgoing(now)
            if pool in self.departing and not pool.has_workers:
                self.departing.remove(pool)
        for pool in self.pools:
            pool.sweep(now)
            if pool.is_down and now - pool.probed_at >= self.settings.standby_check_interval:
                pool.probed_at = float("inf")  # until the probe has an answer
                gevent.spawn(pool.probe)
        goes_on = any(pool.is_crowded for pool in (*self.pools, *self.former, *self.departing))
        if self.is_watched and not goes_on:
            self.is_watched = False
            self.crowded.clear()
        rosters = (roster for pool in self.pools for roster in pool.rosters.values())
        if not (goes_on and any(roster.batches or roster.has_riders for roster in rosters)):
            self.turns.stop()  # it costs a callback a turn, and only the learning of paces asks for it
        return goes_on

    def retire_workers(self, user: str | None = None) -> None:
        """What workers of `user` (None: of everybody) were given when they logged in does not hold any more."""
        for pool in self.pools:
            for crew in pool.crews:
                if user in (None, crew.user):
                    crew.retire_all()

    def freshness_changed(self) -> None:
        """A reload has changed what reads on standbys are sure to see, or how far behind standbys may be."""
        if self.replay.settings_changed():
            self._begin_marking()

    def settings_changed(self) -> None:
        """A reload: what was made of the settings is made again."""
        for pool in self.pools:
            pool.settings_changed()

    def busy_workers(self) -> list[Worker | Lease]:
        return [worker for pool in self.all_pools for crew in pool.all_crews for worker in crew.busy()]

    def close(self) -> None:
        for pool in self.pools:
            pool.close()
