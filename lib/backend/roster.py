"""The workers of one server for one login, and the units that wait for one of them.

Green. A login is what a backend is started with: user, database, and the few settings that only a startup packet can
set. Its frontends, in however many groups, share these workers. How many there are is decided in `dispatch`.
"""

from __future__ import annotations

import logging
import time
from math import inf
from typing import TYPE_CHECKING

import gevent

from lib import modes
from lib.backend import dialogue, dispatch
from lib.backend.crowd import Crowd
from lib.backend.riders import Riders
from lib.backend.unit import Unit, Visit
from lib.backend.upkeep import Upkeep
from lib.backend.waiting import Waiting
from lib.backend.worker import State, Worker
from lib.errors import NoWorkerInTime, PoolError, ServerRefused
from lib.route.known import TRIED_TOGETHER
from lib.wire import messages

if TYPE_CHECKING:
    from lib.backend.cluster import Group, Login
    from lib.backend.pool import Pool

log = logging.getLogger(__name__)

_UNFIT_PATIENCE_S = 0.1  # how long the oldest is passed over by workers that may not serve it
_COSMETIC = frozenset({"application_name"})
_REFUSED_PAUSE_S = 2.0  # after the server had no place for one more, how long we make do with what we have


class Roster:
    """Workers, idle ones, and waiting units of one login on one server.

    idle           workers that anybody may have; the one used last is last
    batches        workers that take riders, the one that began first is first
    waiting        units and visits
    starting       workers that are logging in
    relayed        those of them whose frontend is asked by the server itself, and may take its time
    last_batch_at  when quick reads were last under way
    answered_at    when one of them was last answered, on any worker
    """

    def __init__(self, pool: Pool, login: Login) -> None:
        self.pool = pool
        self.cluster = pool.cluster
        self.login = login
        self.address = pool.address
        self.client_buffer = pool.settings.client_buffer
        self.rider_depth: int = pool.settings.rider_depth
        rule = modes.mode_of(pool.settings.pool_mode, pool.settings.pool_modes, login.user, login.database)
        rides = pool.settings.riders and rule.pool_mode == modes.STATEMENT
        self.rider_limit: float = pool.settings.rider_limit if rides else -1.0
        self.max_workers = pool.settings.max_workers if rule.max_workers is None else rule.max_workers
        # Settings that no worker is tuned for, whoever has set them.
        self.cosmetic = _COSMETIC if not pool.settings.track_application_name else frozenset[str]()
        self.bare_group: Group = pool.cluster.group(login, ())
        # Of a cleaned worker that knows custom settings: no frontend is in it, so it is asked whether it may serve.
        self.cleaned_group: Group = type(self.bare_group)(login, ())
        self.workers: list[Worker] = []
        self.idle: list[Upkeep] = []
        self.batches: list[Riders] = []
        self.waiting = Waiting()
        self.starting = self.relayed = 0
        self.is_closed = False
        # A server that may have been restarted may be further behind than when it was chosen.
        self._may_fall_back = not pool.is_primary and pool.cluster.replay.is_on
        self._crowd = Crowd()
        self.last_batch_at = self.answered_at = -inf
        self._reads = 0.0  # quick ones under way and waiting; a peak that wears off
        self._paused_until = 0.0
        self._retry_is_due = False
        self._last_was_fruitless = False  # the last worker that is gone was lost before it had answered anything

    def __repr__(self) -> str:
        return (
            f"<Roster {self.describe()} workers={len(self.workers)} idle={len(self.idle)} "
            f"held={self.held} starting={self.starting} waiting={len(self.waiting)}>"
        )

    def describe(self) -> str:
        return f"{self.login.user}@{self.login.database} on {self.pool.describe()}"

    # --- units -------------------------------------------------------------------------------------------------------

    def dispatch(self, unit: Unit | Visit) -> None:
        """Give `unit` to a worker, or let it wait for one."""
        known = unit.known
        if known is None or known.cost_s > self.rider_limit or not isinstance(unit, Unit):
            self._dispatch_alone(unit)
            return
        quick = self.waiting.quick
        if quick and quick[-1].group is unit.group:
            unit.queued_at = time.monotonic()
            quick.append(unit)  # behind others, for which all has been done that can be
            return
        batches = self.batches
        if batches and not quick:
            idle = len(self.idle)
            rivals = len(self.workers) - idle - len(batches)
            index = dispatch.pick_batch(
                batches, unit.group, known.cost_s, self.rider_depth, self.rider_limit, idle, rivals
            )
            if index >= 0:
                batch = batches[index]
                if len(batch.in_flight) > 1 or not batch.is_late(time.monotonic()):
                    batch.ride(unit)
                else:
                    batch.close_batch()  # nobody rode behind it, so nobody has looked at it
                    self.dispatch(unit)
                return
            if not dispatch.may_begin_batch(batches, unit.group, known.cost_s):
                self._wait(unit)
                return
        if quick or not self._give_idle(unit):
            self._wait(unit)

    def _dispatch_alone(self, unit: Unit | Visit) -> None:
        idle = len(self.idle)
        # The last idle workers may have to be kept for reads.
        has_one = idle > dispatch.most_kept(len(self.workers)) or self._may_have_alone(idle)
        if self.waiting.alone or not has_one or not self._give_idle(unit):
            self._wait(unit)

    def _may_have_alone(self, idle: int) -> bool:
        return dispatch.may_have_alone(idle, len(self.batches), self._kept())

    def _kept(self) -> int:
        if self.last_batch_at == -inf:
            return 0
        read_ago_s = time.monotonic() - self.last_batch_at
        return dispatch.kept_for_reads(self.shared - self.starting, self._reads, read_ago_s)

    def _give_idle(self, unit: Unit | Visit) -> bool:
        """Give `unit` to an idle worker; False when there is none that may have it."""
        idle = self.idle
        if not idle:
            return False
        worker = idle[-1]
        if worker.group is unit.group:
            idle.pop()
            worker.put(unit)
            return True
        index = dispatch.pick_worker(idle, unit.group)
        if index >= 0:
            idle.pop(index).put(unit)
            return True
        # All that are idle know custom settings of others. One more is started, or one in the place of another.
        if self.shared >= max(self.needed, self.max_workers):
            if self._has_fit(unit):
                return False  # it waits for that one, though not for ever
            idle[0].retire()
        self.grow()
        return False

    def _has_fit(self, unit: Unit | Visit) -> bool:
        return any(not worker.session and worker.may_serve(unit.group) for worker in self.workers)

    def _wait(self, unit: Unit | Visit) -> None:
        self._has_to_wait()
        now = unit.queued_at = time.monotonic()
        if not self.idle:
            self._crowd.waits(now)
        self.waiting.add(unit, self._is_quick(unit))
        self._make_room()
        if not self.workers and not self.starting:
            self.grow()

    def _has_to_wait(self) -> None:
        if not self.waiting:
            self.cluster.watch()

    def _is_quick(self, unit: Unit | Visit) -> bool:
        return unit.known is not None and unit.known.cost_s <= self.rider_limit

    def requeue(self, *units: Unit | Visit) -> None:
        """They were not run: they are the next to be, or, if this server is no longer in use, go to another."""
        wanted = [unit for unit in units if unit.is_wanted]
        for unit in wanted:
            if isinstance(unit, Unit):
                unit.worker = None
        if self.is_closed or self.pool.is_down or self._may_fall_back:
            for unit in wanted:
                self.cluster.dispatch(unit)
            return
        for unit in reversed(wanted):
            self._has_to_wait()
            unit.queued_at = unit.queued_at or time.monotonic()
            self.waiting.put_back(unit, self._is_quick(unit))
        self._offer()
        if self.waiting and not self.workers and not self.starting:
            self._replace()

    def _offer(self) -> None:
        """Give what waits to whoever can take it now."""
        now = time.monotonic()
        for worker in self.batches[:]:
            if worker.is_late(now):
                worker.close_batch()
            else:
                self.fill(worker)
        for worker in self.idle[:]:
            if self.waiting and worker in self.idle:
                self.idle.remove(worker)
                self.worker_idle(worker)
        self._make_room()

    def _make_room(self) -> None:
        """When something waits that cannot ride on any batch, the shortest batch ends for it."""
        waiting = self.waiting
        if not self.batches or self.idle:
            return
        needs_room = bool(waiting.alone)
        if not needs_room and waiting.quick:
            group = waiting.quick[0].group
            needs_room = all(worker.open_to is not group for worker in self.batches)
        index = dispatch.pick_to_drain(self.batches, self._kept()) if needs_room else -1
        if index >= 0:
            self.batches[index].is_awaited = True
            self.batches[index].close_batch()

    def worker_idle(self, worker: Upkeep) -> None:
        """A worker is free: the next unit is its, and what may ride behind it, or it waits for one."""
        waiting = self.waiting
        if waiting.quick or waiting.alone:
            now = time.monotonic()
            # Whoever it was freed for has waited long enough.
            unit = waiting.next_for(
                worker.group, inf if worker.is_awaited else now, self._may_begin_batch(),
                self._may_have_alone(len(self.idle) + 1),
            )  # fmt: skip
            worker.is_awaited = False
            if unit is not None:
                if worker.may_serve(unit.group):
                    self._put_on(worker, unit, now)
                else:
                    waiting.put_back(unit, self._is_quick(unit))
                    self._unfit(worker, unit, now)
                return
        worker.is_awaited = False
        worker.idle_since = time.monotonic()
        self.idle.append(worker)

    def _unfit(self, worker: Upkeep, unit: Unit | Visit, now: float) -> None:
        """`worker` knows custom settings that `unit` must not see. Where others are fit for it, those who set them and
        those who do not each have some workers: this one takes another unit, until the first has waited too long."""
        if now - unit.queued_at > _UNFIT_PATIENCE_S or not self._has_fit(unit):
            worker.retire()
            return
        other = self.waiting.next_fitting(
            worker.may_serve, self._may_begin_batch(), self._may_have_alone(len(self.idle) + 1)
        )
        if other is not None:
            self._put_on(worker, other, now)
        else:
            worker.idle_since = now
            self.idle.append(worker)

    def _put_on(self, worker: Upkeep, unit: Unit | Visit, now: float) -> None:
        known = unit.known
        alike: list[Unit] = []
        if self.rider_limit > 0 and known is not None and worker.group is unit.group and known.may_be_tried(now):
            alike = self.waiting.take_like(unit, TRIED_TOGETHER - 1)
        worker.put(unit)
        if alike and known is not None:
            worker.try_together(known, alike)
        else:
            self.fill(worker)

    # --- riders ------------------------------------------------------------------------------------------------------

    def _may_begin_batch(self) -> bool:
        """Whether the oldest quick read that waits may have a worker for itself, and those that ride behind it."""
        quick = self.waiting.quick
        return not quick or dispatch.may_begin_batch(self.batches, quick[0].group, quick[0].known.cost_s)

    @property
    def has_riders(self) -> bool:
        return any(len(worker.in_flight) > 1 for worker in self.workers)

    def batch_begins(self, worker: Riders) -> None:
        """Others may ride on `worker` now."""
        self.batches.append(worker)
        self.last_batch_at = worker.head_since

    def batch_ends(self, worker: Riders) -> None:
        self.batches.remove(worker)

    def became_quick(self) -> None:
        """A shape is quick now: what waits of it may ride."""
        if self.waiting.alone:
            self.waiting.sort(self._is_quick)
            self._offer()

    def fill(self, worker: Riders) -> None:
        """Have quick reads that wait ride on `worker`, as far as it takes them."""
        waiting, depth, in_flight = self.waiting, self.rider_depth, worker.in_flight
        while len(in_flight) < depth and (group := worker.open_to) is not None:
            unit = waiting.next_rider(group)
            if unit is None:
                return
            if unit.known.cost_s <= self.rider_limit:
                worker.ride(unit)
            else:
                waiting.add(unit, False)

    # --- workers -----------------------------------------------------------------------------------------------------

    @property
    def shared(self) -> int:
        """Workers that are not somebody's own for a session, those that are being started included."""
        return self.starting + sum(not worker.session for worker in self.workers)

    @property
    def held(self) -> int:
        """Workers that are somebody's own for a session."""
        return sum(worker.session for worker in self.workers)

    @property
    def needed(self) -> int:
        settings = self.pool.settings
        return dispatch.needed_workers(self.login.frontends, settings.worker_min_cnt, settings.worker_per_fe_cnt)

    def ensure(self) -> None:
        """Start what the formula says is missing, unless the server has just had no place or could not be reached."""
        if time.monotonic() < self._paused_until or self._retry_is_due or self.pool.is_down:
            return
        for _ in range(self.needed - self.shared):
            self.grow()

    def grow(self) -> None:
        """Start one worker, with what earlier logins have left to prove who we are."""
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

    def open_backend(self, answer: dialogue.Answer) -> dialogue.Backend:
        """Log in to the server with the bare packet; the pool hears how it went."""
        try:
            backend = dialogue.open_backend(
                self.address, self.login.startup, answer, self.pool.settings.connect_timeout, self.cluster.approach
            )
        except PoolError as error:
            self.pool.start_failed(error)
            raise
        self.pool.start_succeeded(backend)
        return backend

    def adopt(self, backend: dialogue.Backend) -> Worker:
        """Make a worker of a backend that has just logged in."""
        worker = Worker(self, self.pool.next_worker_number(), backend)
        self._paused_until = 0.0
        if self.is_closed:
            worker.close()
            return worker
        self.workers.append(worker)
        gevent.spawn(worker.run)
        self.group_seen(worker)
        self.worker_idle(worker)
        return worker

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
        if worker in self.idle:
            self.idle.remove(worker)
        if worker in self.workers:
            self.workers.remove(worker)
        self._last_was_fruitless = worker.is_lost and not worker.processed
        if worker.is_lost and self._may_fall_back:
            self.hand_over()
        if self.waiting and not self.is_closed and not self.workers and not self.starting:
            self._replace()

    # --- what workers learn ------------------------------------------------------------------------------------------

    def group_seen(self, worker: Upkeep) -> None:
        """The ParameterStatus values of a worker are those of the group that it is tuned to."""
        worker.parameters_changed = False
        if self.pool.is_primary:
            parameters = worker.parameters
            if self.cosmetic:
                parameters = {name: value for name, value in parameters.items() if name not in self.cosmetic}
            worker.group.learn(parameters)

    @property
    def customs(self) -> set[str]:
        """Names of custom settings that have been seen in the database."""
        return self.cluster.customs(self.login.database)

    def learn_customs(self, names: frozenset[str]) -> None:
        self.cluster.learn_customs(self.login.database, names)

    def catalog_changed(self) -> None:
        self.cluster.catalog_changed(self.login.database)

    # --- limits ------------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Keep every limit that is a matter of time."""
        settings = self.pool.settings
        if settings.query_wait_timeout:
            self._time_out(now - settings.query_wait_timeout)
        self._retire_oldest(now)
        self.look(now)
        reads = len(self.waiting.quick) + sum(len(batch.in_flight) for batch in self.batches)
        self._reads = max(reads, 0.9 * self._reads)
        if reads:
            self.last_batch_at = now
        if self.waiting and self.starting <= self.relayed:
            # The worker in the place of an unfit one could not be started, and what waits behind may well find it fit;
            # or the one that was kept for reads has not had any for a while.
            self._offer()
        if self._crowd.look(self._is_crowded(), now):
            self._grow_if_due(now)
            return
        for idle in self.idle[:]:
            shared, needed = self.shared, self.needed
            if dispatch.is_surplus(shared, needed, self.max_workers) or dispatch.may_shrink(
                shared, needed, now - idle.idle_since, settings.idle_timeout
            ):
                idle.retire()
        self.ensure()

    def look(self, now: float) -> None:
        """Keep the limits of what is in flight."""
        for worker in [worker for worker in self.workers if len(worker.in_flight) > 1]:
            worker.look(now)

    def _grow_if_due(self, now: float) -> None:
        settings, crowded_for = self.pool.settings, self._crowd.seconds
        # Nobody has to wait for a frontend that does not say who it is.
        shared = self.shared - (self.relayed if crowded_for >= settings.grow_after else 0)
        if now < self._paused_until or self._retry_is_due:
            return
        if dispatch.may_grow(shared, self.needed, self.max_workers, crowded_for, settings.grow_after):
            self._crowd.eased()
            self.grow()

    def _is_crowded(self) -> bool:
        """Whether one worker more would do some good at this moment."""
        waiting = self.waiting
        if waiting.alone or (waiting.quick and not self.idle):
            return True
        return not self.idle and not waiting.quick and self._could_spread()

    def _could_spread(self) -> bool:
        """Whether reads ride that would rather have a worker of their own: none that are cheap."""
        heads = [batch.in_flight[0] for batch in self.batches if len(batch.in_flight) > 1]
        known = heads[0].known if heads else None
        return known is not None and dispatch.would_spread(self.batches, known.cost_s, self.rider_limit)

    def _retire_oldest(self, now: float) -> None:
        # One at a time, or those that were started together would all be gone together.
        lifetime = self.pool.settings.server_lifetime
        for worker in self.workers:
            if lifetime and now - worker.started_at > lifetime and not worker.session and not worker.retiring:
                worker.retire()
                return

    def _time_out(self, before: float) -> None:
        for unit in self.waiting.queued_before(before):
            if unit.is_wanted:
                error = NoWorkerInTime(
                    "no worker became free within query_wait_timeout",
                    detail=f"{len(self.workers)} workers serve {self.describe()}.",
                    hint="Raise max_workers, or look for statements and transactions that take long.",
                )
                unit.refuse(messages.error_response(error))

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

    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state in (State.BUSY, State.HELD)]
