"""Turns of the loop: how what takes long lets others have theirs, and when one ends.

Green. What goes through all frontends, or makes many rows, does it in slices. Who measures how long a server takes asks
here whether it was the server or this process that took the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import gevent
from gevent import get_hub

_SLICE_S = 0.001  # how long something is done before others have their turn
_TURN_S = 0.000001  # for one turn of the loop: a sleep of 0 would only be one of its callbacks
_WAITED_S = 0.00002  # what a look at the sockets takes when there is something at once


T = TypeVar("T")


def give_way() -> None:
    """Let everybody else have a turn."""
    gevent.sleep(_TURN_S)


def in_slices(items: Iterable[T], between: Callable[[], None] = lambda: None) -> Iterator[T]:
    """One after the other, with others having their turn in between; what they may change has to be a copy.

    between   called when it goes on after such a turn; what it raises ends all
    """
    ends_at = time.monotonic() + _SLICE_S
    for item in items:
        yield item
        if time.monotonic() > ends_at:
            give_way()
            between()
            ends_at = time.monotonic() + _SLICE_S


def give_way_in_time(ends_at: float) -> float:
    """For a loop that calls it now and then: let others have their turn when it has run for long enough.

    ends_at   what the last call has returned; 0 at first
    """
    now = time.monotonic()
    if ends_at and now < ends_at:
        return ends_at
    if ends_at:
        give_way()
        now = time.monotonic()
    return now + _SLICE_S


class Turns:
    """Tells bytes that have just arrived from those that have lain in the kernel while this process was busy."""

    def __init__(self) -> None:
        self._loop = get_hub().loop
        # After gevent's own, which runs the callbacks: what they do is not waiting.
        self._watcher = self._loop.prepare(priority=self._loop.MINPRI)
        self._ended_at = 0.0  # when all was done, and the loop went to see what there is next
        self._is_started = False

    def start(self) -> None:
        if not self._is_started:
            self._is_started = True
            self._watcher.start(self._ends)

    def stop(self) -> None:
        if self._is_started:
            self._is_started = False
            self._watcher.stop()
            self._ended_at = 0.0

    def _ends(self) -> None:
        self._ended_at = time.time()

    def had_to_wait(self) -> bool:
        """Whether the loop was waiting when what it now deals with arrived. Always, while this is not started."""
        return self._loop.now() - self._ended_at > _WAITED_S
