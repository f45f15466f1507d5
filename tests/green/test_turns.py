"""What takes long lets others have their turn."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import pytest

from lib.turns import in_slices


def slow_items(count: int, made: list[int]) -> Iterator[int]:
    for number in range(count):
        until = time.monotonic() + 0.001
        while time.monotonic() < until:
            pass
        made.append(number)
        yield number


def test_others_have_their_turn_while_somebody_goes_through_many():
    made: list[int] = []
    seen: set[int] = set()

    def other() -> None:
        while True:
            seen.add(len(made))
            gevent.sleep(0.000001)

    thread = gevent.spawn(other)
    assert list(in_slices(slow_items(20, made))) == list(range(20))
    thread.kill()
    assert len(seen) > 3


def test_it_ends_when_nobody_wants_it_any_more_after_a_turn_of_the_others():
    made: list[int] = []

    def stop() -> None:
        raise EOFError

    with pytest.raises(EOFError):
        list(in_slices(slow_items(1000, made), stop))
    assert 0 < len(made) < 1000
