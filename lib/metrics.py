"""What is counted: the table of counters, and the objects that hold the counts.

Pure. A `Tally` is for one user and database on one server, and outlives its workers. What is read off what is there
anyway (workers, frontends, what waits) is not counted here but when somebody asks. Times are added up for a batch of
answers at a time where statements share a worker; those of the others are only noted, and counted many at a time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import NamedTuple

# Upper bounds in seconds; what takes longer is counted behind the last.
BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip


_MOST_NOTED = 255


class Histogram:
    """How many took how long.

    noted   seconds of single ones that are not counted yet. Who has very many of them appends here, and says `catch_up`
            from time to time
    """

    __slots__ = ("_counts", "_total", "noted")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = 0.0
        self.noted: list[float] = []

    def __repr__(self) -> str:
        return f"<Histogram {self.count} in {self.total:.3f} s>"

    @property
    def counts(self) -> list[int]:
        """For each of BOUNDS those that took no longer (and longer than the bound before), and those beyond."""
        self.catch_up()
        return self._counts

    @property
    def total(self) -> float:
        """Seconds of all."""
        self.catch_up()
        return self._total

    @property
    def count(self) -> int:
        return sum(self.counts)

    def add(self, seconds: float, times: int = 1) -> None:
        """So many took `seconds` each."""
        self._counts[bisect_left(BOUNDS, seconds)] += times
        self._total += seconds * times

    def note(self, seconds: float) -> None:
        """One took so long, which is counted later, together with others."""
        noted = self.noted
        noted.append(seconds)
        if len(noted) > _MOST_NOTED:
            self.catch_up()

    def catch_up(self) -> None:
        """Count what was noted."""
        for seconds in self.noted:
            self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._total += sum(self.noted)
        self.noted.clear()

    def quantile(self, part: float) -> float | None:
        """About how long `part` (0 to 1) of them took at most; None when there are none."""
        count = self.count
        if not count:
            return None
        wanted, seen, below = part * count, 0, 0.0
        for bound, here in zip(BOUNDS, self.counts, strict=False):
            if seen + here >= wanted:
                return below + (bound - below) * (wanted - seen) / here if here else bound
            seen, below = seen + here, bound
        return below


ROUTES = ("shared", "alone", "session")


class Times:
    """Of the statements that went one way.

    run    how long they took from being sent to being answered
    wait   how long those had to wait for a worker that had to
    """

    __slots__ = ("run", "wait")

    def __init__(self) -> None:
        self.run = Histogram()
        self.wait = Histogram()


class Tally:
    """Counts of one user and database on one server.

    processed   statements that workers have answered which are gone since; the others know their own
    in_blocks   of all that were answered, those that left a transaction open
    block_s     seconds that transaction blocks took, idle times in them included
    in_block_s  seconds that statements in them took
    shared      reads that may share a worker
    alone       statements that have a worker alone
    session     those of frontends that have one for their session (session mode)
    received    bytes from frontends that have left since
    sent        bytes to them
    errors      ErrorResponses that frontends were told, by SQLSTATE: the servers' and the pool's own
    """

    __slots__ = (
        "alone", "block_s", "errors", "in_block_s", "in_blocks", "processed", "received", "sent", "session", "shared",
    )  # fmt: skip

    def __init__(self) -> None:
        self.processed = self.in_blocks = self.received = self.sent = 0
        self.block_s = self.in_block_s = 0.0
        self.shared, self.alone, self.session = Times(), Times(), Times()
        self.errors: Counter[str] = Counter()

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been counted."""
        is_timed = any(times.run.total or times.wait.total for times in self.routes)
        return not (self.processed or self.received or self.sent or self.errors or is_timed)

    @property
    def routes(self) -> tuple[Times, Times, Times]:
        """Those of ROUTES."""
        return self.shared, self.alone, self.session

    @property
    def run_s(self) -> float:
        """How long all statements took."""
        return sum(times.run.total for times in self.routes)

    @property
    def timed(self) -> int:
        """How many statements that were."""
        return sum(times.run.count for times in self.routes)

    def __repr__(self) -> str:
        return f"<Tally {self.timed} in {self.run_s:.3f} s>"


class Key(NamedTuple):
    """Whose Tally it is. `pool` is the number of the pool; 0 for bytes, and for errors of the pool's own."""

    pool: int
    database: str
    user: str


class Tallies(dict[Key, Tally]):
    """All of them; one that is asked for is there."""

    def __missing__(self, key: Key) -> Tally:
        tally = self[key] = Tally()
        return tally

    def told(self, user: str, database: str, sqlstate: str) -> None:
        """A frontend was told of an error by the pool itself."""
        self[Key(0, database, user)].errors[sqlstate] += 1


class Counts(NamedTuple):
    """What a Tally comes to, with what is known by workers and frontends that are there.

    run_s, wait_s   how long all statements took, and how long they waited for a worker
    routes          the histograms of that, for each of ROUTES
    """

    queries: int
    transactions: int
    transaction_s: float
    run_s: float
    wait_s: float
    received: int
    sent: int
    errors: Counter[str]
    routes: tuple[Times, ...] = ()


class Metric(NamedTuple):
    """One row of the table: what `/metrics` tells.

    kind    counter or histogram
    field   of Counts; of a histogram, of Times
    """

    name: str
    kind: str
    field: str
    labels: tuple[str, ...]
    help: str


_WHO = ("pool", "database", "user")
_ROUTE = (*_WHO, "route")
TABLE: tuple[Metric, ...] = (
    Metric("transactions_total", "counter", "transactions", _WHO, "transactions that are over, single statements too"),
    Metric("transaction_seconds_total", "counter", "transaction_s", _WHO, "time in transactions, idle times included"),
    Metric("run_seconds", "histogram", "run", _ROUTE, "from when a statement was sent to a server until the answer"),
    Metric("wait_seconds", "histogram", "wait", _ROUTE, "how long statements waited for a worker, where they had to"),
    Metric("received_bytes_total", "counter", "received", _WHO, "bytes that clients have sent"),
    Metric("sent_bytes_total", "counter", "sent", _WHO, "bytes that clients were sent"),
    Metric("errors_total", "counter", "errors", (*_WHO, "sqlstate"), "errors that clients were told"),
)
