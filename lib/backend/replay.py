"""How far the servers are: reads that wait for a standby to have their writes, and standbys that are too far behind.

Green. Servers are asked through admin_cnn, one question at a time each, and only when somebody needs the answer; one
answer serves all who wait. A read that waits holds no worker. What follows from the answers is decided in `freshness`
and `lag`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from lib import net
from lib.backend import freshness
from lib.backend.freshness import NEVER, REPLAYED_SQL, WRITTEN_SQL, Mark, Progress
from lib.backend.lag import History, Standing
from lib.errors import AdminQueryFailed, PoolError

if TYPE_CHECKING:
    from lib.backend.groups import Login
    from lib.backend.pool import Pool
    from lib.backend.unit import Unit
    from lib.config import Settings

log = logging.getLogger(__name__)

Ask = Callable[[net.Address, Any, str], list[tuple]]

_REFRESH_S = 0.05  # how often a standby is asked that no read waits for, but that might serve some
_IMPATIENT_S = 0.1  # how often a standby is looked at of which nothing is known yet


class _Waiting:
    """A read that waits for a standby: `asked` and `lsn` as in a Mark, `since` when and until which `deadline`."""

    __slots__ = ("asked", "deadline", "lsn", "since", "unit")

    def __init__(self, unit: Unit, mark: Mark, now: float, patience_s: float) -> None:
        self.unit = unit
        self.asked = mark.asked
        self.lsn = mark.lsn
        self.since = now
        self.deadline = now + patience_s


class Replay:
    """What is known of how far the servers are, and who waits for them.

    choose    (login, lsn) -> the standby whose turn it is, of those that have workers for that login and have
              replayed up to there; the primary when there is none
    is_on     reads see the writes before them: read_your_writes
    """

    def __init__(
        self, settings: Settings, primary: Pool, standbys: Sequence[Pool], ask: Ask,
        choose: Callable[[Login, int], Pool],
    ) -> None:  # fmt: skip
        self._settings = settings
        self._standbys = standbys
        self._read_settings()
        self._primary = primary
        self._ask = ask
        self._choose = choose
        self._marks: dict[str, Mark] = {}  # of databases
        self._waiting: deque[_Waiting] = deque()
        self._wake = Event()
        self._server: gevent.Greenlet | None = None
        self._due_at = inf  # when a question is to be asked that could not be yet
        self._late = 0  # as in freshness.may_hope
        self._unanswered: set[Pool] = set()  # who could not be asked, as the log has been told
        self._left_out: set[Pool] = set()  # the same of who is too far behind
        self._history = History(settings.max_lag)
        self._standings: dict[Pool, Standing] = {}
        self._look_at: dict[Pool, Event] = {}
        self._watchers: dict[Pool, gevent.Greenlet] = {}
        self._is_watching = False
        self._look_at_primary = Event()
        for pool in standbys:
            self.joined(pool)

    def __repr__(self) -> str:
        return f"<Replay waiting={len(self._waiting)} {self._primary.progress!r}>"

    def _read_settings(self) -> None:
        settings = self._settings
        self._mode = settings.read_your_writes
        self._is_wanted = self._mode != "off"
        self._is_for_all = self._mode == "all"
        self.is_on = self._is_wanted and bool(self._standbys)
        self._patience_s = min(settings.read_your_writes_timeout, settings.query_wait_timeout or inf)
        self._max_lag = settings.max_lag
        self._look_every_s = min(settings.lag_check_interval, settings.max_lag / 2)

    def settings_changed(self) -> bool:
        """A reload. Reads that wait do so no longer than was meant when they came.

        returns   whether marks are to be given out anew
        """
        mode, had_limit = self._mode, bool(self._max_lag)
        self._read_settings()
        self._history.keep_s = self._max_lag
        if had_limit != bool(self._max_lag):
            for pool in self._standbys:
                if self._max_lag:
                    self._begin_to_look(pool)
                else:
                    self._end_looking(pool)
        self._look_at_primary.set()
        for event in self._look_at.values():
            event.set()
        if mode != self._mode:
            self._marks.clear()
        return mode != self._mode

    @property
    def waiting(self) -> int:
        """How many reads wait for a standby."""
        return len(self._waiting)

    # --- writes ------------------------------------------------------------------------------------------------------

    def mark_for(self, database: str, may_use_standbys: bool) -> Mark | None:
        """What the writes of a frontend are noted on; None when nobody reads them on a standby."""
        if not self.is_on:
            return None
        if self._is_for_all:
            return self._marks.setdefault(database, Mark())
        return Mark() if may_use_standbys else None

    def wrote(self, mark: Mark, unit: Unit) -> None:
        """`unit`, which was answered or lost, may have written something."""
        worker = unit.worker
        if worker is not None and not worker.roster.pool.is_primary:
            return
        mark.wrote(self._primary.progress)
        if self._is_for_all and unit.verdict.ddl:  # roles and databases are seen in all databases
            for each in self._marks.values():
                each.wrote(self._primary.progress)

    # --- reads -------------------------------------------------------------------------------------------------------

    def find(self, unit: Unit, mark: Mark) -> Pool | None:
        """The server for a read that must see what is noted on `mark`; None when it has to wait, and is dispatched
        later."""
        login = unit.group.login
        lsn = mark.lsn = freshness.needed(mark.asked, mark.lsn, self._primary.progress)
        pool = self._choose(login, lsn or NEVER)
        if pool is self._primary:
            now = time.monotonic()
            if self._patience_s and self._may_hope(login, lsn, now):
                self._wait(_Waiting(unit, mark, now, self._patience_s), now)
                return None
        self._refresh(lsn)
        return pool

    def _wait(self, read: _Waiting, now: float) -> None:
        self._waiting.append(read)
        self._ask_for(read, now, freshness.pause(len(self._waiting)))
        if self._server is None:
            self._server = gevent.spawn(self._serve)
        else:
            self._wake.set()

    def _serve(self) -> None:
        while True:
            self._wake.wait(self._next_look_s())
            self._wake.clear()
            try:
                self._look(time.monotonic())
            except Exception:  # whatever it is, the others still wait
                log.exception("a read that waited for a standby could not be given to a worker")

    def _next_look_s(self) -> float | None:
        # Whatever is answered meanwhile wakes us.
        if not self._waiting:
            return None
        return max(0.0, min(self._due_at, self._waiting[0].deadline) - time.monotonic())

    def _look(self, now: float) -> None:
        """Dispatch those who need wait no more, and ask for the others."""
        waiting, self._waiting = self._waiting, deque()
        pause_s = freshness.pause(len(waiting), now - waiting[-1].since) if waiting else 0.0
        self._due_at = inf
        try:
            while waiting:
                read = waiting.popleft()
                if read.unit.is_wanted and not self._dispatch(read, now):
                    self._waiting.append(read)
                    self._ask_for(read, now, pause_s)
        finally:
            self._waiting.extend(waiting)

    def _dispatch(self, read: _Waiting, now: float) -> bool:
        """Give the read to the server that may have it now; False when there is none and it goes on waiting."""
        login, mark = read.unit.group.login, read.unit.frontend.mark
        read.lsn = freshness.needed(read.asked, read.lsn, self._primary.progress)
        if mark is not None and mark.asked == read.asked:
            mark.lsn = read.lsn
        pool = self._choose(login, read.lsn) if read.lsn else self._primary
        if pool is self._primary:
            if now < read.deadline and self._may_hope(login, read.lsn, now):
                return False
            if read.lsn and now >= read.deadline:
                self._late = max(self._late, read.lsn)
        pool.roster(login).dispatch(read.unit)
        return True

    def _may_hope(self, login: Login, lsn: int, now: float) -> bool:
        usable = [pool.progress for pool in self._standbys if pool.may_serve(login)]
        return freshness.may_hope(lsn, usable, self._primary.progress, self._late, now)

    # --- questions ---------------------------------------------------------------------------------------------------

    def _ask_for(self, read: _Waiting, now: float, pause_s: float) -> None:
        """Ask whoever `read` waits for, now or as soon as `pause_s` have passed since it was asked last."""
        if not read.lsn:
            pools = [self._primary]
        else:
            login = read.unit.group.login
            pools = [each for each in self._standbys if each.progress.lsn < read.lsn and each.may_serve(login)]
        for pool in pools:
            if not self._ask_server(pool, now, pause_s):
                due_at = pool.progress.due_at(pause_s)
                if due_at > now:
                    self._due_at = min(self._due_at, due_at)

    def _refresh(self, lsn: int) -> None:
        """Ask whoever might have had the read but for what is not known, for the next one."""
        if not lsn or self._late:  # where nobody comes as far, the primary may have lost what it has said
            self._ask_server(self._primary, time.monotonic(), _REFRESH_S)
        lsn = max(lsn, self._late)
        for pool in self._standbys:
            if pool.progress.lsn < lsn:
                self._ask_server(pool, time.monotonic(), _REFRESH_S)

    def _ask_server(self, pool: Pool, now: float, every_s: float) -> bool:
        if pool.is_down or not pool.progress.may_ask(now, every_s):
            return False
        gevent.spawn(self._question, pool, pool.progress, pool.progress.begin(now))
        return True

    def _question(self, pool: Pool, progress: Progress, number: int) -> None:
        # Of a server that has become something else meanwhile what it says is noted where nobody looks any more.
        try:
            lsn = self._lsn_of(pool)
        except PoolError as error:
            progress.fail(time.monotonic())
            self._failed(pool, error)
        else:
            progress.answer(number, lsn)
            self._answered(pool)
            reached = max((each.progress.lsn for each in self._standbys), default=0)
            if reached >= min(self._late, self._primary.progress.lsn):
                self._late = 0
        self._wake.set()

    def _lsn_of(self, pool: Pool) -> int:
        """The end of the primary's WAL, or what a standby has replayed.

        raises   PoolError
        """
        rows = self._ask(pool.address, None, WRITTEN_SQL if pool.is_primary else REPLAYED_SQL)
        if not rows or rows[0][0] is None:
            raise AdminQueryFailed(f"{pool.describe()} is no such server", detail="It is not in recovery.")
        return freshness.position(*rows[0])

    def _failed(self, pool: Pool, error: PoolError) -> None:
        if pool not in self._unanswered:
            self._unanswered.add(pool)
            log.warning("%s could not be asked how far it is: %s", pool.describe(), error)

    def _answered(self, pool: Pool) -> None:
        if pool in self._unanswered:
            self._unanswered.remove(pool)
            log.info("%s says again how far it is", pool.describe())

    # --- servers that come and go ------------------------------------------------------------------------------------

    def joined(self, pool: Pool) -> None:
        """It is one of the standbys now."""
        self.is_on = self._is_wanted
        if self._max_lag:
            self._begin_to_look(pool)

    def _begin_to_look(self, pool: Pool) -> None:
        self._standings[pool] = Standing()
        self._look_at[pool] = Event()
        pool.is_behind = True  # until it has been looked at
        if self._is_watching:
            self._watchers[pool] = gevent.spawn(self._watch, pool)

    def left(self, pool: Pool) -> None:
        """It is not any more."""
        self._end_looking(pool)

    def _end_looking(self, pool: Pool) -> None:
        self._standings.pop(pool, None)
        self._look_at.pop(pool, None)
        watcher = self._watchers.pop(pool, None)
        if watcher is not None:
            watcher.kill(block=False)
        for told in (self._unanswered, self._left_out):
            told.discard(pool)
        pool.is_behind = False

    def primary_changed(self, primary: Pool) -> None:
        """Another server is the primary. It is asked anew for what was written before: what the last one has said of
        the end of its WAL may be more than this one ever had."""
        primary.progress.begun = self._primary.progress.begun
        self._primary = primary
        self._history = History(self._max_lag)
        self._late = 0
        for pool in self._standbys:
            pool.progress.forget()
        self._wake.set()

    # --- standbys that are too far behind ----------------------------------------------------------------------------

    def watch(self) -> None:
        """Keep those left out that are further behind than max_lag, as long as the pool runs."""
        self._is_watching = True
        self._watchers = {pool: gevent.spawn(self._watch, pool) for pool in self._standings}
        try:
            self._watch_primary()
        finally:
            self._is_watching = False
            gevent.killall(list(self._watchers.values()))

    def _watch_primary(self) -> None:
        while True:
            if not self._max_lag:
                self._look_at_primary.wait()
                self._look_at_primary.clear()
                continue
            asked_at, primary = time.monotonic(), self._primary
            try:
                lsn = self._lsn_of(primary)
            except PoolError as error:
                self._history.failed(time.monotonic())
                self._failed(primary, error)
            else:
                if primary is not self._primary:
                    continue
                is_first = not self._history
                self._history.add(lsn, asked_at, time.monotonic())
                self._answered(primary)
                for event in self._look_at.values() if is_first else ():
                    event.set()
            self._look_at_primary.wait(self._look_every_s)
            self._look_at_primary.clear()

    def _watch(self, pool: Pool) -> None:
        standing, look_at = self._standings[pool], self._look_at[pool]
        while True:
            if not pool.is_down:
                asked_at = time.monotonic()
                why = ""
                try:
                    lsn = self._lsn_of(pool)
                except PoolError as error:
                    standing.failed(asked_at, self._max_lag)
                    why = f"it could not be asked how far it is: {error}"
                else:
                    standing.seen(lsn, asked_at, self._history, self._max_lag)
                pool.is_behind = not standing.is_in
                self._say(pool, standing, why)
            look_at.wait(self._look_every_s if standing.is_known else min(self._look_every_s, _IMPATIENT_S))
            look_at.clear()

    def _say(self, pool: Pool, standing: Standing, why: str) -> None:
        if standing.is_in and pool in self._left_out:
            self._left_out.remove(pool)
            log.info("%s is used again: it has caught up", pool.describe())
        elif not standing.is_in and standing.is_known and pool not in self._left_out:
            self._left_out.add(pool)
            behind = f"it is {standing.behind_s:.1f} s behind the primary, and max_lag is {self._max_lag:g} s"
            log.warning("%s is left out: %s", pool.describe(), why or behind)

    def behind_s(self, pool: Pool) -> float | None:
        """How many seconds a standby was behind, at least, when it was asked last; None where nobody looks."""
        standing = self._standings.get(pool)
        return standing.behind_s if standing is not None and standing.is_known else None

    def came_in(self, pool: Pool, was_away: bool) -> None:
        """A worker has logged in to a standby, which may have been restarted since it was asked how far it is; if it
        `was_away` it may have much to catch up."""
        pool.progress.forget()
        if was_away and pool in self._standings:
            self._standings[pool].forget()
            pool.is_behind = True
            self._look_at[pool].set()
