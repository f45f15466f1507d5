"""The workers of a roster: how they are started, replaced and missed, and what all of them are told.

Green. How many there should be is decided in `dispatch`, and which of them has what in `Roster`, the only one that is
Staff. Who waits for them in vain is told so here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from itertools import islice
from typing import TYPE_CHECKING

import gevent

from lib.backend import dialogue, dispatch
from lib.backend.crew import Crew
from lib.backend.unit import Unit, Visit
from lib.backend.upkeep import Upkeep
from lib.backend.waiting import Waiting
from lib.backend.worker import State
from lib.errors import NoWorkerInTime, PoolError, ServerRefused
from lib.wire import messages

if TYPE_CHECKING:
    from lib.backend.groups import Login
    from lib.backend.pool import Pool
    from lib.backend.worker import Worker

_LOOKED_AT = 64  # how many of those that wait tell whether enough workers know custom settings
_STUCK_S = 1.0  # how long a unit waits for workers whose holders do not come to an end
_REFUSED_PAUSE_S = 2.0  # after the server had no place for one more, how long we make do with what we have


class Staff(Crew, ABC):
    """What a roster knows of its workers.

    workers     all of them, in the order in which they came
    idle        those that anybody may have; the one used last is last
    waiting     units and visits that want one
    relayed     of those that are starting those whose frontend is asked by the server itself, and may take its time
    """

    def __init__(self, pool: Pool, login: Login) -> None:
        super().__init__(pool, login.user, login.database)
        self.login = login
        self.workers: list[Worker] = []
        self.idle: list[Upkeep] = []
        self.waiting = Waiting()
        self.relayed = 0
        # A server that may have been restarted may be further behind than when it was chosen.
        self._may_fall_back = not pool.is_primary and pool.cluster.replay.is_on
        self._paused_until = 0.0
        self._retry_is_due = False
        self._last_was_fruitless = False  # the last worker that is gone was lost before it had answered anything

    @abstractmethod
    def adopt(self, backend: dialogue.Backend) -> Worker:
        """Make a worker of a backend that has just logged in."""

    @property
    def shared(self) -> int:
        """Workers that are not somebody's own for a session, those that are being started included."""
        return self.starting + sum(not worker.session for worker in self.workers)

    @property
    def held(self) -> int:
        """Workers that are somebody's own for a session."""
        return sum(worker.session for worker in self.workers)

    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state in (State.BUSY, State.HELD)]

    @property
    def is_used(self) -> bool:
        """Whether there are frontends that may need a worker."""
        return self.login.frontends > 0

    @property
    def is_empty(self) -> bool:
        return not (self.login.frontends or self.workers or self.starting or self.waiting)

    @property
    def needed(self) -> int:
        settings = self.pool.settings
        return dispatch.needed_workers(self.login.frontends, settings.worker_min_cnt, settings.worker_per_fe_cnt)

    def ensure(self) -> None:
        """Start what the formula says is missing, unless the server has just had no place or could not be reached."""
        if time.monotonic() < self._paused_until or self._retry_is_due or self.pool.is_down:
            return
        if self.cluster.pause.holds(self.login.database):
            return
        for _ in range(self.needed - self.shared):
            self.grow()

    @property
    def has_room(self) -> bool:
        """Whether max_user_connections and max_db_connections allow one worker more."""
        return self.pool.has_room(self.login.user, self.login.database, not (self.workers or self.starting))

    def grow(self) -> None:
        """Start one worker, with what earlier logins have left to prove who we are."""
        if self.pool.is_held:
            return  # what waits is looked at when that is over
        if not self.has_room:
            if not self.workers and not self.starting:
                self._retry_soon()
            return
        self.starting += 1
        gevent.spawn(self._start)

    def _start(self) -> None:
        try:
            backend = self.open_backend(self.cluster.answer_for(self.login))
        except PoolError as error:
            self.starting -= 1
            self._start_failed(error)
            return
        except BaseException:
            self.starting -= 1
            raise
        self.starting -= 1
        self.adopt(backend)

    def start(self, answer: dialogue.Answer) -> Worker:
        """Start one, and wait for it: counted meanwhile, as a roster that has none yet would be swept away."""
        self.starting += 1
        try:
            backend = self.open_backend(answer)
        finally:
            self.starting -= 1
        return self.adopt(backend)

    def open_backend(self, answer: dialogue.Answer) -> dialogue.Backend:
        """Log in to the server with the bare packet; the pool hears how it went."""
        return self.log_in(self.login, answer)

    def _start_failed(self, error: PoolError) -> None:
        if self.is_closed or self.pool.is_down:
            self.hand_over()
            return
        if not dialogue.is_transient(error) and not self.workers and not self.starting:
            self._paused_until = time.monotonic() + _REFUSED_PAUSE_S
            if self.pool.is_primary:
                self._refuse_all(error)
            else:
                self.hand_over()  # to the primary, which has let this login in
            return
        if self.workers:
            self._paused_until = time.monotonic() + _REFUSED_PAUSE_S
        else:
            self._retry_soon()

    def _replace(self) -> None:
        """Start a worker in the place of one that is gone: not at once when that was lost before it had answered
        anything, as what has ended it may end the next one, too."""
        if self._last_was_fruitless:
            self._retry_soon()
        else:
            self.grow()

    def _retry_soon(self) -> None:
        if not self._retry_is_due:
            self._retry_is_due = True
            gevent.spawn_later(self.pool.settings.login_retry, self._retry)

    def _retry(self) -> None:
        self._retry_is_due = False
        if self.waiting and not self.workers and not self.starting and not self.is_closed:
            self.grow()

    def _refuse_all(self, error: PoolError) -> None:
        raw = error.raw if isinstance(error, ServerRefused) else messages.error_response(error)
        for unit in self.waiting.drain():
            if unit.is_wanted:
                unit.refuse(raw)

    def hand_over(self) -> None:
        """The server is left out: what waits here goes elsewhere."""
        for unit in self.waiting.drain():
            if unit.is_wanted:
                self.cluster.dispatch(unit)

    def worker_gone(self, worker: Worker) -> None:
        worker.close_batch()
        self.tally.processed += worker.processed
        if worker in self.idle:
            self.idle.remove(worker)
        if worker in self.workers:
            self.workers.remove(worker)
        self._last_was_fruitless = worker.is_lost and not worker.processed
        if worker.is_lost and self.pool.is_primary:
            self.cluster.on_doubt()
        if worker.is_lost and self._may_fall_back:
            self.hand_over()
        if self.waiting and not self.is_closed and not self.workers and not self.starting:
            self._replace()

    # --- who knows custom settings ------------------------------------------------------------------------------------

    def _has_fit(self, unit: Unit | Visit) -> bool:
        """Whether a worker that may serve `unit` will be free before long."""
        return any(
            not worker.session and worker.may_serve(unit.group) and not _is_stuck(worker, unit)
            for worker in self.workers
        )

    def _know_enough(self, names: frozenset[str], unit: Unit | Visit, less: int = 0) -> bool:
        """Whether enough workers, less so many, know some of these custom settings and no others, for as many of those
        that wait as a worker may serve that knows all of them: whoever knows others has no use for it.

        unit   whose turn it is: workers that will not be free for it do not count
        """
        waiting = list(islice(self.waiting, _LOOKED_AT))
        knowing = [worker for worker in self.workers if worker.placeholders and worker.placeholders <= names]
        free = sum(not _is_stuck(worker, unit) for worker in knowing)
        if not free and names <= unit.group.placeholders:
            return False  # who would have to wait for them cannot be left to it
        wanting = sum(names <= each.group.placeholders for each in waiting)
        return dispatch.know_enough(free - less, len(self.workers), wanting, len(waiting))

    # --- who waits ---------------------------------------------------------------------------------------------------

    def _tell_waiting(self, before: float) -> None:
        """Say to those who have waited since `before` that they wait, once."""
        for unit in self.waiting:
            if unit.queued_at < before and isinstance(unit, Unit) and unit.is_wanted and not unit.is_told:
                unit.is_told = True
                unit.frontend.tell_waiting(f"{len(self.workers)} workers serve {self.describe()}.")

    def _time_out(self, before: float) -> None:
        for unit in self.waiting.queued_before(before):
            if unit.is_wanted:
                unit.refuse(messages.error_response(self._too_late()))
        if self.pool.is_held:
            for worker in self.workers[:]:
                parked = worker.parked(before)
                if parked is not None:
                    parked.frontend.withdraw(parked, self._too_late())

    def _too_late(self) -> NoWorkerInTime:
        if self.pool.is_held:
            return self.primary_is_held()
        return NoWorkerInTime(
            "no worker became free within query_wait_timeout",
            detail=f"{len(self.workers)} workers serve {self.describe()}.",
            hint="Raise max_workers, or look for statements and transactions that take long.",
        )

    # --- all of them -------------------------------------------------------------------------------------------------

    def _retire_oldest(self, now: float) -> None:
        # One at a time, or those that were started together would all be gone together.
        lifetime = self.pool.settings.server_lifetime
        for worker in self.workers:
            if lifetime and now - worker.started_at > lifetime and not worker.session and not worker.retiring:
                worker.retire()
                return

    def retire_all(self) -> None:
        """Every worker goes as soon as what it does is done: what they logged in with, or as, has changed."""
        for worker in self.workers[:]:
            worker.retire()

    def renew(self) -> None:
        """Every worker is cleaned before anybody else has it."""
        for worker in self.workers:
            worker.unclean = True
            worker.close_batch()
        idle, self.idle = self.idle, []
        for each in idle:
            each.reclaim()

    def close(self) -> None:
        """The server is no longer used: idle workers go now, others when they are done; what waits goes elsewhere."""
        self.is_closed = True
        self.hand_over()
        self.retire_all()

    # --- a primary that is doubted, or given up ----------------------------------------------------------------------

    def hold(self) -> None:
        """Nothing more is sent to the server: what comes waits, and what is in flight may still be answered."""
        self.idle.clear()
        for worker in self.workers[:]:
            worker.hold()

    def hold_gently(self) -> bool:
        """Begin nothing more; see Pool.hold_gently."""
        self.idle.clear()
        for worker in self.workers[:]:
            if worker.is_between:
                worker.hold()
            else:
                worker.close_batch()
        return self.starting <= self.relayed and all(worker.is_quiet for worker in self.workers)

    def release(self) -> None:
        """The server is trusted again."""
        for worker in self.workers[:]:
            worker.release()
        if self.waiting and not self.workers and not self.starting:
            self.grow()

    def abandon(self, reason: str) -> None:
        """The server is given up: nobody hears any more of what was in flight, and what waits goes elsewhere."""
        self.is_closed = True
        for worker in self.workers[:]:
            worker.close(reason)
        self.hand_over()


def _is_stuck(worker: Worker, unit: Unit | Visit) -> bool:
    """Whether somebody has had `worker` for all the time that `unit` has waited, which is long."""
    return time.monotonic() - unit.queued_at > _STUCK_S and worker.taken_at < unit.queued_at
