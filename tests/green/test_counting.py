"""Counters never go down, whoever leaves while they are looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from lib.counting import counted
from lib.metrics import Key, Tallies
from lib.presence import Presence
from lib.wire import messages

STARTUP = messages.Startup(messages.PROTOCOL_3_0, "app", "shop", ())
BYTES = Key(0, "shop", "app")


class Crowd:
    """Frontends that have sent 10 bytes each, and somebody who does something when the first of them is looked at."""

    def __init__(self, meanwhile: Callable[[Crowd], None]) -> None:
        self.tallies = Tallies()
        self.all_pools: list[Any] = []
        self.presences = {pid: self._presence(pid) for pid in range(4)}
        self._meanwhile: Callable[[Crowd], None] | None = meanwhile

    def _presence(self, pid: int) -> Presence:
        return Presence(SimpleNamespace(stream=Looked(self, pid)), STARTUP, "", None, time.time(), "")  # type: ignore[arg-type]

    def looked_at(self) -> None:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile(self)

    def leave(self, pid: int) -> None:
        self.tallies[BYTES].received += self.presences.pop(pid).frontend.stream.received

    def received(self) -> int:
        return counted(self, self)[BYTES].received  # type: ignore[arg-type]


class Looked:
    """A stream."""

    sent = 0

    def __init__(self, crowd: Crowd, pid: int) -> None:
        self._crowd = crowd

    @property
    def received(self) -> int:
        self._crowd.looked_at()
        return 10


def test_who_leaves_while_the_bytes_of_others_are_added_up_is_counted_once():
    """Counted where it had been and where it had left its bytes, its database had fewer of them the next time."""
    for pid in (0, 3):
        crowd = Crowd(lambda crowd, pid=pid: crowd.leave(pid))  # type: ignore[misc]
        assert crowd.received() == 40
        assert crowd.received() == 40


def test_who_comes_meanwhile_is_counted_the_next_time():
    crowd = Crowd(lambda crowd: crowd.presences.update({9: crowd._presence(9)}))
    assert crowd.received() == 40
    assert crowd.received() == 50
