"""What the last minutes were like, a sample a second: what the page draws.

Pure.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

KEPT = 300  # samples


class Sample(NamedTuple):
    """One second.

    at        seconds since 1970
    queries   statements that were answered, per second
    run_ms    how long they took on average; None when that is not known, or there were none
    waiting   statements that waited for a worker at that moment
    busy      workers that had something to do
    """

    at: float
    queries: float
    run_ms: float | None
    waiting: int
    busy: int


class Totals(NamedTuple):
    """What is counted since the start: statements that were answered, and how long those took whose time was taken."""

    queries: int
    timed: int = 0
    run_s: float = 0.0


class History:
    """The last KEPT samples."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self._at = 0.0
        self._totals: Totals | None = None

    def __repr__(self) -> str:
        return f"<History samples={len(self.samples)}>"

    def add(self, at: float, totals: Totals, waiting: int, busy: int) -> None:
        """What is counted at a moment, which makes a sample with what was counted before."""
        before, passed_s = self._totals, at - self._at
        self._at, self._totals = at, totals
        if before is None or passed_s <= 0:
            return
        timed = totals.timed - before.timed
        run_ms = 1000 * (totals.run_s - before.run_s) / timed if timed > 0 else None
        queries = max(0, totals.queries - before.queries) / passed_s
        self.samples.append(Sample(at, queries, run_ms, waiting, busy))

    @property
    def columns(self) -> dict[str, list[float | None]]:
        """For JSON: a list for each field of a sample, oldest first."""
        digits = {"at": 0, "queries": 1, "run_ms": 3}
        return {
            name: [None if value is None else round(value, digits.get(name, 0)) for value in values]
            for name, values in zip(Sample._fields, zip(*self.samples, strict=True), strict=True)
        } if self.samples else {name: [] for name in Sample._fields}  # fmt: skip
