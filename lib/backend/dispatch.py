"""How many workers, which worker, which unit next.

Pure: functions of a snapshot and `now`. In this release one unit at a time is in flight on a worker; who may ride
behind whom will be decided here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    crowded_for_s   how long units have been waiting without a break because every worker was busy
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

    One that is tuned to the group, else the one used last: its caches are warm, and those that are not needed grow old
    enough to be retired.
    """
    choice = -1
    for index in range(len(idle) - 1, -1, -1):
        if idle[index].group is group:
            return index
        if choice < 0 and idle[index].may_serve(group):
            choice = index
    return choice


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
