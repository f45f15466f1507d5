"""How many workers, which worker, which unit next, and who may ride behind whom.

Pure: functions of a snapshot and `now`.

Riders: only quick reads share a worker, and they fill few workers before the next is used, as long batches cost least;
but where a statement takes so long that a system call more does not matter, idle workers are used first. Nothing rides
behind a head that has been running for CLOSED_AFTER_S; after MOVED_AFTER_S its riders are run elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

CLOSED_AFTER_S = 0.01
MOVED_AFTER_S = 0.1
CHEAP = 0.3  # part of the rider limit up to which riding is better than an idle worker
_RIVALS, _SHALLOW = 3, 6  # for so many rivals one batch more, and until there are those none is deeper than that
_FEW = 4
_TWO, _DEEP = 2, 32  # there are at least so many batches before one of them gets deeper than that
_RELAYED_PER_S = 60_000  # statements that one process relays at most, about
_KEPT_FOR_READS_S = 1.0  # after the last quick read
_MIN_WORKERS_TO_KEEP_ONE = 4

_LOOK_AHEAD = 16  # how many waiting units are looked at for one that needs no re-tuning
_PATIENCE_S = 0.01  # how long the oldest may be passed over for such a one


def needed_workers(frontends: int, worker_min_cnt: Sequence[int], worker_per_fe_cnt: int) -> int:
    """The specification's formula: how many workers a user and database has with so many frontends.

    worker_min_cnt      the value at idx is for idx + 1 frontends
    worker_per_fe_cnt   beyond that list, one worker for each so many frontends (rounded up)
    """
    if frontends == 0:
        return 0
    if frontends <= len(worker_min_cnt):
        return worker_min_cnt[frontends - 1]
    return -(-frontends // worker_per_fe_cnt)


def may_grow(workers: int, needed: int, max_workers: int, crowded_for_s: float, grow_after_s: float) -> bool:
    """Whether to start a worker now.

    workers         shared ones, those being started included; those held for a session are not counted
    needed          by the formula
    max_workers     beyond the formula only up to here; 0: the formula alone
    crowded_for_s   how long units have had to wait because every worker was busy
    """
    return workers < needed or (workers < max_workers and crowded_for_s >= grow_after_s)


def may_shrink(workers: int, needed: int, idle_for_s: float, idle_timeout_s: float) -> bool:
    """Whether an idle worker goes: it had nothing to do for idle_timeout_s (0: never) and the formula can spare it."""
    return bool(idle_timeout_s) and idle_for_s >= idle_timeout_s and workers > needed


def is_surplus(workers: int, needed: int, max_workers: int) -> bool:
    """Whether there are more than the pool would start: those that sessions have given back."""
    return bool(max_workers) and workers > max(needed, max_workers)


def pick_worker(idle: Sequence[Any], group: object) -> int:
    """The index in `idle` (the one used last is last) of the worker to take, or -1 when none may serve `group`.

    One that is tuned to the group, else one that knows custom settings, as not everybody may have that, else the one
    used last: its caches are warm, and those that are not needed grow old enough to be retired.
    """
    choice, choice_knows = -1, False
    for index in range(len(idle) - 1, -1, -1):
        worker = idle[index]
        if worker.group is group:
            return index
        knows = bool(worker.placeholders)
        if (choice < 0 or (knows and not choice_knows)) and worker.may_serve(group):
            choice, choice_knows = index, knows
    return choice


def know_enough(knowing: int, workers: int, wanting: int, waiting: int) -> bool:
    """Whether those who set custom settings have their share of the workers: of those, as many know some as there are
    units among the waiting that want to. (Who does not set any must not see them, and has only the others.)"""
    return knowing * waiting >= wanting * workers


def pick_unit(waiting: Sequence[Any], group: object, now: float) -> int:
    """The index in `waiting` (oldest first) of the unit that a worker tuned to `group` takes next.

    The oldest, unless one close behind it needs no re-tuning and the oldest has not waited long.
    """
    oldest = waiting[0]
    if oldest.group is group or now - oldest.queued_at > _PATIENCE_S:
        return 0
    for index in range(1, min(len(waiting), _LOOK_AHEAD)):
        if waiting[index].group is group:
            return index
    return 0


def pick_batch(
    batches: Sequence[Any], group: object, cost_s: float, depth: int, limit_s: float, idle: int, rivals: int
) -> int:
    """The index in `batches` (workers that take riders, the one used first is first) of the one to ride on, or -1.

    cost_s     how long such a read takes
    depth      how many may be in flight on a worker
    limit_s    rider_limit
    idle       idle workers that may be used instead
    rivals     workers that are busy with something alone

    The first that has room; but before batches get deep there are as many as can answer what one process can relay. A
    read that is not cheap goes to an idle worker rather than behind others, and where there is none to the worker where
    the fewest are ahead of it. Rivals get each its share of the server's processors, and one worker with all the reads
    would get only one: so the more of them, the more workers for reads.
    """
    is_cheap = cost_s <= CHEAP * limit_s
    if idle:
        if not is_cheap:
            return -1
        if len(batches) < rivals // _RIVALS:
            depth = min(depth, _SHALLOW)
        elif len(batches) < max(_TWO, cost_s * _RELAYED_PER_S):
            depth = min(depth, _DEEP)
    elif not is_cheap:
        depth = min(depth, _DEEP)
    choice = -1
    for index, batch in enumerate(batches):
        ahead = len(batch.in_flight)
        if batch.open_to is group and ahead < depth:
            if is_cheap and ahead < _DEEP:
                return index
            if choice < 0 or ahead < len(batches[choice].in_flight):
                choice = index
    return choice


def easy_depth(depth: int, rivals: int) -> int:
    """Up to how many in flight `pick_batch` takes the first batch for a cheap read, whatever else there is."""
    return min(depth, _SHALLOW if rivals >= _RIVALS else _DEEP)


def may_begin_batch(batches: Sequence[Any], group: object, cost_s: float) -> bool:
    """Whether one more worker takes quick reads of `group`, or they rather wait for room on those that do.

    A few, and then as many as can answer what one process can relay: more backends at a time would only get in one
    another's way, and the longer every statement takes for that, the more of them there would be.
    """
    if len(batches) < _FEW:
        return True
    return [batch.open_to for batch in batches].count(group) < max(_FEW, cost_s * _RELAYED_PER_S)


def would_spread(batches: Sequence[Any], cost_s: float, limit_s: float) -> bool:
    """Whether reads that ride, as there is no idle worker, would use one more: when they are not cheap, and not so many
    are answered already that one process could not relay more."""
    return cost_s > CHEAP * limit_s and len(batches) < cost_s * _RELAYED_PER_S


def most_kept(workers: int) -> int:
    """How many of so many workers are kept for quick reads at most."""
    return max(1, workers // 4)


def kept_for_reads(workers: int, reads: float, read_ago_s: float) -> int:
    """How many workers are kept for quick reads: writers that wait for one another's locks would else stop all reading.

    workers      shared ones in all; of very few even one would be too much
    reads        quick ones that are under way or wait, lately
    read_ago_s   since the last batch of them began
    """
    if workers < _MIN_WORKERS_TO_KEEP_ONE or read_ago_s > _KEPT_FOR_READS_S:
        return 0
    return min(ceil(max(1.0, reads) / _SHALLOW), most_kept(workers))


def may_have_alone(idle: int, batches: int, kept: int) -> bool:
    """Whether one of the idle workers may be given to what wants it alone, when so many take riders, and so many are
    kept for quick reads."""
    return idle > 0 and idle + batches > kept


def pick_to_drain(batches: Sequence[Any], kept: int) -> int:
    """The index in `batches` of the worker that takes no more riders, because something waits for a worker alone; -1
    when all of them are kept."""
    if len(batches) <= kept:
        return -1
    return min(range(len(batches)), key=lambda index: len(batches[index].in_flight))
