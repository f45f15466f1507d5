"""Which of a server's workers for one login has which unit, and which units wait for one.

Green. A login is what a backend is started with: user, database, and the few settings that only a startup packet can
set. Its frontends, in however many groups, share these workers. What goes where is decided in `dispatch`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

import gevent

from lib import modes
from lib.backend import dialogue, dispatch
from lib.backend.riders import SOME, Riders
from lib.backend.sizing import Sizing
from lib.backend.unit import Unit, Visit
from lib.backend.upkeep import Upkeep
from lib.backend.worker import Worker
from lib.route.known import TRIED_TOGETHER

if TYPE_CHECKING:
    from lib.backend.groups import Group, Login
    from lib.backend.pool import Pool

log = logging.getLogger(__name__)

_UNFIT_PATIENCE_S = 0.1  # how long the oldest is passed over by workers that may not serve it
_COSMETIC = frozenset({"application_name"})


class Roster(Sizing):
    """Workers, idle ones, and waiting units of one login on one server.

    answered_at   when a quick read was last answered, on any worker
    """

    def __init__(self, pool: Pool, login: Login) -> None:
        super().__init__(pool, login)
        self._read_settings()
        # Settings that no worker is tuned for, whoever has set them.
        self.cosmetic = _COSMETIC if not pool.settings.track_application_name else frozenset[str]()
        self.bare_group: Group = pool.cluster.group(login, ())
        self._easy_depth = 0  # up to which the first batch takes cheap reads, whatever else there is; 0: not known
        self.answered_at = -inf

    def __repr__(self) -> str:
        return (
            f"<Roster {self.describe()} workers={len(self.workers)} idle={len(self.idle)} "
            f"held={self.held} starting={self.starting} waiting={len(self.waiting)}>"
        )

    def _read_settings(self) -> None:
        settings = self.pool.settings
        mode = modes.mode_of(settings, self.user, self.database)
        rides = settings.riders and mode.pool_mode == modes.STATEMENT
        self.client_buffer: int = settings.client_buffer
        self.rider_depth: int = settings.rider_depth
        self.rider_limit = settings.rider_limit if rides else -1.0
        self._cheap_s = dispatch.CHEAP * self.rider_limit
        self.max_workers = mode.max_workers

    def settings_changed(self) -> None:
        """A reload: what is in flight goes on, and what waits is sorted anew."""
        self._read_settings()
        for worker in self.workers:
            worker.rider_limit = self.rider_limit
            worker.close_batch()
        waiting = self.waiting.drain()
        for unit in waiting:
            self.waiting.add(unit, self._is_quick(unit))
        self._offer()

    # --- units -------------------------------------------------------------------------------------------------------

    def dispatch(self, unit: Unit | Visit) -> None:
        """Give `unit` to a worker, or let it wait for one."""
        known = unit.known
        if known is None or known.cost_s > self.rider_limit or not isinstance(unit, Unit):
            alone = self.waiting.alone
            if alone and self.workers and not (self.idle or self.batches):
                unit.queued_at = now = time.monotonic()
                self._crowd.waits(now)
                alone.append(unit)  # behind others, for which all has been done that can be
            else:
                self._dispatch_alone(unit)
            return
        quick, batches, idle = self.waiting.quick, self.batches, self.idle
        if idle and not (batches or quick) and (unit.is_plain or not unit.uses):
            worker = idle[-1]
            if worker.group is unit.group and not worker.cancels:
                idle.pop()
                worker.begin_with(unit)  # what comes out below for a client that is alone
                return
        if quick and quick[-1].group is unit.group:
            unit.queued_at = time.monotonic()
            quick.append(unit)  # behind others, for which all has been done that can be
            return
        if batches and not quick:
            batch = batches[0]
            if (
                unit.is_plain and batch.open_to is unit.group and 1 < len(batch.in_flight) < self._easy_depth
                and known.cost_s <= self._cheap_s
            ):  # fmt: skip
                batch.ride(unit)  # what comes out below in nearly all cases
                return
            rivals = len(self.workers) - len(idle) - len(batches)  # that are busy with something alone
            self._easy_depth = dispatch.easy_depth(self.rider_depth, rivals)
            index = dispatch.pick_batch(
                batches, unit.group, known.cost_s, self.rider_depth, self.rider_limit, len(idle), rivals
            )
            if index >= 0:
                batch = batches[index]
                if unit.uses and not batch.takes(unit):
                    self._dispatch_alone(unit)
                elif len(batch.in_flight) > 1 or not batch.is_late(time.monotonic()):
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
        if not idle or self.waiting.alone:
            self._wait(unit)
            return
        # The last idle workers may have to be kept for reads.
        has_one = idle > dispatch.most_kept(len(self.workers)) or self._may_have_alone(idle)
        if not has_one or not self._give_idle(unit):
            self._wait(unit)

    def _may_have_alone(self, idle: int) -> bool:
        return dispatch.may_have_alone(idle, len(self.batches), self._kept())

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
                if unit.lead:  # that was for another backend
                    unit.lead, unit.swallow = (), 0
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
        if self.pool.is_held:
            worker.hold()
            return
        waiting = self.waiting
        if waiting.quick or waiting.alone:
            now = time.monotonic()
            if not (waiting.quick or worker.placeholders):
                unit = waiting.alone[0]
                if (
                    unit.is_plain and unit.group is worker.group and not unit.known.rides and unit.is_wanted
                    and self._may_have_alone(len(self.idle) + 1)
                ):  # fmt: skip
                    waiting.alone.popleft()
                    worker.is_awaited = False
                    self._waited(unit, now)
                    worker.begin_alone(unit)  # what comes out below when more clients write than there are workers
                    return
            # Whoever it was freed for has waited long enough.
            unit = waiting.next_for(
                worker.group, inf if worker.is_awaited else now, self._may_begin_batch(),
                self._may_have_alone(len(self.idle) + 1),
            )  # fmt: skip
            worker.is_awaited = False
            if unit is not None:
                if not worker.may_serve(unit.group):
                    waiting.put_back(unit, self._is_quick(unit))
                    self._unfit(worker, unit, now)
                    return
                if unit.group.placeholders and not unit.group.placeholders <= worker.placeholders:
                    unit = self._rather(worker, unit)
                self._put_on(worker, unit, now)
                return
        worker.is_awaited = False
        worker.idle_since = time.monotonic()
        self.idle.append(worker)

    def _rather(self, worker: Upkeep, unit: Unit | Visit) -> Unit | Visit:
        """What a free worker runs that would know custom settings for ever if it ran `unit`: that only when not enough
        others know some, or when there is nothing else."""
        if self._know_enough(unit.group.placeholders, unit):
            other = self._next_fitting(lambda group: group.placeholders <= worker.placeholders)
            if other is not None:
                self.waiting.put_back(unit, self._is_quick(unit))
                return other
        return unit

    def _unfit(self, worker: Upkeep, unit: Unit | Visit, now: float) -> None:
        """`worker` knows custom settings that `unit` must not see. Those who set them and those who do not each have
        their share of the workers; where `unit` has waited too long for one of its own there is one more, or this one
        makes room for it, and until that is there it goes on with what it is fit for."""
        has_fit = self._has_fit(unit)
        if now - unit.queued_at > _UNFIT_PATIENCE_S or not has_fit:
            if self.starting > self.relayed:
                pass  # that one will be fit
            elif self.has_room and self.shared < max(self.needed, self.max_workers) and now >= self._paused_until:
                self.grow()
            elif not has_fit or self._know_enough(worker.placeholders, unit, 1):
                worker.retire()
                return
        other = self._next_fitting(worker.may_serve)
        if other is not None:
            self._put_on(worker, other, now)
        else:
            worker.idle_since = now
            self.idle.append(worker)

    def _next_fitting(self, fits: Callable[[Group], bool]) -> Unit | Visit | None:
        return self.waiting.next_fitting(fits, self._may_begin_batch(), self._may_have_alone(len(self.idle) + 1))

    def _put_on(self, worker: Upkeep, unit: Unit | Visit, now: float) -> None:
        known = unit.known
        alike: list[Unit] = []
        if self.rider_limit > 0 and known is not None and worker.group is unit.group and known.may_be_tried(now):
            alike = self.waiting.take_like(unit, TRIED_TOGETHER - 1)
            if not all(worker.takes(other) for other in alike) or (isinstance(unit, Unit) and not worker.takes(unit)):
                for other in alike:
                    self.waiting.add(other, False)
                alike = []
        for each in (unit, *alike):
            self._waited(each, now)
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
        self._easy_depth = 0
        if self.cluster.is_watched:
            self.cluster.turns.start()

    def batch_ends(self, worker: Riders) -> None:
        self.batches.remove(worker)
        self._easy_depth = 0

    def became_quick(self) -> None:
        """A shape is quick now: what waits of it may ride."""
        if self.waiting.alone:
            self.waiting.sort(self._is_quick)
            self._offer()

    def fill(self, worker: Riders) -> None:
        """Have quick reads that wait ride on `worker`, as far as it takes them."""
        waiting, depth, in_flight = self.waiting, self.rider_depth, worker.in_flight
        is_counted = not worker.processed & SOME
        while len(in_flight) < depth and (group := worker.open_to) is not None:
            unit = waiting.next_rider(group)
            if unit is None:
                return
            if unit.known.cost_s <= self.rider_limit and worker.takes(unit):
                if is_counted:
                    self._waited(unit, time.monotonic(), SOME + 1)
                worker.ride(unit)
            else:
                waiting.add(unit, False)

    def _waited(self, unit: Unit | Visit, now: float, times: int = 1) -> None:
        """It has a worker now. Of those that ride behind others some are counted, for the others."""
        seconds = now - unit.queued_at
        known = unit.known
        wait = (self.tally.shared if known is not None and known.rides else self.tally.alone).wait
        if times == 1:
            wait.note(seconds)
        else:
            wait.add(seconds, times)
        if known is not None:
            known.wait_s += seconds * times

    # --- workers -----------------------------------------------------------------------------------------------------

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
        if self.pool.is_held:
            worker.hold()
        else:
            self.worker_idle(worker)
        return worker

    # --- what workers learn ------------------------------------------------------------------------------------------

    def group_seen(self, worker: Upkeep) -> None:
        """The ParameterStatus values of a worker are those of the group that it is tuned to."""
        worker.parameters_changed = False
        if self.pool.is_primary:
            parameters = worker.parameters
            if self.cosmetic:
                parameters = {name: value for name, value in parameters.items() if name not in self.cosmetic}
            worker.group.learn(parameters)
