"""One server: its crews, and whether it answers."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from lib import net
from lib.backend import dialogue
from lib.backend.freshness import Progress
from lib.backend.leases import Leases
from lib.backend.roster import Roster
from lib.errors import PoolError

if TYPE_CHECKING:
    from lib.backend.cluster import Cluster
    from lib.backend.groups import Login
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
    is_held     a primary that nothing is sent to, as it has not answered or is about to be replaced
    progress    how far it is, as it has answered last
    failures    attempts to start a worker that failed, since the last one that did not
    rosters     crews that share their workers, by login
    lent        crews whose backends are lent for whole sessions, by user and database
    outgoing    crews of before it got another part, whose workers finish what they do
    """

    def __init__(self, cluster: Cluster, number: int, address: net.Address, is_primary: bool) -> None:
        self.cluster = cluster
        self.settings: Settings = cluster.settings
        self.number = number
        self.address = address
        self.is_primary = is_primary
        self.is_down = self.is_behind = self.is_held = False
        self.progress = Progress()
        self.failures = 0
        self.rosters: dict[Login, Roster] = {}
        self.lent: dict[tuple[str, str], Leases] = {}
        self.outgoing: list[Roster | Leases] = []
        self.probed_at = 0.0
        self._workers_started = 0
        self._said, self._said_at = "", 0.0  # the last reason that no worker could be started

    def __repr__(self) -> str:
        down = " DOWN" if self.is_down else " BEHIND" if self.is_behind else " HELD" if self.is_held else ""
        return f"<Pool {self.number} {self.describe()}{down} rosters={len(self.rosters)}>"

    def describe(self) -> str:
        return f"{'primary' if self.is_primary else 'standby'} {net.show_address(self.address)}"

    @property
    def role(self) -> str:
        return "primary" if self.is_primary else "former" if self in self.cluster.former else "standby"

    @property
    def state(self) -> str:
        """Whether it is used, in a word: up, behind, down, held (nothing is sent to it for the moment), left out (until
        it is a standby again), or leaving (removed, and finishing what it does)."""
        if self in self.cluster.departing:
            return "leaving"
        if self in self.cluster.former:
            return "left out"
        if self.is_held:
            return "held"
        if self.is_down or (self.is_primary and self.failures):
            return "down"
        return "behind" if self.is_behind else "up"

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
            leases = self.lent[user, database] = Leases(self, user, database)
        return leases

    @property
    def crews(self) -> list[Roster | Leases]:
        """All that have backends here: those that share them, and those who have one each for their sessions."""
        return [*self.rosters.values(), *self.lent.values()]

    @property
    def all_crews(self) -> list[Roster | Leases]:
        """Those included whose workers only finish what they do."""
        return [*self.crews, *self.outgoing]

    def has_room(self, user: str, database: str, is_urgent: bool = False) -> bool:
        """Whether max_user_connections and max_db_connections allow one backend more.

        is_urgent   whoever asks has none: one that is idle goes for it
        """
        settings = self.settings
        if not (settings.max_user_connections or settings.max_db_connections):
            return True
        for limit, crews in (
            (settings.max_user_connections, [crew for crew in self.crews if crew.user == user]),
            (settings.max_db_connections, [crew for crew in self.crews if crew.database == database]),
        ):
            backends = sum(len(crew.workers) + crew.starting for crew in crews)
            if limit and backends >= limit and not (is_urgent and self._close_idle(crews)):
                return False
        return True

    def _close_idle(self, crews: list[Roster | Leases]) -> bool:
        """Close the backend that has been idle for the longest time."""
        idle = [worker for crew in crews if isinstance(crew, Leases) or not crew.waiting for worker in crew.idle]
        if not idle:
            return False
        min(idle, key=lambda each: each.idle_since).close()
        return True

    def settings_changed(self) -> None:
        """A reload: what was made of the settings is made again."""
        for crew in self.crews:
            crew.settings_changed()

    def close_idle_leases(self) -> bool:
        """The server is full: backends of one login that nobody has go. False when there were none."""
        return any(leases.close_idle() for leases in list(self.lent.values()))

    def users_and_databases(self) -> set[tuple[str, str]]:
        """Who has backends here, or waits for one."""
        return {(crew.user, crew.database) for crew in self.crews}

    def probe(self) -> None:
        """Try whether a standby that failed takes a login again; it hears of it in `start_failed` or `start_succeeded`.

        Any login will do: what is wanted is a server that takes one.
        """
        try:
            for roster in list(self.rosters.values())[:1]:
                roster.start(self.cluster.answer_for(roster.login))
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
        if self.failures == 1 or str(error) != self._said:
            log.warning("%s cannot be used: %s", self.describe(), error)
            self._said, self._said_at = str(error), time.monotonic()
        if self.is_primary:
            self.cluster.on_doubt()
        if not self.is_primary and not self.is_down:
            self.is_down = True
            self.probed_at = time.monotonic()
            for roster in self.rosters.values():
                roster.hand_over()

    def start_succeeded(self, backend: dialogue.Backend) -> None:
        if not self.is_primary:
            was_away = self.failures > 0 or not any(crew.workers for crew in self.crews)
            self.cluster.replay.came_in(self, was_away)
        if self.failures:
            log.info("%s answers again after %d failures", self.describe(), self.failures)
        self.failures = 0
        self.is_down = False

    @property
    def has_workers(self) -> bool:
        return any(crew.workers or crew.starting for crew in self.all_crews)

    @property
    def is_crowded(self) -> bool:
        """Whether a unit waits or rides here."""
        rosters = (crew for crew in self.all_crews if isinstance(crew, Roster))
        return any(roster.waiting or roster.has_riders for roster in rosters)

    def sweep_outgoing(self, now: float) -> None:
        """What only finishes what it does has its limits all the same."""
        for crew in self.outgoing[:]:
            if isinstance(crew, Roster):
                crew.look(now)
            if not (crew.workers or crew.starting):
                self.outgoing.remove(crew)

    def sweep(self, now: float) -> None:
        if self.outgoing:
            self.sweep_outgoing(now)
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
            if roster.is_empty:
                del self.rosters[login]

    # --- a primary that is doubted or replaced -----------------------------------------------------------------------

    def hold(self) -> None:
        """Send nothing more: what comes waits."""
        self.is_held = True
        for crew in self.crews:
            crew.hold()

    def hold_gently(self) -> bool:
        """Begin nothing more, and let what is under way end, transactions too: whether all of it has. Called again
        until it has."""
        self.is_held = True
        return all([crew.hold_gently() for crew in self.crews])  # noqa: C419 (each has to be told)

    def release(self) -> None:
        if self.is_held:
            self.is_held = False
            for crew in self.crews:
                crew.release()

    def abandon(self, reason: str) -> None:
        """The server is given up, with all that is in flight on it."""
        for crew in self._dismissed():
            crew.abandon(reason)

    def begin_anew(self, is_primary: bool) -> None:
        """It has another part now: workers of the old one go when they are done, and nothing is known of it."""
        crews = self._dismissed()
        self.is_primary = is_primary
        self.is_down = self.is_behind = False
        self.failures = 0
        self.progress = Progress()
        self.outgoing += crews
        for crew in crews:
            crew.close()

    def _dismissed(self) -> list[Roster | Leases]:
        """The crews, which are not this server's any more."""
        crews, self.rosters, self.lent = self.crews, {}, {}
        return crews

    def close(self) -> None:
        if self.is_held:
            self.abandon("the pool is shut down")
        for crew in self.crews:
            crew.close()
