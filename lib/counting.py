"""What all that is counted comes to at this moment: tallies, with what workers and frontends know by themselves.

Green by what it points to; it changes nothing, and lets others have their turn while it looks at many frontends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lib.metrics import Counts, Key, Tally
from lib.turns import in_slices

if TYPE_CHECKING:
    from lib.arrival import Arrivals
    from lib.backend.cluster import Cluster


def queries(cluster: Cluster) -> Counter[Key]:
    """Statements that were answered since the start, by pool, database and user: those of workers that are there, and
    of those that have gone, which leave their number behind."""
    found: Counter[Key] = Counter()
    for pool in cluster.all_pools:
        for crew in pool.all_crews:
            found[Key(pool.number, crew.database, crew.user)] += sum(each.processed for each in crew.workers)
    for key, tally in cluster.tallies.items():
        found[key] += tally.processed
    return found


def counted(cluster: Cluster, arrivals: Arrivals) -> dict[Key, Counts]:
    """By pool, database and user; pool 0 has the bytes, and the errors that the pool itself has told.

    None of it is ever less than it was before. So what has been left behind is read at the same moment as who is still
    there: whoever leaves while frontends are looked at would be counted twice, and once the next time.
    """
    answered = queries(cluster)
    before = {
        key: (tally.received, tally.sent, max(0, answered[key] - tally.in_blocks), transaction_s(tally))
        for key, tally in cluster.tallies.items()
    }
    received: Counter[Key] = Counter()
    sent: Counter[Key] = Counter()
    for presence in in_slices(list(arrivals.presences.values())):
        key = Key(0, presence.startup.database, presence.startup.user)
        received[key] += presence.frontend.stream.received
        sent[key] += presence.frontend.stream.sent
    found = {}
    for key in dict.fromkeys((*before, *received)):
        tally = cluster.tallies[key]
        if tally.is_empty and not (answered[key] or received[key]):
            continue  # of somebody who could not log in, perhaps
        received_before, sent_before, transactions, seconds = before.get(key, (0, 0, 0, 0.0))
        found[key] = Counts(
            answered[key], transactions, seconds, tally.run_s, sum(times.wait.total for times in tally.routes),
            received_before + received[key], sent_before + sent[key], tally.errors, tally.routes,
        )  # fmt: skip
    return found


def transaction_s(tally: Tally) -> float:
    """Seconds that transactions took: statements by themselves, and whole blocks."""
    return tally.run_s - tally.in_block_s + tally.block_s


def by_database(counts: dict[Key, Counts]) -> dict[str, Counts]:
    """The sums of each database."""
    found: dict[str, list[Counts]] = {}
    for key, each in counts.items():
        found.setdefault(key.database, []).append(each)
    return {database: total(each) for database, each in found.items()}


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of some."""
    those = list(counts)
    errors: Counter[str] = Counter()
    for each in those:
        errors.update(each.errors)
    return Counts(
        sum(each.queries for each in those), sum(each.transactions for each in those),
        sum(each.transaction_s for each in those), sum(each.run_s for each in those),
        sum(each.wait_s for each in those), sum(each.received for each in those), sum(each.sent for each in those),
        errors,
    )  # fmt: skip
