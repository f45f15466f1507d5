"""Which lines of a log are said, and which are only counted because they have been said often enough.

Pure. The same line is said a few times within a while, and lines that differ only in what they name, a few more; the
rest is summed up when the while is over. A storm of failing logins is then a few lines, and so is what it costs.
"""

from __future__ import annotations

from typing import NamedTuple

WHILE_S = 10.0
SAME = 5  # equal lines that are said within a while
ALIKE = 50  # lines of one kind


class Sum(NamedTuple):
    """Lines that were not said: how many, of which level, and the last of them."""

    level: int
    text: str
    times: int

    def __str__(self) -> str:
        return f"{self.text} ({self.times} more like this within {WHILE_S:g} s)"


class _Said:
    __slots__ = ("kept", "level", "said", "since", "text")

    def __init__(self, since: float) -> None:
        self.since = since
        self.said = self.kept = self.level = 0
        self.text = ""


class Summing:
    """What was said in the last while."""

    def __init__(self) -> None:
        self._same: dict[object, _Said] = {}
        self._alike: dict[object, _Said] = {}

    def __repr__(self) -> str:
        return f"<Summing kinds={len(self._alike)}>"

    def may_say(self, now: float, kind: str, level: int, text: str) -> bool:
        """Whether a line is to be said; else it is counted.

        kind   the line without what it names
        """
        for known, key, most in ((self._same, (kind, text), SAME), (self._alike, kind, ALIKE)):
            said = known.get(key)
            if said is None:
                said = known[key] = _Said(now)
            if said.said >= most:
                said.kept += 1
                said.level, said.text = max(said.level, level), text
                return False
            said.said += 1
        return True

    def due(self, now: float) -> list[Sum]:
        """The sums of whiles that are over; then all is said anew."""
        sums = []
        for known in (self._same, self._alike):
            for key in [key for key, said in known.items() if now - said.since >= WHILE_S]:
                said = known.pop(key)
                if said.kept:
                    sums.append(Sum(said.level, said.text, said.kept))
        return sums
